"""A picture that knows from where it was seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.camera import Intrinsics, Pose


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One generated picture. Everything downstream works because it carries its pose."""

    pixels: NDArray[np.uint8]  # [Y, X, 3] RGB
    pose: Pose  # camera-to-world
    intrinsics: Intrinsics  # of these pixels
    index: int  # pixel frames since the first picture (which is 0)
    world: str  # id of the flight it belongs to
    inverse_depth: NDArray[np.float16] | None = None  # [Y, X] 1/m along the optical axis; 0 is sky
