"""Metrics against closed forms and scikit-free definitions."""

import math

import pytest
import torch

from engine.metrics import correlation, psnr, sharpness, shift, ssim


def texture(seed: int, height: int = 64, width: int = 96) -> torch.Tensor:
    rough = torch.randn(1, 3, height // 4, width // 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(rough, size=(height, width), mode="bicubic").clamp(-1, 1)


def test_psnr_of_a_constant_error():
    a = torch.zeros(2, 3, 8, 8)
    assert psnr(a, a + 0.2).tolist() == pytest.approx([20.0, 20.0], abs=1e-4)


def test_ssim_is_one_for_equal_pictures_and_follows_its_formula_for_flat_ones():
    a = texture(0)
    assert ssim(a, a).item() == pytest.approx(1.0, abs=1e-5)
    x, y = 0.5, -0.25
    flat = ssim(torch.full_like(a, x), torch.full_like(a, y)).item()
    assert flat == pytest.approx((2 * x * y + 0.0004) / (x * x + y * y + 0.0004), abs=1e-3)


def test_sharpness_of_a_checkerboard():
    y, x = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    board = (1.0 - 2.0 * ((x + y) % 2)).expand(3, 8, 8)
    assert sharpness(board).item() == pytest.approx(8.0)


@pytest.mark.parametrize("pixels", [-7, 0, 3, 12])
def test_shift_finds_a_whole_roll(pixels):
    a = texture(1)
    assert shift(a, a.roll(pixels, dims=-1)).item() == pytest.approx(pixels, abs=0.5)


def test_correlation_matches_the_definition():
    a = torch.linspace(0, 2 * math.pi, 100)
    assert correlation(a.sin(), 3 * a.sin() + 1) == pytest.approx(1.0)
    assert abs(correlation(a.sin()[:-1], a.cos()[:-1])) < 1e-6
