"""Seconds by stage of something that is done in stages."""

from __future__ import annotations

import time

import torch

Moment = torch.cuda.Event | float  # on a GPU, or in seconds by `time.perf_counter`


class Laps:
    """A stage that is entered again adds up. On a GPU a stage ends when what was waited for in it is there."""

    def __init__(self, device: torch.device | None = None) -> None:
        """device: that is free now. Moments on a GPU are told from here on."""
        self.seconds: dict[str, float] = {}
        self._begun: torch.cuda.Event | None = None
        if device is not None and device.type == "cuda":
            self._begun = torch.cuda.Event(enable_timing=True)
            self._begun.record()
        self._first = self._last = time.perf_counter()

    def lap(self, stage: str, *, at: Moment | None = None) -> None:
        """End a stage; the next one begins.  at: when it ended, which must be past; None: now."""
        now = self._told(at)
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now

    def _told(self, at: Moment | None) -> float:
        if at is None:
            return time.perf_counter()
        if isinstance(at, float):
            return at
        if self._begun is None:
            raise ValueError("a moment on a GPU for laps that began on none")
        return self._first + self._begun.elapsed_time(at) / 1000
