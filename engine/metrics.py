"""Truth against generated, frame by frame: PSNR, SSIM, sharpness, and the turn that a video shows. Pure."""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of pictures in [-1, 1]. a, b: [..., 3, Y, X]. Returns [...], at most 100."""
    mse = ((a - b).float() / 2).square().mean(dim=(-3, -2, -1))
    return -10 * torch.log10(mse.clamp_min(1e-10))


def ssim(a: Tensor, b: Tensor, *, window: int = 11) -> Tensor:
    """Structural similarity with a uniform window, per channel, then averaged.

    a, b: [N, 3, Y, X] in [-1, 1]. Returns [N]. Source: Wang et al. 2004, eq. 13, K1 = 0.01, K2 = 0.03, range 2.
    """
    a, b = a.float(), b.float()
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    mean = partial(F.avg_pool2d, kernel_size=window, stride=1)
    n = window * window
    unbias = n / (n - 1)
    ma, mb = mean(a), mean(b)
    va, vb, vab = (
        unbias * (mean(a * a) - ma * ma),
        unbias * (mean(b * b) - mb * mb),
        unbias * (mean(a * b) - ma * mb),
    )
    score = (2 * ma * mb + c1) * (2 * vab + c2) / ((ma * ma + mb * mb + c1) * (va + vb + c2))
    return score.mean(dim=(1, 2, 3))


def sharpness(a: Tensor) -> Tensor:
    """Mean absolute Laplacian of the grey picture. a: [..., 3, Y, X]. Returns [...]."""
    grey = a.float().mean(dim=-3)
    inner = grey[..., 1:-1, 1:-1]
    around = grey[..., :-2, 1:-1] + grey[..., 2:, 1:-1] + grey[..., 1:-1, :-2] + grey[..., 1:-1, 2:]
    return (4 * inner - around).abs().mean(dim=(-2, -1))


def shift(a: Tensor, b: Tensor, *, rows: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """Horizontal movement of the picture from a to b in pixels, by phase correlation with a parabola through the peak.

    a, b: [N, 3, Y, X]. Positive: the content moved right. Returns [N].
    Source: Kuglin and Hines 1975; sub-pixel peak by a parabola through three samples.
    """
    top, bottom = (math.floor(r * a.shape[-2]) for r in rows)
    ga, gb = (x[..., top:bottom, :].float().mean(dim=-3) for x in (a, b))
    height, width = ga.shape[-2:]
    window = torch.outer(
        torch.hann_window(height, periodic=False), torch.hann_window(width, periodic=False)
    ).to(ga.device)
    sa, sb = (torch.fft.rfft2((x - x.mean(dim=(-2, -1), keepdim=True)) * window) for x in (ga, gb))
    cross = sb * sa.conj()
    surface = torch.fft.irfft2(cross / cross.abs().clamp_min(1e-9), s=(height, width))
    near = torch.cat(
        [surface[..., -3:, :], surface[..., :4, :]], dim=-2
    )  # vertical movement of up to 3 pixels
    row = near.amax(dim=-2)
    peak = row.argmax(dim=-1, keepdim=True)
    left, centre, right = (row.gather(-1, (peak + d) % width).squeeze(-1) for d in (-1, 0, 1))
    bend = left - 2 * centre + right
    offset = torch.where(
        bend.abs() > 1e-12, 0.5 * (left - right) / bend.where(bend.abs() > 1e-12, bend.new_ones(())), 0.0
    )
    whole = peak.squeeze(-1)
    return torch.where(whole > width // 2, whole - width, whole) + offset.clamp(-0.5, 0.5)


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson correlation of two samples of equal length."""
    a, b = a.double().flatten() - a.double().mean(), b.double().flatten() - b.double().mean()
    return float((a * b).sum() / (a.norm() * b.norm()).clamp_min(1e-12))
