"""The pictures of a flight, to look back at: JPEG, bounded, thinner the older they are. Owned by the main thread."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.frame import Frame
from explorer.encode import jpeg

BUDGET = 64 << 20  # bytes: about five minutes of `pocket` in full, hours with one picture per chunk
QUALITY = 85
THUMBNAIL = (64, 40)  # width, height

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Shot:
    """One frame, compressed."""

    index: int
    data: bytes


class Reel:
    """The frames that led to each moment, by its id."""

    def __init__(self, *, budget: int = BUDGET) -> None:
        self._budget = budget
        self._shots: dict[int, tuple[Shot, ...]] = {}
        self._thumbnails: dict[int, Pixels] = {}
        self._whole: list[int] = []  # moments with all their frames, oldest first
        self.size = 0  # bytes

    def add(self, id: int, frames: Iterable[Frame]) -> None:
        """The frames since the moment before; the last of them is the moment's own."""
        frames = tuple(frames)
        self.put(id, [taken(f) for f in frames], thumbnail(frames[-1].pixels))

    def put(self, id: int, shots: Iterable[Shot], small: Pixels) -> None:
        """The same, already compressed.  small: a thumbnail of the last."""
        shots = tuple(shots)
        self._shots[id], self._thumbnails[id] = shots, small
        self._whole.append(id)
        self.size += sum(len(shot.data) for shot in shots)
        while self.size > self._budget and len(self._whole) > 1:
            self._thin(self._whole.pop(0))

    def _thin(self, id: int) -> None:
        shots = self._shots.get(id, ())
        self.size -= sum(len(shot.data) for shot in shots[:-1])
        self._shots[id] = shots[-1:]

    def forget(self, id: int) -> None:
        self.size -= sum(len(shot.data) for shot in self._shots.pop(id, ()))
        self._thumbnails.pop(id, None)
        if id in self._whole:
            self._whole.remove(id)

    def shots(self, id: int) -> tuple[Shot, ...]:
        """The frames that are left of those that led to a moment, in order."""
        return self._shots.get(id, ())

    def thumbnail(self, id: int) -> Pixels | None:
        """[40, 64, 3] RGB."""
        return self._thumbnails.get(id)


def taken(frame: Frame) -> Shot:
    """A frame, compressed."""
    return Shot(frame.index, jpeg(frame.pixels, quality=QUALITY).data)


def develop(shot: Shot) -> Pixels:
    """[Y, X, 3] RGB."""
    picture = cv2.imdecode(np.frombuffer(shot.data, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)


def thumbnail(pixels: Pixels) -> Pixels:
    """[40, 64, 3] of [Y, X, 3], cut to its shape."""
    height, width = pixels.shape[:2]
    w, h = min(width, round(height * THUMBNAIL[0] / THUMBNAIL[1])), height
    h = min(h, round(w * THUMBNAIL[1] / THUMBNAIL[0]))
    top, left = (height - h) // 2, (width - w) // 2
    return np.asarray(
        cv2.resize(pixels[top : top + h, left : left + w], THUMBNAIL, interpolation=cv2.INTER_AREA), np.uint8
    )
