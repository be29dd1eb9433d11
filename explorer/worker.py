"""The engine in its own process, seen from the window: steer it, collect what it made, stop it."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.camera import Intrinsics, Pose
from engine.frame import Frame
from explorer.host import Slots, serve
from explorer.messages import Begin, Failed, Frames, Progress, Ready, Resting, Stop, Taken
from explorer.predict import Flown

NICE = 5  # the window answers first


@dataclass(frozen=True, slots=True)
class Chunk:
    """Frames that have left the engine process, and how they were made."""

    frames: tuple[Frame, ...]
    made: Frames


Event = Progress | Ready | Resting | Failed | Chunk


class EngineProcess:
    """A spawned process which loads the model at once and then waits for a picture."""

    def __init__(
        self, model: str, *, assets: Path, device: str = "auto", threads: int | None = None, nice: int = NICE
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        options = dict(model=model, assets=assets, device=device, threads=threads, nice=nice)
        self._process = context.Process(target=serve, args=(theirs,), kwargs=options, daemon=True)
        with _no_interrupt():
            self._process.start()
        theirs.close()
        self._memory: SharedMemory | None = None
        self._flown: Flown | None = None
        self._flight = 0
        self._failed = False
        self.spec: Ready | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def begin(
        self,
        picture: NDArray[np.uint8],
        *,
        pose: Pose,
        intrinsics: Intrinsics,
        words: tuple[int, ...] | None = None,
        seed: int = 0,
    ) -> None:
        """Start a flight from a [Y, X, 3] picture at the world's size. What was under way is dropped."""
        self._flight += 1
        self._say(
            Begin(
                flight=self._flight,
                picture=picture,
                pose=pose,
                intrinsics=intrinsics,
                words=words,
                seed=seed,
            )
        )

    def steer(self, flown: Flown) -> None:
        """Tell the engine where the pilot is and what is held; nothing is sent while nothing changes."""
        before, self._flown = self._flown, flown
        if (
            before is None
            or before.steering != flown.steering
            or before.flight != flown.flight
            or before.pilot.moving(before.steering)
        ):
            self._say(flown)

    def taken(self, chunk: Chunk, *, end: float, period: float = 0.0) -> None:
        """Say when the chunk's time on screen is over (perf_counter seconds): the next one is started to meet it.

        period: seconds for which each frame is shown.
        """
        self._say(Taken(chunk.made.slot, end, period))

    def events(self, timeout: float = 0.0) -> list[Event]:
        """All that the engine reported since the last call; waits up to `timeout` seconds for a first one.

        Every `Chunk` must be answered by `taken`.
        """
        out: list[Event] = []
        try:
            while not self._failed and self._pipe.poll(0.0 if out else timeout):
                out += self._receive(self._pipe.recv())
        except (EOFError, OSError):
            out.append(self._gone())
        self._failed = self._failed or any(isinstance(event, Failed) for event in out)
        return out

    def _receive(self, message: object) -> list[Event]:
        match message:
            case Ready(memory=memory):
                self.spec = message
                self._memory = SharedMemory(memory)
                self._memory.unlink()  # lives on while both hold it; nothing is left behind whoever dies first
                return [message]
            case Frames(flight=flight, slot=slot) if flight != self._flight:
                self._say(Taken(slot, 0.0))
                return []
            case Frames():
                return [Chunk(self._copied(message), message)]
            case Progress() | Resting() | Failed():
                return [message]
        raise AssertionError(f"unknown message {message!r}")

    def _copied(self, made: Frames) -> tuple[Frame, ...]:
        assert self._memory is not None
        slots, count = Slots(self._memory, self.spec), len(made.poses)
        pixels = slots.pixels(made.slot)[:count].copy()
        depth = slots.depth(made.slot)[:count].copy() if made.depth else [None] * count
        return tuple(
            Frame(
                pixels=pixels[i],
                pose=pose,
                intrinsics=made.intrinsics,
                index=made.first + i,
                world=str(made.flight),
                inverse_depth=depth[i],
            )
            for i, pose in enumerate(made.poses)
        )

    def _gone(self) -> Failed:
        self._process.join(1.0)
        return Failed(
            f"the engine process ended unexpectedly (exit code {self._process.exitcode}): start again"
        )

    def _say(self, message: object) -> None:
        with suppress(OSError):  # it is gone; events() says so
            self._pipe.send(message)

    def stop(self) -> None:
        """End the process and wait for it. Safe to call twice."""
        if self._pipe.closed:
            return
        self._say(Stop())
        self._pipe.close()
        self._process.join(2.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        if self._memory is not None:
            self._memory.close()


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Ctrl-C is for the window to handle: a process started in here never sees it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
