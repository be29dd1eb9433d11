"""What the window has said, inside the engine process: the newest of each kind, read by a thread of its own."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from multiprocessing.connection import Connection

from engine.setup import Refining
from explorer.controls import Steering
from explorer.messages import Begin, Once, Pause, Refine, Resume, Retell, Reword, Spare, Stop, Taken
from explorer.predict import Flown
from explorer.slots import SLOTS


class Inbox:
    """Newest commands, kept by a reading thread, so that a long step never fills the pipe.

    The thread ends the process when the window says so, or is gone: nothing outlives its parent.
    """

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._news = threading.Condition()
        self._begin: Begin | Resume | None = None
        self._reword: Reword | Retell | None = None
        self._paused = False
        self._once = 0  # chunks asked for one by one
        self.flown: Flown | None = None
        self.refining: Refining = "auto"
        self.spare = 0  # cores that the window draws with
        self.free = deque(range(SLOTS))
        self.end = 0.0  # perf_counter seconds at which the last frame's time on screen is over
        self.period = 0.0  # seconds for which the window shows each frame
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                message = self._pipe.recv()
            except (EOFError, OSError):
                os._exit(0)
            with self._news:
                self._sort(message)
                self._news.notify()

    def _sort(self, message: object) -> None:
        match message:
            case Flown():
                self.flown = message
            case Taken(slot=slot, end=end, period=period):
                self.free.append(slot)
                self.end = end or self.end
                self.period = period or self.period
            case Begin() | Resume():
                self._begin, self._once = message, 0
                if not isinstance(self._reword, Retell):  # a prompt is the world's, words are the scene's
                    self._reword = None
            case Reword() | Retell():
                self._reword = message
            case Pause(on=on):
                self._paused = on
            case Once():
                self._once += 1
            case Refine(mode=mode):
                self.refining = mode
            case Spare(cores=cores):
                self.spare = cores
            case Stop():
                os._exit(0)

    @property
    def steering(self) -> Steering:
        """What hands did last."""
        return self.flown.steering if self.flown else Steering()

    def take_begin(self) -> Begin | Resume | None:
        with self._news:
            begin, self._begin = self._begin, None
            return begin

    def take_reword(self) -> Reword | Retell | None:
        with self._news:
            reword, self._reword = self._reword, None
            return reword

    def wait_begin(self) -> None:
        with self._news:
            self._news.wait_for(lambda: self._begin)

    def wait_start(self, *, ahead: float) -> bool:
        """Until a chunk must be started to be ready `ahead` seconds from then; False: another flight is asked for."""
        with self._news:
            while self._begin is None:
                left = self.end - ahead - time.perf_counter()
                if self._once:
                    self._once -= 1
                    return True
                if left <= 0 and not self._paused:
                    return True
                self._news.wait(None if self._paused else left)
            return False

    def wait_slot(self) -> None:
        """Until there is room for a chunk, or another flight is asked for."""
        with self._news:
            self._news.wait_for(lambda: self.free or self._begin)

    def called(self, seen: Steering) -> bool:
        """Whether somebody has steered since, or wants something else of the engine."""
        return bool(self._begin or self._reword or self._once or self.steering.input != seen.input)

    def wait_called(self, seen: Steering) -> None:
        with self._news:
            self._news.wait_for(lambda: self.called(seen))
