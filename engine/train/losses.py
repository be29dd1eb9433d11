"""What a codec is trained on: reconstruction of pictures and of depth, and the hinge losses of its adversary. Pure."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

GRADIENT = 0.6  # weight of spatial gradients, at full and at half resolution
TEMPORAL = 0.3  # weight of differences between neighbouring frames
DEPTH = 0.5  # weight of the depth code, whose range is half that of a picture


def slope(e: Tensor) -> Tensor:
    """Mean |∂x e| + |∂y e| of [..., Y, X]."""
    return e.diff(dim=-1).abs().mean() + e.diff(dim=-2).abs().mean()


def picture_loss(e: Tensor) -> Tensor:
    """e = reconstruction - truth, [B, P, 3, Y, X] of pictures in [-1, 1] → one number."""
    half = F.avg_pool2d(e.flatten(0, 1), 2)
    return e.abs().mean() + GRADIENT * (slope(e) + slope(half)) + TEMPORAL * e.diff(dim=1).abs().mean()


def depth_loss(e: Tensor) -> Tensor:
    """The same for depth codes, e: [B, P, Y, X]."""
    return e.abs().mean() + GRADIENT * slope(e)


def reconstruction_loss(out: Tensor, frames: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
    """Picture and depth terms, the latter weighted. out: [B, P, 4, Y, X]; frames: [B, P, 3, Y, X]; code: [B, P, Y, X]."""
    out = out.float()
    return picture_loss(out[:, :, :3] - frames), DEPTH * depth_loss(out[:, :, 3] - code)


def hinge_judge(real: Tensor, fake: Tensor) -> Tensor:
    """Loss of the adversary: truth above 1, reconstruction below -1. Source: Lim and Ye 2017, arXiv 1705.02894."""
    return F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean()


def hinge_fool(fake: Tensor) -> Tensor:
    """Loss of the decoder under that adversary."""
    return -fake.float().mean()
