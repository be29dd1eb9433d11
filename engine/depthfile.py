"""The depth of a picture as a file beside it: a grey PNG of 16 bits.

0 is the sky, else 1 + 65534 c of the code c in [0, 1] of `engine/depth.py`: 0 at FARTHEST, 1 at NEAREST. A step is
0.011 % of depth, finer than the fp16 it is drawn in.
"""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.config import FARTHEST, NEAREST
from engine.imagefile import describe
from engine.picture import picture_bytes

STEPS = 65534
SCALE = math.log(FARTHEST / NEAREST)


def depth_levels(inverse_depth: NDArray[np.floating]) -> NDArray[np.uint16]:
    """Inverse depth in 1/m, sky 0 → levels of grey. Nearer than NEAREST and farther than FARTHEST become these."""
    d = inverse_depth.astype(np.float64)
    code = np.log(d.clip(1 / FARTHEST, 1 / NEAREST) * FARTHEST) / SCALE
    return np.where(d > 0, 1 + (STEPS * code).round(), 0).astype(np.uint16)


def depth_of_levels(levels: NDArray[np.uint16]) -> NDArray[np.float64]:
    """The inverse of `depth_levels`."""
    d = np.exp((levels.astype(np.float64) - 1) / STEPS * SCALE) / FARTHEST
    return np.where(levels > 0, d, 0.0)


def write_depth(path: Path, inverse_depth: NDArray[np.floating]) -> None:
    """Write [Y, X] in 1/m, sky 0. Raises ValueError for what is unknown, or a file that cannot be written."""
    if inverse_depth.ndim != 2 or not np.isfinite(inverse_depth).all() or (inverse_depth < 0).any():
        raise ValueError(f"{path} holds no unknown depth: give [Y, X] of finite numbers that are 0 or more")
    if not cv2.imwrite(str(path), depth_levels(inverse_depth), [cv2.IMWRITE_PNG_COMPRESSION, 9]):
        raise ValueError(f"cannot write {path}: check the folder")


def read_depth(path: Path, *, width: int, height: int) -> NDArray[np.float16]:
    """Inverse depth [height, width] in 1/m, sky 0, of a picture of that size. Raises ValueError, one sentence."""
    data = picture_bytes(path)
    try:
        info = describe(data)
    except ValueError as error:
        raise ValueError(f"{path} is a broken depth picture, {error}: make it again") from error
    if info is None or info.kind != "png":
        raise ValueError(f"{path} is no depth picture: use a grey PNG of 16 bits")
    if (info.width, info.height) != (width, height):
        raise ValueError(
            f"{path} has {info.width}x{info.height} pixels and its picture {width}x{height}: make them of one size"
        )
    levels = _decoded(data) if info.complete else None
    if levels is None:
        raise ValueError(f"{path} is a broken or truncated depth picture: make it again")
    if levels.dtype != np.uint16 or levels.shape != (height, width):
        raise ValueError(f"{path} is no depth picture: use a grey PNG of 16 bits")
    return depth_of_levels(levels).astype(np.float16)


def _decoded(data: bytes) -> NDArray[np.uint16] | None:
    """As stored, whatever that is; None where the decoder gives up."""
    try:
        return cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_UNCHANGED)  # type: ignore[return-value]
    except cv2.error:
        return None
