"""How depth travels through the codec: a logarithmic code for things, a logit for the sky, unknown where nobody knows.

Inverse depth is in 1/m along the optical axis: above 0 a thing, 0 the sky, below 0 unknown.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from engine.config import FARTHEST, NEAREST

UNKNOWN = -1.0  # any negative inverse depth says so
SCALE = math.log(FARTHEST / NEAREST)  # a step of ε in code is ε·SCALE of relative depth, near and far alike

KNEE, SKY_CODE = 50.0, 0.02  # of the joint code: metres, and the code below which there is sky
_FULL = math.log1p(KNEE / NEAREST)


def depth_code(inverse_depth: Tensor) -> Tensor:
    """Inverse depth in 1/m → code in [0, 1]: log(400 d) / log(1600). Sky and unknown give 0."""
    return (inverse_depth.clamp(min=1 / FARTHEST).mul(FARTHEST).log() / SCALE).clamp(max=1)


def depth_decode(code: Tensor, sky: Tensor) -> Tensor:
    """The inverse of `depth_code`; exactly 0 where the logit `sky` is above 0."""
    return (torch.exp(code.clamp(0, 1) * SCALE) / FARTHEST).masked_fill(sky > 0, 0)


def joint_decode(code: Tensor) -> Tensor:
    """Inverse depth of a code log(1 + 50 d) / log(201) whose lowest values mean sky: weights without a sky logit."""
    d = torch.expm1(code.clamp(0, 1) * _FULL) / KNEE
    return d.masked_fill(code < SKY_CODE, 0)


def depth_planes(inverse_depth: Tensor) -> Tensor:
    """What the encoder is told of depth: [..., Y, X] → [..., 2, Y, X], as strong as colours are.

    The code of things stretched to [-2, 2], else 0; and 1 thing, -1 sky, 0 unknown.
    """
    thing, known = (inverse_depth > 0).float(), (inverse_depth >= 0).float()
    return torch.stack(((4 * depth_code(inverse_depth) - 2) * thing, thing * 2 - known), dim=-3)
