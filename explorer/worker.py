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
from engine.setup import Refining, Setup
from explorer.controls import Steering
from explorer.host import serve, slot_frames
from explorer.messages import Begin, Failed, Frames, Progress, Ready, Refine, Resting, Stop, Taken

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
        self,
        model: str,
        *,
        assets: Path,
        device: str = "auto",
        threads: int | None = None,
        nice: int = NICE,
        setup: Setup | None = None,
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        options = dict(model=model, assets=assets, device=device, threads=threads, nice=nice, setup=setup)
        self._process = context.Process(target=serve, args=(theirs,), kwargs=options, daemon=True)
        with no_interrupt():
            self._process.start()
        theirs.close()
        self._memory: SharedMemory | None = None
        self._steering = Steering()
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

    def steer(self, steering: Steering) -> None:
        """Tell the engine what is held now; nothing is sent when nothing changed."""
        if steering != self._steering:
            self._steering = steering
            self._say(steering)

    def refine(self, mode: Refining) -> None:
        """When the second stage is to work, from the next chunk on; worlds without one do not mind."""
        self._say(Refine(mode))

    def taken(self, chunk: Chunk, *, end: float) -> None:
        """Say when the chunk's time on screen is over (perf_counter seconds): the next one is started to meet it."""
        self._say(Taken(chunk.made.slot, end))

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
        pixels = slot_frames(self._memory, self.spec, made.slot)[: len(made.poses)].copy()
        return tuple(
            Frame(
                pixels=pixels[i],
                pose=pose,
                intrinsics=made.intrinsics,
                index=made.first + i,
                world=str(made.flight),
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
def no_interrupt() -> Iterator[None]:
    """Ctrl-C is for the window to handle: a process started in here never sees it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
