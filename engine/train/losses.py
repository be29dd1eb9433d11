"""What a codec is trained on: reconstruction of pictures and of depth, and the losses of its adversary. Pure."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from engine.depth import SCALE, depth_code

GRADIENT = 0.6  # weight of spatial gradients, at full and at half resolution
TEMPORAL = 0.3  # weight of differences between neighbouring frames
DEPTH = (
    0.08  # weight of the logarithm of depth: a share like that of one colour in the gradient of the output
)
SKY = 0.1  # weight of telling sky from things


def slope(e: Tensor) -> Tensor:
    """Mean |∂x e| + |∂y e| of [..., Y, X]."""
    return e.diff(dim=-1).abs().mean() + e.diff(dim=-2).abs().mean()


def picture_loss(e: Tensor) -> Tensor:
    """e = reconstruction - truth, [B, P, 3, Y, X] of pictures in [-1, 1] → one number."""
    half = F.avg_pool2d(e.flatten(0, 1), 2)
    return e.abs().mean() + GRADIENT * (slope(e) + slope(half)) + TEMPORAL * e.diff(dim=1).abs().mean()


def depth_loss(code: Tensor, inverse_depth: Tensor) -> Tensor:
    """Mean |e| + 0.6 (|∂x e| + |∂y e|) of e = ln(decoded depth / true depth), over things and pairs of things.

    code: [B, P, Y, X], as decoded; inverse_depth: the truth, sky 0, unknown below 0.
    """
    thing = (inverse_depth > 0).float()
    e = SCALE * (code - depth_code(inverse_depth)) * thing
    across = e.diff(dim=-1).abs() * thing[..., 1:] * thing[..., :-1]
    down = e.diff(dim=-2).abs() * thing[..., 1:, :] * thing[..., :-1, :]
    return (e.abs().sum() + GRADIENT * (across.sum() + down.sum())) / thing.sum().clamp_min(1)


def sky_loss(logit: Tensor, inverse_depth: Tensor) -> Tensor:
    """Mean binary cross-entropy of the sky logit [B, P, Y, X] where the truth is known."""
    known = (inverse_depth >= 0).float()
    each = F.binary_cross_entropy_with_logits(logit, (inverse_depth == 0).float(), reduction="none")
    return (each * known).sum() / known.sum().clamp_min(1)


def reconstruction_loss(out: Tensor, frames: Tensor, inverse_depth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Picture, depth and sky terms, weighted. out: [B, P, 5, Y, X]; frames: [B, P, 3, Y, X]; inverse_depth: [B, P, Y, X]."""
    out = out.float()
    depth = DEPTH * depth_loss(out[:, :, 3], inverse_depth)
    return picture_loss(out[:, :, :3] - frames), depth, SKY * sky_loss(out[:, :, 4], inverse_depth)


def hinge_judge(real: Tensor, fake: Tensor) -> Tensor:
    """Loss of the adversary: truth above 1, reconstruction below -1. Source: Lim and Ye 2017, arXiv 1705.02894."""
    return F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean()


def hinge_fool(fake: Tensor) -> Tensor:
    """Loss of the decoder under that adversary."""
    return -fake.float().mean()


def gradient_penalty(real: Tensor, shaken: Tensor) -> Tensor:
    """Mean squared change of the adversary's scores of the truth under a little noise: as its gradient there, squared.

    Source: Lin et al. 2025, "Diffusion Adversarial Post-Training", arXiv 2501.08316, the approximated R1.
    """
    return (real.float() - shaken.float()).square().mean()
