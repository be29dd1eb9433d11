"""What an image file says of itself before a pixel is decoded: format, size, completeness, EXIF focal length.

Every offset comes from the file and is checked by slicing: bytes past the end read as an empty slice and raise
`struct.error`, which `describe` turns into one sentence.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

MAX_SEGMENTS = 4096  # of a JPEG, and entries of an EXIF directory
_SOF = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}  # frame headers
_ORIENTATION, _EXIF_IFD, _FOCAL_35 = 0x0112, 0x8769, 0xA405  # EXIF 2.3, tables 4 and 7


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInfo:
    """As stored, before the EXIF orientation is applied."""

    kind: str  # png, jpeg, webp, bmp
    width: int
    height: int
    complete: bool  # the file does not stop early
    focal_35mm: float | None = None  # millimetres, 35 mm film equivalent
    orientation: int = 1  # EXIF 1…8


def describe(data: bytes) -> ImageInfo | None:
    """Read the header of a PNG, JPEG, WebP or BMP file; None for anything else, ValueError for a broken one."""
    readers = {b"\x89PNG\r\n\x1a\n": _png, b"\xff\xd8\xff": _jpeg, b"RIFF": _webp, b"BM": _bmp}
    for magic, reader in readers.items():
        if data.startswith(magic):
            try:
                return reader(data)
            except struct.error as e:
                raise ValueError("its header stops early") from e
    return None


def _png(data: bytes) -> ImageInfo:
    width, height = struct.unpack(">II", data[16:24])
    return ImageInfo(kind="png", width=width, height=height, complete=b"IEND\xaeB`\x82" in data[-4096:])


def _bmp(data: bytes) -> ImageInfo:
    (size,) = struct.unpack("<I", data[2:6])
    width, height = struct.unpack("<ii", data[18:26])
    return ImageInfo(kind="bmp", width=width, height=abs(height), complete=len(data) >= size)


def _webp(data: bytes) -> ImageInfo | None:
    (size,) = struct.unpack("<I", data[4:8])
    if data[8:12] != b"WEBP":
        return None
    if data[12:16] == b"VP8X":
        width, height = (int.from_bytes(data[i : i + 3], "little") + 1 for i in (24, 27))
    elif data[12:16] == b"VP8L":
        (bits,) = struct.unpack("<I", data[21:25])
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (n & 0x3FFF for n in struct.unpack("<HH", data[26:30]))
    return ImageInfo(kind="webp", width=width, height=height, complete=len(data) >= size + 8)


def _jpeg(data: bytes) -> ImageInfo:
    size: tuple[int, int] | None = None
    exif: dict[int, int] = {}
    end = len(data)
    for marker, start, stop in _segments(data):
        if marker in _SOF:
            height, width = struct.unpack(">HH", data[start + 1 : start + 5])
            size = (width, height)
        elif marker == 0xE1 and data[start : start + 6] == b"Exif\0\0":
            exif = exif or _exif(data[start + 6 : stop])
        end = stop
    if size is None:
        raise ValueError("it has no frame header")
    focal, orientation = exif.get(_FOCAL_35, 0), exif.get(_ORIENTATION, 1)
    return ImageInfo(
        kind="jpeg",
        width=size[0],
        height=size[1],
        complete=data.find(b"\xff\xd9", end) >= 0,
        focal_35mm=float(focal) if 1 <= focal <= 2000 else None,
        orientation=orientation if 1 <= orientation <= 8 else 1,
    )


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, first and last byte of the content of each JPEG segment up to the start of scan."""
    at = 2
    for _ in range(MAX_SEGMENTS):
        while data[at : at + 2] == b"\xff\xff":
            at += 1
        mark, marker, length = struct.unpack(">BBH", data[at : at + 4])
        if mark != 0xFF or length < 2:
            raise ValueError("its segments are damaged")
        yield marker, at + 4, at + 2 + length
        at += 2 + length
        if marker == 0xDA:
            return
    raise ValueError(f"it has over {MAX_SEGMENTS} segments")


def _exif(tiff: bytes) -> dict[int, int]:
    """Short and long entries of IFD0 and of the EXIF directory. A broken directory is as good as none."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    try:
        if order is None:
            return {}
        (first,) = struct.unpack(order + "I", tiff[4:8])
        tags = _directory(tiff, first, order)
        return _directory(tiff, tags[_EXIF_IFD], order) | tags if _EXIF_IFD in tags else tags
    except struct.error:
        return {}


def _directory(tiff: bytes, at: int, order: str) -> dict[int, int]:
    (count,) = struct.unpack(order + "H", tiff[at : at + 2])
    tags: dict[int, int] = {}
    for i in range(min(count, MAX_SEGMENTS)):
        entry = tiff[at + 2 + 12 * i : at + 14 + 12 * i]
        tag, kind, _ = struct.unpack(order + "HHI", entry[:8])
        if kind in (3, 4):  # short, long
            (tags[tag],) = struct.unpack(
                order + ("H" if kind == 3 else "I"), entry[8 : 10 if kind == 3 else 12]
            )
    return tags
