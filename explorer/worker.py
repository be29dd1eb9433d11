"""The engine in its own process, seen from the window: steer it, collect what it made, stop it."""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.camera import Intrinsics, Pose
from engine.frame import Frame
from engine.setup import Refining, Setup
from explorer.host import serve
from explorer.messages import (
    Begin,
    Drawn,
    Failed,
    Frames,
    Kept,
    Once,
    Pause,
    Progress,
    Ready,
    Refine,
    Refused,
    Resting,
    Resume,
    Retell,
    Reword,
    Spare,
    Stop,
    Taken,
    Told,
)
from explorer.predict import Flown
from explorer.slots import Slots

NICE = 5  # the window answers first
PATIENCE = 4.0  # seconds without a sign of life, or of work on one chunk, after which the engine hangs
LOADING = 120.0  # seconds without a sign of life while the model is loaded


@dataclass(frozen=True, slots=True)
class Chunk:
    """Frames that have left the engine process, and how they were made."""

    frames: tuple[Frame, ...]
    made: Frames


Event = Progress | Ready | Drawn | Resting | Failed | Kept | Refused | Told | Chunk


class Outbox:
    """Sends on a thread of its own: an engine that no longer reads never stops the window."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._news = threading.Condition()
        self._waiting: list[object] = []
        threading.Thread(target=self._send, daemon=True).start()

    def put(self, message: object) -> None:
        with self._news:
            if isinstance(message, Flown) and self._waiting and isinstance(self._waiting[-1], Flown):
                self._waiting.pop()  # the newest one says it all
            self._waiting.append(message)
            self._news.notify()

    def _send(self) -> None:
        with suppress(OSError, ValueError):  # the engine is gone, or the pipe closed; events() says so
            while True:
                with self._news:
                    self._news.wait_for(lambda: self._waiting)
                    message = self._waiting.pop(0)
                self._pipe.send(message)
                if isinstance(message, Stop):
                    return


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
        spool: Sequence[Path] = (),
        flight: int = 0,
    ) -> None:
        """spool: folders where states are kept, the fastest first.  flight: ids of flights are larger than this."""
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._pulse = context.Array("d", 2, lock=False)  # see `Pulse`
        self._pulse[0] = time.perf_counter()
        options = dict(
            model=model, assets=assets, device=device, threads=threads, nice=nice, setup=setup, spool=spool
        )
        self._process = context.Process(target=serve, args=(theirs, self._pulse), kwargs=options, daemon=True)
        with no_interrupt():
            self._process.start()
        theirs.close()
        self._outbox = Outbox(self._pipe)
        self._memory: SharedMemory | None = None
        self._flown: Flown | None = None
        self.flight = flight
        self._failed = False
        self.spec: Ready | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def begin(
        self,
        picture: NDArray[np.uint8] | None,
        *,
        pose: Pose,
        intrinsics: Intrinsics,
        words: tuple[int, ...] | None = None,
        seed: int = 0,
        inverse_depth: NDArray[np.float16] | None = None,
    ) -> None:
        """Start a flight from a [Y, X, 3] picture at the world's size, with its depth [Y, X] where it is known, or from
        the words alone: then the picture that is drawn comes first, as `Drawn`.

        What was under way is dropped.
        """
        self.flight += 1
        self._say(
            Begin(
                flight=self.flight,
                picture=picture,
                pose=pose,
                intrinsics=intrinsics,
                words=words,
                seed=seed,
                inverse_depth=inverse_depth,
            )
        )

    def resume(self, path: Path) -> None:
        """Go on from the state in a file. What was under way is dropped."""
        self.flight += 1
        self._say(Resume(self.flight, path))

    def reword(self, words: tuple[int, ...] | None) -> None:
        self._say(Reword(words))

    def retell(self, prompt: str, path: Path) -> None:
        """Another prompt, whose text lies in a file."""
        self._say(Retell(prompt, path))

    def pause(self, on: bool) -> None:
        self._say(Pause(on))

    def spare(self, cores: int) -> None:
        """Leave so many cores to the window."""
        self._say(Spare(cores))

    def once(self) -> None:
        """One chunk, though paused."""
        self._say(Once())

    def hangs(self, now: float, *, since: float = 0.0, patience: float = PATIENCE) -> bool:
        """Whether the process lives but has done nothing for `patience` seconds.

        since: perf_counter seconds before which silence does not count.
        """
        beat, work = self._pulse
        if self.spec is None:
            return now - max(beat, since) > LOADING
        return now - max(beat, since) > patience or bool(work and now - max(work, since) > patience)

    def kill(self) -> None:
        """End the process now, whatever it does."""
        self._process.kill()
        self._process.join()

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

    def refine(self, mode: Refining) -> None:
        """When the second stage is to work, from the next chunk on; worlds without one do not mind."""
        self._say(Refine(mode))

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
            case Frames(flight=flight, slot=slot) if flight != self.flight:
                self._say(Taken(slot, 0.0))
                return []
            case Frames():
                return [Chunk(self._copied(message), message)]
            case Refused(flight=flight) | Drawn(flight=flight) if flight != self.flight:
                return []
            case Progress() | Drawn() | Resting() | Failed() | Kept() | Refused() | Told():
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
        self._outbox.put(message)

    def stop(self) -> None:
        """End the process and wait for it. Safe to call twice."""
        if self._pipe.closed:
            return
        self._say(Stop())
        self._process.join(2.0)
        if self._process.is_alive():
            self.kill()
        self._pipe.close()
        if self._memory is not None:
            self._memory.close()


@contextmanager
def no_interrupt() -> Iterator[None]:
    """Ctrl-C is for the window to handle: a process started in here never sees it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker  # POSIX has one

    resource_tracker.ensure_running()  # started in here, it would leave the signal unblocked
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
