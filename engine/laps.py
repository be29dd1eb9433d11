"""Seconds by stage of something that is done in stages."""

from __future__ import annotations

import time


class Laps:
    """A stage that is entered again adds up. On a GPU a stage ends when what was waited for in it is there."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str, *, at: float | None = None) -> None:
        """End a stage; the next one begins.  at: when it ended, by `time.perf_counter`; None: now."""
        now = time.perf_counter() if at is None else at
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now
