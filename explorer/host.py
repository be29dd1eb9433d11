"""The inside of the engine process: the newest steering in, chunks of frames out. Alone imports torch, when it runs."""

from __future__ import annotations

import os
import shutil
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
from engine.setup import Refining, Setup
from explorer.controls import Steering
from explorer.messages import Begin, Failed, Frames, Progress, Ready, Refine, Resting, Stop, Taken
from explorer.pace import Pace
from explorer.pilot import PilotState, at_rest, roll_forward

if TYPE_CHECKING:
    from engine.engine import Chunk
    from engine.opening import World
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
        self.steering = Steering()
        self.refining: Refining = "auto"
        self.free = deque(range(SLOTS))
        self.end = 0.0  # perf_counter seconds at which the last frame's time on screen is over
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
            case Steering():
                self.steering = message
            case Taken(slot=slot, end=end):
                self.free.append(slot)
                self.end = end or self.end
            case Begin():
                self._begin = message
            case Refine(mode=mode):
                self.refining = mode
            case Stop():
                os._exit(0)

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
    pilot: PilotState
    used: Steering
    index: int  # of the next frame
    rested: int = 0  # chunks without motion
    discarded: int = 0


@dataclass
class Host:
    """Runs flights with one engine."""

    engine: World
    pipe: Connection
    inbox: Inbox
    memory: SharedMemory
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=4))  # seconds of the last steps
    pace: Pace = field(default_factory=Pace)

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
        flight = Flight(begin=begin, state=chunk.state, pilot=PilotState(begin.pose), used=used, index=0)
        self.inbox.end = 0.0
        return self._send(flight, chunk, (begin.pose,), seconds=time.perf_counter() - started)

    def _step(self, flight: Flight) -> Flight:
        started = time.perf_counter()
        spec = self.engine.spec
        poses, pilot, used = roll_forward(
            flight.pilot, self.inbox.steering, flight.used, frames=spec.chunk_frames, fps=spec.fps
        )
        if self.pace.mode != self.inbox.refining:
            self.pace = self.pace.chosen(self.inbox.refining)
        state = replace(flight.state, refining=self.pace.refining)
        chunk, discarded = finite_step(self.engine, state, poses, intrinsics=flight.begin.intrinsics)
        rested = flight.rested + 1 if at_rest(flight.pilot, pilot) else 0
        flight = replace(
            flight,
            state=chunk.state,
            pilot=pilot,
            used=used,
            rested=rested,
            discarded=flight.discarded + discarded,
        )
        seconds = time.perf_counter() - started
        self.recent.append(seconds)
        if chunk.state.refiner is not None:
            self.pace = self.pace.after(chunk.timing, seconds=seconds, length=spec.chunk_frames / spec.fps)
        return self._send(flight, chunk, poses, seconds=seconds)

    def _send(self, flight: Flight, chunk: Chunk, poses: tuple[Pose, ...], *, seconds: float) -> Flight:
        self.inbox.wait_start(ahead=float("inf"))  # a free slot
        if not self.inbox.free:
            return flight
        slot = self.inbox.free.popleft()
        for target, frame in zip(
            slot_frames(self.memory, self.engine.spec, slot), chunk.frames, strict=False
        ):
            target[...] = frame.pixels
        count = len(chunk.frames)
        self.inbox.end = max(self.inbox.end, time.perf_counter()) + count / self.engine.spec.fps
        self.pipe.send(
            Frames(
                flight=flight.begin.flight,
                slot=slot,
                first=flight.index,
                poses=poses,
                intrinsics=flight.begin.intrinsics,
                input=flight.used.input,
                seconds=seconds,
                timing=dict(chunk.timing),
                discarded=flight.discarded,
            )
        )
        return replace(flight, index=flight.index + count)


def finite_step(
    engine: World, state: StreamState, poses: Sequence[Pose], *, intrinsics: Intrinsics
) -> tuple[Chunk, int]:
    """A chunk, and how many were thrown away for it: the state before is untouched, so once is tried again."""
    try:
        return engine.step(state, poses, intrinsics=intrinsics), 0
    except FloatingPointError:
        return engine.step(state, poses, intrinsics=intrinsics, attempt=1), 1


def slot_frames(memory: SharedMemory, spec: Any, slot: int) -> NDArray[np.uint8]:
    """One slot of the shared memory as [chunk_frames, Y, X, 3]; spec has chunk_frames, height and width."""
    shape = (spec.chunk_frames, spec.height, spec.width, 3)
    size = int(np.prod(shape))
    return np.ndarray(shape, np.uint8, buffer=memory.buf, offset=slot * size)


def _shared(size: int) -> SharedMemory:
    """Memory that the window sees too. Raises ValueError where there is too little: writing to it would kill us."""
    place = Path("/dev/shm")
    if place.is_dir() and (free := shutil.disk_usage(place).free) < size:
        raise ValueError(
            f"frames need {size >> 20} MB of shared memory and {place} has {free >> 20} MB free: "
            "in a container, start it with --shm-size 1g"
        )
    return SharedMemory(create=True, size=size)


def serve(
    pipe: Connection,
    *,
    model: str,
    assets: Path,
    device: str,
    threads: int | None,
    nice: int,
    setup: Setup | None = None,
) -> None:
    """The engine process from its first line to its last."""
    inbox = Inbox(pipe)
    inbox.refining = "auto" if setup is None else setup.refiner
    if hasattr(os, "nice"):
        os.nice(nice)
    try:
        pipe.send(Progress("starting torch"))
        from engine.opening import open_world

        engine = open_world(
            model,
            assets=assets,
            device=device,
            threads=threads,
            setup=setup,
            on_step=lambda step: pipe.send(Progress(step)),
        )
        spec = engine.spec
        memory = _shared(SLOTS * spec.chunk_frames * spec.height * spec.width * 3)
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
