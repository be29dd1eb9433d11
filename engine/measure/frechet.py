"""How far two clouds of features lie apart when each is described by its mean and covariance.

    d² = |μ₁ - μ₂|² + tr(C₁ + C₂ - 2 (C₁C₂)^½)

Source: Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule", eq. 6. Features here are latents of the
codec: one sample per cell of 16×16 pixels and chunk.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """What is kept of many samples: enough to add them up later."""

    count: int
    total: Tensor  # fp64 [C]
    products: Tensor  # fp64 [C, C]

    @property
    def mean(self) -> Tensor:
        return self.total / self.count

    @property
    def covariance(self) -> Tensor:
        return self.products / self.count - torch.outer(self.mean, self.mean)

    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"count": self.count, "total": self.total.tolist(), "products": self.products.tolist()}

    @staticmethod
    def read(record: dict[str, Any]) -> Moments:
        total, products = (torch.tensor(record[name], dtype=torch.float64) for name in ("total", "products"))
        return Moments(count=int(record["count"]), total=total, products=products)


def moments(samples: Tensor) -> Moments:
    """Of samples [n, C]."""
    x = samples.double().cpu()
    return Moments(count=len(x), total=x.sum(dim=0), products=x.T @ x)


def together(parts: Iterable[Moments]) -> Moments:
    """Of all samples of the parts. Raises ValueError for no part."""
    known = list(parts)
    if not known:
        raise ValueError("no samples: a distance needs at least one flight")
    return Moments(
        count=sum(p.count for p in known),
        total=torch.stack([p.total for p in known]).sum(dim=0),
        products=torch.stack([p.products for p in known]).sum(dim=0),
    )


def frechet(a: Moments, b: Moments) -> float:
    """The squared distance of the module's first lines."""
    root = _root(a.covariance)
    cross = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp_min(0).sqrt().sum()
    apart = (a.mean - b.mean).square().sum()
    return float(apart + a.covariance.trace() + b.covariance.trace() - 2 * cross)


def _root(C: Tensor) -> Tensor:
    """C^½ of a symmetric, positive matrix."""
    values, vectors = torch.linalg.eigh(C)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T
