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


def shift(a: Tensor, b: Tensor, *, reach: int = 48, blur: float = 2.0) -> Tensor:
    """Horizontal movement of the picture from a to b in pixels, by phase correlation with a parabola through the peak.

    a, b: [N, 3, Y, X]. Positive: the content moved right. Returns [N], within ±reach.
    blur: pixels; a Gaussian of this width on the correlation, because fine detail is where soft pictures hold only
    noise. Source: Kuglin and Hines 1975; sub-pixel peak by a parabola through three samples.
    """
    ga, gb = (x.float().mean(dim=-3) for x in (a, b))
    height, width = ga.shape[-2:]
    window = torch.outer(torch.hann_window(height, periodic=False), torch.hann_window(width, periodic=False))
    window = window.to(ga.device)
    sa, sb = (torch.fft.rfft2((x - x.mean(dim=(-2, -1), keepdim=True)) * window) for x in (ga, gb))
    cross = sb * sa.conj()
    fy, fx = torch.fft.fftfreq(height, device=ga.device), torch.fft.rfftfreq(width, device=ga.device)
    low = torch.exp(-2 * (math.pi * blur) ** 2 * (fy[:, None] ** 2 + fx**2))
    surface = torch.fft.irfft2(low * cross / cross.abs().clamp_min(1e-9), s=(height, width))
    row = surface.amax(dim=-2).roll(reach, dims=-1)[..., : 2 * reach + 1]  # any vertical movement
    peak = row[..., 1:-1].argmax(dim=-1, keepdim=True) + 1
    left, centre, right = (row.gather(-1, peak + d).squeeze(-1) for d in (-1, 0, 1))
    bend = (left - 2 * centre + right).clamp_max(-1e-12)
    return peak.squeeze(-1) - reach + (0.5 * (left - right) / bend).clamp(-0.5, 0.5)


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson correlation of two samples of equal length."""
    a, b = a.double().flatten() - a.double().mean(), b.double().flatten() - b.double().mean()
    return float((a * b).sum() / (a.norm() * b.norm()).clamp_min(1e-12))
