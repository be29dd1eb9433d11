"""The engine's end of the pipe, for more than one thread."""

from __future__ import annotations

import threading
from multiprocessing.connection import Connection


class Post:
    """Messages leave whole, one after the other."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()

    def send(self, message: object) -> None:
        with self._lock:
            self._pipe.send(message)
