"""Flights over photographs and textures."""

from __future__ import annotations

import pytest
import torch

from engine.train.pictures import (
    HEIGHT,
    HELD_OUT_PHOTOS,
    PHOTOS,
    WIDTH,
    bank,
    fly_over,
    framed,
    held_out_photographs,
    photographs,
    texture,
)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_held_out_photographs_are_never_in_the_bank() -> None:
    pytest.importorskip("skimage")
    found = photographs()
    assert "astronaut" in found
    assert not {name for name, _ in PHOTOS} & set(HELD_OUT_PHOTOS)
    crops = sum(count for name, count in PHOTOS if name in found)
    assert bank(1, generator=_generator()).shape == (crops + 1, 3, HEIGHT, WIDTH)
    held = held_out_photographs(160, 256)
    assert held.shape == (sum(name in found for name in HELD_OUT_PHOTOS), 3, 160, 256)


def test_a_window_of_a_picture_keeps_its_shape() -> None:
    ramp = torch.arange(100).repeat(3, 60, 1).to(torch.uint8)  # [3, 60, 100], brighter to the right
    left, right = (framed(ramp, height=30, width=30, left=at).float() for at in (0, 1))
    assert left.shape == (3, 30, 30)
    # 60 columns of 100, two to a pixel: their means
    torch.testing.assert_close(left[0, 0], torch.arange(30) * 2.0 + 0.5, atol=0.51, rtol=0)
    torch.testing.assert_close(right - left, torch.full_like(left, 40), atol=1.01, rtol=0)


@pytest.mark.parametrize("index", range(6))
def test_textures_have_contrast_and_repeat_by_seed(index: int) -> None:
    drawn = texture(index, generator=_generator(index))
    assert drawn.shape == (3, HEIGHT, WIDTH)
    assert drawn.float().std(dim=(1, 2)).max() > 4
    assert torch.equal(drawn, texture(index, generator=_generator(index)))


def test_a_flight_moves_smoothly_over_its_picture() -> None:
    y, x = torch.meshgrid(torch.linspace(0, 255, 96), torch.linspace(0, 255, 160), indexing="ij")
    picture = torch.stack((x, y, 255 - x)).to(torch.uint8)[None]
    clips = fly_over(picture, count=12, frames=17, height=32, width=48, generator=_generator())
    assert clips.shape == (12, 17, 3, 32, 48)
    assert clips.abs().max() <= 1
    step = (clips[:, 1:] - clips[:, :-1]).abs().mean(dim=(1, 2, 3, 4))
    assert (step > 1e-3).sum() >= 6  # most of them move
    # over a ramp of 2/160 a pixel no smooth flight changes a pixel by more than a few of them a frame
    assert step.max() < 8 * 2 / 160


def test_flights_are_a_function_of_the_generator() -> None:
    pictures = torch.randint(256, (4, 3, 64, 96), dtype=torch.uint8, generator=_generator())
    a, b = (fly_over(pictures, count=3, frames=9, height=16, width=24, generator=_generator(5)) for _ in "ab")
    assert torch.equal(a, b)


def test_a_plain_picture_stays_plain() -> None:
    grey = torch.full((1, 3, 64, 96), 100, dtype=torch.uint8)
    clips = fly_over(grey, count=4, frames=3, height=16, width=24, generator=_generator())
    torch.testing.assert_close(clips, clips[:, :1, :, :1, :1].expand_as(clips), atol=1e-6, rtol=0)
