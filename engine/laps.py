"""Seconds by stage of something that is done in stages."""

from __future__ import annotations

import time


class Laps:
    """A stage that is entered again adds up. On a GPU a stage ends with whatever is waited for in it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """End a stage; the next one begins."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now
