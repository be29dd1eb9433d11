"""One-slot hand-over between threads: the newest value wins."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """`put` replaces what is there, `take` waits for the newest value and empties the slot."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._slot: list[T] = []
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """Values replaced before anybody took them."""
        return self._dropped

    def put(self, value: T) -> None:
        with self._changed:
            self._dropped += len(self._slot)
            self._slot[:] = [value]
            self._changed.notify()

    def take(self, timeout: float | None = 0.0) -> T | None:
        """The newest value, or None when there is none within `timeout` seconds (None: wait for ever)."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._slot), timeout)
            return self._slot.pop() if self._slot else None
