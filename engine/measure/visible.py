"""Which pixels show something that the first picture showed too: a mask from true depth. Pure."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.warp import NEAR, around, between, centres, project

TOLERANCE = 0.07  # of depth, around the least and greatest of 3×3 pixels
SKY = 0.002  # 1/m: differences below this are none


def visible(
    inverse_depth: Tensor,
    poses: Tensor,
    intrinsics: Tensor,
    *,
    first_depth: Tensor,
    first_pose: Tensor,
    first_intrinsics: Tensor,
) -> Tensor:
    """Pixels of V views of each of N flights whose surface lies open in the first picture.

    inverse_depth: [N, V, Y, X] in 1/m, sky 0.  poses: [N, V, 4, 4].  intrinsics: [N, V, 4] pixels.
    first_depth: [N, Y, X], first_pose: [N, 4, 4], first_intrinsics: [N, 4].  Returns bool [N, V, Y, X].
    """
    N, V, Y, X = inverse_depth.shape
    d = inverse_depth.float().flatten(2)
    x, y = centres(Y, X, d.device)
    M = between(poses, intrinsics, first_pose[:, None], first_intrinsics[:, None])
    p0, p1, p2 = project(M, x, y, d)
    ahead = p2 > NEAR
    p2 = torch.where(ahead, p2, 1.0)
    u, v, there = p0 / p2, p1 / p2, d / p2
    inside = ahead & (u >= 0) & (u < X) & (v >= 0) & (v < Y)
    at = torch.where(inside, v.floor() * X + u.floor(), 0.0).long()
    low, high = (m.flatten(1).gather(1, at.flatten(1)).view_as(d) for m in around(first_depth.float()))
    same = (there >= low * (1 - TOLERANCE) - SKY) & (there <= high * (1 + TOLERANCE) + SKY)
    return (inside & same).view(N, V, Y, X)


def masked_psnr(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """PSNR in dB over the pixels of mask [..., Y, X] of pictures [..., 3, Y, X] in [-1, 1]; NaN where there is none."""
    error = ((a - b).float() / 2).square().mean(dim=-3)
    mse = (error * mask).sum(dim=(-2, -1)) / mask.sum(dim=(-2, -1))
    return -10 * torch.log10(mse.clamp_min(1e-10))
