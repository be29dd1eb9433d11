"""A first picture: read from a file, brought to a world's size, its intrinsics following."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.camera import Intrinsics
from engine.imagefile import ImageInfo, describe

MIN_SIDE = 64  # pixels
MAX_PIXELS = 50_000_000
MAX_ASPECT = 10  # longer side over shorter
MAX_BYTES = 256 * 2**20
FOV_LIMITS = (10.0, 150.0)  # degrees
_DIAGONAL_35 = math.hypot(36.0, 24.0)  # millimetres: 35 mm equivalents compare diagonals (CIPA DCG-001)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Upright pixels and what the file knows of its lens."""

    rgb: NDArray[np.uint8]  # [Y, X, 3]
    focal_35mm: float | None = None  # millimetres

    def intrinsics(self, fov: float | None = None) -> Intrinsics:
        """From `fov` (horizontal, degrees), else the EXIF focal length, else f = 0.8 × the longer side; centred."""
        height, width = self.rgb.shape[:2]
        if fov is not None:
            if not FOV_LIMITS[0] <= fov <= FOV_LIMITS[1]:
                raise ValueError(
                    f"field of view {fov}° is out of range: use {FOV_LIMITS[0]:g} to {FOV_LIMITS[1]:g}"
                )
            return Intrinsics.from_fov(math.radians(fov), width=width, height=height)
        f = 0.8 * max(width, height)
        if self.focal_35mm is not None:
            f = self.focal_35mm * math.hypot(width, height) / _DIAGONAL_35
        return Intrinsics(fx=f, fy=f, cx=width / 2, cy=height / 2, width=width, height=height)


def load_picture(path: Path | str) -> Picture:
    """Read a PNG, JPEG, WebP or BMP file of any size from 64 pixels to 50 megapixels, turned as its EXIF says.

    Raises ValueError, one sentence with the way out, for a file that is missing, broken, tiny, huge or no picture.
    """
    path = Path(path)
    data = picture_bytes(path)
    try:
        info = describe(data)
    except ValueError as e:
        raise ValueError(f"{path} is a broken picture, {e}: export it again") from e
    if info is None:
        raise ValueError(f"{path} is not a picture: use a PNG, JPEG, WebP or BMP file")
    _check_size(path, info)
    rgb = _decode(data, info) if info.complete else None
    if rgb is None:
        raise ValueError(f"{path} is a broken or truncated {info.kind} picture: export it again")
    return Picture(rgb=rgb, focal_35mm=info.focal_35mm)


def picture_bytes(path: Path) -> bytes:
    """All of a file that may be a picture. Raises ValueError where it is missing, huge or cannot be read."""
    if not path.is_file():
        raise ValueError(f"there is no picture {path}: check the name")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(
            f"{path} has {path.stat().st_size / 2**20:.0f} MB: use a file of at most {MAX_BYTES >> 20} MB"
        )
    try:
        return path.read_bytes()
    except OSError as e:
        raise ValueError(f"{path} cannot be read ({e.strerror}): check its permissions") from e


def _check_size(path: Path, info: ImageInfo) -> None:
    size = f"{info.width}x{info.height} pixels"
    if min(info.width, info.height) < MIN_SIDE:
        raise ValueError(f"{path} is tiny, {size}: use a picture of at least {MIN_SIDE}x{MIN_SIDE}")
    if info.width * info.height > MAX_PIXELS:
        raise ValueError(f"{path} is huge, {size}: scale it below {MAX_PIXELS // 10**6} megapixels")
    if max(info.width, info.height) > MAX_ASPECT * min(info.width, info.height):
        raise ValueError(f"{path} is a strip, {size}: crop it to at most {MAX_ASPECT}:1")


def _decode(data: bytes, info: ImageInfo) -> NDArray[np.uint8] | None:
    """RGB pixels, turned upright; None where the decoder gives up or finds another size than the header said."""
    try:
        bgr = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        return None
    sizes = {(info.height, info.width), (info.width, info.height)}
    if bgr is None or bgr.shape[:2] not in sizes:
        return None
    return np.ascontiguousarray(bgr[..., ::-1])


def fit(width: int, height: int, *, to: tuple[int, int]) -> tuple[int, int, int, int]:
    """Resized width and height that cover `to` (width, height), and the left and top of the centred crop."""
    scale = max(to[1] / height, to[0] / width)
    rw, rh = max(to[0], round(width * scale)), max(to[1], round(height * scale))
    return rw, rh, (rw - to[0]) // 2, (rh - to[1]) // 2


def fit_intrinsics(k: Intrinsics, *, width: int, height: int) -> Intrinsics:
    """The pinhole after `fit` to width × height: the same rays through the same things."""
    rw, rh, left, top = fit(k.width, k.height, to=(width, height))
    big = k.scaled(rw, rh)
    return Intrinsics(fx=big.fx, fy=big.fy, cx=big.cx - left, cy=big.cy - top, width=width, height=height)


def prepare_picture(
    rgb: NDArray[np.uint8], intrinsics: Intrinsics | None = None, *, width: int, height: int
) -> tuple[NDArray[np.uint8], Intrinsics]:
    """Resize and centre-crop a picture [Y, X, 3] of any size to [height, width, 3].

    intrinsics: of `rgb`, else f = 0.8 × the longer side. Returned for the new size.
    """
    k = intrinsics or Picture(rgb=rgb).intrinsics()
    y, x = rgb.shape[:2]
    if (k.width, k.height) != (x, y):
        raise ValueError(
            f"intrinsics are of {k.width}x{k.height}, the picture has {x}x{y}: scale one of them"
        )
    rw, rh, left, top = fit(x, y, to=(width, height))
    shrinks = rw < x or rh < y
    big = cv2.resize(rgb, (rw, rh), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LANCZOS4)
    crop = big[top : top + height, left : left + width]
    return np.ascontiguousarray(crop, dtype=np.uint8), fit_intrinsics(k, width=width, height=height)


def prepare_depth(inverse_depth: NDArray[np.float16], *, width: int, height: int) -> NDArray[np.float16]:
    """The depth [Y, X] of a picture, resized and cropped as `prepare_picture` does with it: the nearest, no mixtures."""
    y, x = inverse_depth.shape
    rw, rh, left, top = fit(x, y, to=(width, height))
    rows = ((np.arange(height) + top + 0.5) * (y / rh)).astype(np.int64)
    columns = ((np.arange(width) + left + 0.5) * (x / rw)).astype(np.int64)
    return inverse_depth[rows[:, None], columns]
