"""Linear maps of the same tokens as one: a product of three times the width fills a GPU's last wave of tiles better.

The weights move into one tensor, of which those of each map become views: nothing is stored twice, and each map
computes by itself as before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.lowbit import Fp8Linear, Rows, product


@dataclass(frozen=True, slots=True)
class Joined:
    """x: [..., K] -> what all maps make of it, side by side."""

    weight: Tensor  # [N, K]
    scale: Tensor | None  # [N, 1] of a weight in FP8
    bias: Tensor | None  # [N]

    def __call__(self, x: Tensor | Rows) -> Tensor:
        if isinstance(x, Tensor):
            return F.linear(x, self.weight, self.bias)
        assert self.scale is not None
        return product(x, self.weight, self.scale, self.bias)


def joined(maps: Sequence[nn.Module]) -> Joined | None:
    """None: of a kind whose weights do not join, or not of one kind."""
    kind = type(maps[0])
    if kind not in (nn.Linear, Fp8Linear) or any(type(m) is not kind for m in maps):
        return None
    parts = {name: _together([getattr(m, name, None) for m in maps]) for name in ("weight", "scale", "bias")}
    assert parts["weight"] is not None
    return Joined(parts["weight"], parts["scale"], parts["bias"])


def _together(parts: Sequence[nn.Parameter | None]) -> Tensor | None:
    """Parameters in one tensor, along the first axis, of which they become views."""
    there = [p for p in parts if p is not None]
    if not there:
        return None
    assert len(there) == len(parts)
    whole = torch.cat([p.detach() for p in there])
    for p, view in zip(there, whole.split([len(p) for p in there]), strict=True):
        p.data = view
    return whole
