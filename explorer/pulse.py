"""Whether the engine process is alive and at work, as the window can see without asking."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, MutableSequence
from contextlib import contextmanager

BEAT = 0.25  # seconds between signs of life


class Pulse:
    """Signs of life, in memory that the window reads: a thread beats; beside it stands when the work in hand was begun."""

    def __init__(self, shared: MutableSequence[float]) -> None:
        """shared: [2] perf_counter seconds: the last beat, and the beginning of the work in hand (0: none)."""
        self._shared = shared
        threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        while True:
            self._shared[0] = time.perf_counter()
            time.sleep(BEAT)

    @contextmanager
    def working(self) -> Iterator[None]:
        self._shared[1] = time.perf_counter()
        try:
            yield
        finally:
            self._shared[1] = 0.0
