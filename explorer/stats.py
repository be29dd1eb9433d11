"""Figures of a flight's last seconds, as the window and the page show them."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from engine.frame import Frame
from explorer.drift import Drift, Look, drift, look
from explorer.latency import Latency
from explorer.messages import Kept
from explorer.pacer import Shown
from explorer.reproject import reach_of
from explorer.worker import Chunk


class Stats:
    """Figures of the last seconds."""

    def __init__(self) -> None:
        self.chunk_seconds: deque[float] = deque(maxlen=16)
        self.latency = Latency()
        self.discarded = 0
        self.refined = False  # the last chunk
        self.frame: Frame | None = None  # on screen
        self.reach: float | None = None  # metres: median distance of what it shows
        self.first_frame_at: float | None = None  # perf_counter of the first generated frame
        self.drift: Drift | None = None  # of the newest chunk from the first picture
        self.keeping: deque[float] = deque(maxlen=16)  # seconds to keep a state
        self._first: Look | None = None
        self._arrivals: deque[tuple[float, int]] = deque(maxlen=9)  # time, frames so far

    def reference(self, picture: NDArray[np.uint8]) -> None:
        """The picture [Y, X, 3] that drift is measured from."""
        self._first = look(picture)

    def kept(self, kept: Kept) -> None:
        self.keeping.append(kept.seconds)

    def broke(self) -> None:
        """Frames no longer follow the ones before."""
        self._arrivals.clear()

    def made(self, chunk: Chunk, now: float) -> None:
        if self._first is not None:
            self.drift = drift(self._first, look(chunk.frames[-1].pixels))
        self.chunk_seconds.append(chunk.made.seconds)
        self.discarded = chunk.made.discarded
        self.refined = "refine" in chunk.made.timing
        self._arrivals.append((now, chunk.made.first + len(chunk.frames)))

    def shown(self, shown: Shown, now: float) -> None:
        self.frame, self.reach = shown.frame, reach_of(shown.frame)
        if shown.frame.index and self.first_frame_at is None:
            self.first_frame_at = now
        self.latency.shown(shown.input, shown.way, now=now)

    @property
    def generated_fps(self) -> float:
        if len(self._arrivals) < 2:
            return 0.0
        (t0, n0), (t1, n1) = self._arrivals[0], self._arrivals[-1]
        return (n1 - n0) / max(t1 - t0, 1e-9)

    @property
    def chunk(self) -> float:
        """Mean seconds per chunk, 0 before the first."""
        return float(np.mean(self.chunk_seconds)) if self.chunk_seconds else 0.0
