"""A viewer at the other end of a real socket."""

from __future__ import annotations

import time
from collections.abc import Callable

from websockets.sync.client import ClientConnection

from explorer import protocol as wire


class Client:
    """A viewer at the other end of a real socket."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    def say(self, message: wire.Message) -> None:
        self.socket.send(wire.encode(message))

    def hear(self, kind: type[wire.Message], timeout: float = 5.0) -> wire.Message:
        """The next message of a kind; others on the way are passed over."""
        deadline = time.perf_counter() + timeout
        while True:
            data = self.socket.recv(timeout=max(deadline - time.perf_counter(), 0.0))
            message = wire.decode(data, known=wire.FROM_SERVER, limit=wire.MAX_OUTGOING)
            if isinstance(message, kind):
                return message


def until(true: Callable[[], object], timeout: float = 3.0) -> None:
    deadline = time.perf_counter() + timeout
    while not true():
        assert time.perf_counter() < deadline, "it never happened"
        time.sleep(0.005)
