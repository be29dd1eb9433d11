"""Frame to JPEG bytes, and its depth to a few bytes."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

SUBSAMPLING = {
    "420": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "422": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    "444": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
}


@dataclass(frozen=True, slots=True)
class Jpeg:
    """A compressed picture, and what it took."""

    data: bytes
    seconds: float


def jpeg(
    pixels: NDArray[np.uint8], *, quality: int = 88, chroma: Literal["420", "422", "444"] = "420"
) -> Jpeg:
    """Compress RGB `pixels` [Y, X, 3] uint8. `quality` 1…100; `chroma` is the share of colour resolution kept."""
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
        raise ValueError(f"pixels are {pixels.dtype} {pixels.shape}: JPEG takes uint8 [Y, X, 3]")
    if not 1 <= quality <= 100:
        raise ValueError(f"quality {quality} must lie between 1 and 100")
    began = time.perf_counter()
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SUBSAMPLING[chroma]]
    done, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), flags)
    if not done:
        raise RuntimeError(f"OpenCV could not compress a picture of {pixels.shape[1]}x{pixels.shape[0]}")
    return Jpeg(data.tobytes(), time.perf_counter() - began)


FARTHEST, DECADES = 400.0, math.log(1600.0)  # metres; of the code of things


def depth_bytes(inverse_depth: NDArray[np.float16], size: tuple[int, int]) -> bytes:
    """Inverse depth [Y, X] in 1/m as one byte per cell of a grid of `size` (width, height), row by row.

    0 is sky, else 1 + 254 log(400 d) / log(1600), of the median of the cell.
    """
    width, height = size
    Y, X = inverse_depth.shape
    if Y % height or X % width:
        raise ValueError(f"a depth of {X}x{Y} does not split into {width}x{height} cells")
    cells = inverse_depth.astype(np.float32).reshape(height, Y // height, width, X // width)
    d = np.median(cells.transpose(0, 2, 1, 3).reshape(height, width, -1), axis=-1)
    code = np.log(np.maximum(d, 1 / FARTHEST) * FARTHEST) / DECADES
    return np.where(d > 0, 1 + (254 * code.clip(0, 1)).round(), 0).astype(np.uint8).tobytes()
