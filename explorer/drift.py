"""How far a dream has come from its first picture: how much detail is left, and how its colour has moved. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Look:
    """Two figures of a picture that hardly change as a camera moves through one place."""

    detail: float  # mean absolute Laplacian of the grey picture, levels of 255
    color: tuple[float, float, float]  # mean RGB, levels of 255


@dataclass(frozen=True, slots=True)
class Drift:
    """One picture against another."""

    detail: float  # share that is left; above 1: more than there was
    color: float  # distance of the mean colours, share of the full range


def look(pixels: Pixels) -> Look:
    """pixels: [Y, X, 3] RGB, at least 3×3."""
    x = pixels.astype(np.float32)
    grey = x.mean(axis=2)
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    r, g, b = (float(c) for c in x.mean(axis=(0, 1)))
    return Look(float(np.abs(4 * grey[1:-1, 1:-1] - around).mean()), (r, g, b))


def drift(first: Look, now: Look) -> Drift:
    """A first picture without any detail has none to lose."""
    detail = now.detail / first.detail if first.detail > 0 else 1.0
    return Drift(detail, float(np.sqrt(np.mean(np.square(np.subtract(now.color, first.color))))) / 255.0)
