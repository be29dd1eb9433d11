"""One comparison with a number from elsewhere."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

WHOLE = 1e-5  # relative, fp32: outputs of a whole model
PART = 2e-6  # relative, fp32: a block, a scan, rope, a camera quantity
POSE = 1e-6  # absolute: poses and action strings


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    file: str
    quantity: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance  # False for NaN


def relative(file: str, quantity: str, out: Tensor, ref: Tensor, tolerance: float = PART) -> Check:
    """|out - ref|₂ / |ref|₂ in float64; infinite where shapes differ or `out` is not finite."""
    out, ref = out.detach().double(), ref.double()
    if out.shape != ref.shape or not out.isfinite().all():
        return Check(file=file, quantity=quantity, error=math.inf, tolerance=tolerance)
    size = ref.norm()
    error = (out - ref).norm() / (size if size > 0 else 1.0)
    return Check(file=file, quantity=quantity, error=error.item(), tolerance=tolerance)


def absolute(file: str, quantity: str, out: Tensor, ref: Tensor, tolerance: float = POSE) -> Check:
    """The largest absolute difference."""
    same = out.shape == ref.shape and bool(out.isfinite().all())
    error = (out.double() - ref.double()).abs().max().item() if same else math.inf
    return Check(file=file, quantity=quantity, error=error, tolerance=tolerance)


def exact(file: str, quantity: str, good: bool) -> Check:
    """A yes or no: names, shapes, which strings are refused."""
    return Check(file=file, quantity=quantity, error=0.0 if good else math.inf, tolerance=0.0)


def by_head(x: Tensor, frames: int) -> Tensor:
    """[B, H, K, F*N] of the fixtures as [B, H, F, N, K]."""
    return torch.as_tensor(x).mT.unflatten(2, (frames, -1))
