"""The inside of the engine process: the newest steering in, chunks of frames out. Alone imports torch, when it runs."""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.camera import Intrinsics, Pose
from explorer.controls import Steering
from explorer.messages import Begin, Failed, Frames, Progress, Ready, Resting, Stop, Taken
from explorer.pilot import PilotState, at_rest
from explorer.predict import Flown, foretold, reconciled, zoomed

if TYPE_CHECKING:
    from engine.engine import Chunk, Engine
    from engine.state import StreamState

SLOTS = 2  # chunks in shared memory: one being copied out, one being written
MARGIN = 0.06  # seconds: a chunk is meant to be ready this long before it is due
REST = 2  # chunks without motion after which the engine rests


class Inbox:
    """Newest commands, kept by a reading thread, so that a long step never fills the pipe.

    The thread ends the process when the window says so, or is gone: nothing outlives its parent.
    """

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._news = threading.Condition()
        self._begin: Begin | None = None
        self.flown: Flown | None = None
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
            case Begin():
                self._begin = message
            case Stop():
                os._exit(0)

    @property
    def steering(self) -> Steering:
        """What hands did last."""
        return self.flown.steering if self.flown else Steering()

    def take_begin(self) -> Begin | None:
        with self._news:
            begin, self._begin = self._begin, None
            return begin

    def wait_begin(self) -> None:
        with self._news:
            self._news.wait_for(lambda: self._begin)

    def wait_start(self, *, ahead: float) -> None:
        """Until a chunk must be started to be ready `ahead` seconds from then, or another flight is asked for."""
        with self._news:
            while self._begin is None:
                left = self.end - ahead - time.perf_counter()
                if self.free and left <= 0:
                    return
                self._news.wait(left if self.free else None)

    def wait_steering(self, seen: Steering) -> None:
        """Until somebody steers, or another flight is asked for."""
        with self._news:
            self._news.wait_for(lambda: self._begin or self.steering.input != seen.input)


@dataclass(frozen=True, kw_only=True)
class Flight:
    """One flight between two chunks: a value, like the engine's own state inside it."""

    begin: Begin
    state: StreamState
    pilot: PilotState  # at the newest frame
    used: Steering
    index: int  # of the next frame
    rested: int = 0  # chunks without motion
    discarded: int = 0


@dataclass
class Host:
    """Runs flights with one engine."""

    engine: Engine
    pipe: Connection
    inbox: Inbox
    memory: SharedMemory
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=4))  # seconds of the last steps

    def run(self) -> None:
        while True:
            self.inbox.wait_begin()
            begin = self.inbox.take_begin()
            while begin is not None:
                begin = self._fly(begin)

    def _fly(self, begin: Begin) -> Begin | None:
        """Until the next flight is asked for."""
        flight = self._start(begin)
        while (then := self.inbox.take_begin()) is None:
            self.inbox.wait_start(ahead=max(self.recent, default=0.5) + MARGIN)
            if flight.rested >= REST and not self._called(flight):
                self.pipe.send(Resting())
                self.inbox.wait_steering(flight.used)
            else:
                flight = self._step(flight)
        return then

    def _called(self, flight: Flight) -> bool:
        return self.inbox.steering.input != flight.used.input

    def _start(self, begin: Begin) -> Flight:
        started = time.perf_counter()
        chunk = self.engine.start(
            begin.picture, pose=begin.pose, intrinsics=begin.intrinsics, words=begin.words, seed=begin.seed
        )
        used = self.inbox.steering
        flight = Flight(
            begin=begin, state=chunk.state, pilot=PilotState(begin.pose, used=used), used=used, index=0
        )
        self.inbox.end = 0.0
        lens = begin.intrinsics
        return self._send(flight, chunk, (begin.pose,), lens, started=started)

    def _step(self, flight: Flight) -> Flight:
        started = time.perf_counter()
        flown = self._flown(flight, started)
        poses, lens, pilot = self._aim(flight, flown, started)
        chunk, discarded = finite_step(self.engine, flight.state, poses, intrinsics=lens)
        rested = flight.rested + 1 if at_rest(flight.pilot.pose, pilot.pose) else 0
        flight = replace(
            flight,
            state=chunk.state,
            pilot=pilot,
            used=flown.steering,
            rested=rested,
            discarded=flight.discarded + discarded,
        )
        self.recent.append(time.perf_counter() - started)
        return self._send(flight, chunk, poses, lens, started=started)

    def _flown(self, flight: Flight, now: float) -> Flown:
        """The pilot's newest word; until it flies here, the hands at the place where the flight begins."""
        flown = self.inbox.flown
        if flown is not None and flown.flight == flight.begin.flight:
            return flown
        held = replace(flight.used, controls=self.inbox.steering.controls)
        pilot = replace(flight.pilot, used=flight.used)
        return Flown(flight=flight.begin.flight, steering=held, pilot=pilot, time=now)

    def _aim(
        self, flight: Flight, flown: Flown, now: float
    ) -> tuple[tuple[Pose, ...], Intrinsics, PilotState]:
        """Poses and lens of the coming chunk: where the pilot will be when each of its frames is shown; and its end."""
        spec = self.engine.spec
        period = max(self.inbox.period, 1.0 / spec.fps)
        begin = max(self.inbox.end, now + max(self.recent, default=0.0))
        times = [begin + i * period for i in range(-1, spec.chunk_frames)]
        before, *states = foretold(flown, times)
        poses = reconciled(
            flight.pilot.pose, before.pose, [s.pose for s in states], seconds=period * spec.chunk_frames
        )
        lens = zoomed(flight.begin.intrinsics, states[-1].zoom)
        return poses, lens, replace(states[-1], pose=poses[-1])

    def _send(
        self, flight: Flight, chunk: Chunk, poses: tuple[Pose, ...], lens: Intrinsics, *, started: float
    ) -> Flight:
        seconds = time.perf_counter() - started
        self.inbox.wait_start(ahead=float("inf"))  # a free slot
        if not self.inbox.free:
            return flight
        slot = self.inbox.free.popleft()
        place = Slots(self.memory, self.engine.spec)
        for i, frame in enumerate(chunk.frames):
            place.pixels(slot)[i] = frame.pixels
            if frame.inverse_depth is not None:
                place.depth(slot)[i] = frame.inverse_depth
        count = len(chunk.frames)
        self.inbox.end = max(self.inbox.end, time.perf_counter()) + count / self.engine.spec.fps
        self.pipe.send(
            Frames(
                flight=flight.begin.flight,
                slot=slot,
                first=flight.index,
                poses=poses,
                intrinsics=lens,
                input=flight.used.input,
                seconds=seconds,
                started=started,
                sent=time.perf_counter(),
                depth=all(frame.inverse_depth is not None for frame in chunk.frames),
                timing=dict(chunk.timing),
                discarded=flight.discarded,
            )
        )
        return replace(flight, index=flight.index + count)


def finite_step(
    engine: Engine, state: StreamState, poses: Sequence[Pose], *, intrinsics: Intrinsics
) -> tuple[Chunk, int]:
    """A chunk, and how many were thrown away for it: the state before is untouched, so once is tried again."""
    try:
        return engine.step(state, poses, intrinsics=intrinsics), 0
    except FloatingPointError:
        return engine.step(state, poses, intrinsics=intrinsics, attempt=1), 1


class Slots:
    """The shared memory as pictures and their inverse depth; spec has chunk_frames, height and width."""

    def __init__(self, memory: SharedMemory, spec: Any) -> None:
        self._memory = memory
        self._shape = (spec.chunk_frames, spec.height, spec.width)

    @staticmethod
    def size(spec: Any) -> int:
        """Bytes in all: per pixel three of colour and two of depth."""
        return SLOTS * spec.chunk_frames * spec.height * spec.width * 5

    def pixels(self, slot: int) -> NDArray[np.uint8]:
        """[chunk_frames, Y, X, 3] RGB."""
        offset = 5 * slot * math.prod(self._shape)
        return np.ndarray((*self._shape, 3), np.uint8, buffer=self._memory.buf, offset=offset)

    def depth(self, slot: int) -> NDArray[np.float16]:
        """[chunk_frames, Y, X] 1/m."""
        offset = (5 * slot + 3) * math.prod(self._shape)
        return np.ndarray(self._shape, np.float16, buffer=self._memory.buf, offset=offset)


def serve(pipe: Connection, *, model: str, assets: Path, device: str, threads: int | None, nice: int) -> None:
    """The engine process from its first line to its last."""
    inbox = Inbox(pipe)
    if hasattr(os, "nice"):
        os.nice(nice)
    try:
        pipe.send(Progress("starting torch"))
        from engine.engine import Engine

        engine = Engine.load(
            model,
            assets=assets,
            device=device,
            threads=threads,
            on_step=lambda step: pipe.send(Progress(step)),
        )
        spec = engine.spec
        memory = SharedMemory(create=True, size=Slots.size(spec))
        pipe.send(
            Ready(
                name=spec.name,
                width=spec.width,
                height=spec.height,
                fps=spec.fps,
                chunk_frames=spec.chunk_frames,
                memory=memory.name,
            )
        )
        Host(engine, pipe, inbox, memory).run()
    except (ValueError, RuntimeError, FloatingPointError, OSError, ImportError) as error:
        pipe.send(Failed(" ".join(str(error).split()) or type(error).__name__))
