"""The inside of the engine process: the newest steering in, chunks of frames out. Alone imports torch, when it runs."""

from __future__ import annotations

import math
import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Iterator, MutableSequence, Sequence
from contextlib import contextmanager
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
from explorer.flight import Flight, lasting, open_flight, save_flight
from explorer.messages import (
    Begin,
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
    Reword,
    Spare,
    Stop,
    Taken,
)
from explorer.pace import Pace
from explorer.pilot import PilotState, at_rest
from explorer.predict import Flown, foretold, reconciled, zoomed

if TYPE_CHECKING:
    from engine.engine import Chunk
    from engine.opening import World
    from engine.state import StreamState

SLOTS = 2  # chunks in shared memory: one being copied out, one being written
MARGIN = 0.10  # seconds: a chunk is meant to be ready this long before it is due
REST = 2  # chunks without motion after which the engine rests, in a world where nothing moves by itself
BEAT = 0.25  # seconds between signs of life


class Inbox:
    """Newest commands, kept by a reading thread, so that a long step never fills the pipe.

    The thread ends the process when the window says so, or is gone: nothing outlives its parent.
    """

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._news = threading.Condition()
        self._begin: Begin | Resume | None = None
        self._reword: Reword | None = None
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
                self._begin, self._reword, self._once = message, None, 0
            case Reword():
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

    def take_reword(self) -> Reword | None:
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


@dataclass
class Host:
    """Runs flights with one engine."""

    engine: World
    pipe: Connection
    inbox: Inbox
    memory: SharedMemory
    pulse: Pulse
    spool: Path | None  # where states are kept after every chunk; None: nowhere
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=4))  # seconds of the last steps
    pace: Pace = field(default_factory=Pace)
    spared: int = 0  # cores

    def run(self) -> None:
        while True:
            self.inbox.wait_begin()
            begin = self.inbox.take_begin()
            while begin is not None:
                begin = self._fly(begin)

    def _fly(self, begin: Begin | Resume) -> Begin | Resume | None:
        """Until the next flight is asked for."""
        flight = self._start(begin) if isinstance(begin, Begin) else self._resume(begin)
        if flight is None:
            return None
        while (then := self.inbox.take_begin()) is None:
            if self._rests(flight):
                self.pipe.send(Resting())
                self.inbox.wait_called(flight.used)
            elif self.inbox.wait_start(ahead=max(self.recent, default=0.5) + MARGIN):
                flight = self._step(self._reworded(flight))
        return then

    def _rests(self, flight: Flight) -> bool:
        """Nothing is generated where nothing would change: nobody moves, in a world where nothing moves by itself."""
        still = self.engine.spec.static and flight.rested >= REST
        return still and not self.inbox.called(flight.used)

    def _start(self, begin: Begin) -> Flight:
        started = time.perf_counter()
        with self.pulse.working():
            chunk = self.engine.start(
                begin.picture,
                pose=begin.pose,
                intrinsics=begin.intrinsics,
                words=begin.words,
                seed=begin.seed,
            )
        flight = Flight(
            id=begin.flight,
            intrinsics=begin.intrinsics,
            state=chunk.state,
            pilot=PilotState(begin.pose),
            used=self.inbox.steering,
            index=0,
        )
        used = self.inbox.steering
        flight = Flight(
            id=begin.flight,
            intrinsics=begin.intrinsics,
            state=chunk.state,
            pilot=PilotState(begin.pose, used=used),
            used=used,
            index=0,
        )
        self.inbox.end = 0.0
        flight = self._send(flight, chunk, (begin.pose,), begin.intrinsics, started=started)
        self._keep(flight)
        return flight

    def _resume(self, resume: Resume) -> Flight | None:
        """None where the file is no good: that is said, and the engine waits for something else to do."""
        try:
            with self.pulse.working():
                flight = open_flight(
                    resume.path, lasting(self.engine), id=resume.flight, used=self.inbox.steering
                )
        except ValueError as error:
            self.pipe.send(Refused(resume.flight, str(error)))
            return None
        self.inbox.end = 0.0
        return flight

    def _reworded(self, flight: Flight) -> Flight:
        reword = self.inbox.take_reword()
        if reword is None:
            return flight
        return replace(flight, state=lasting(self.engine).reworded(flight.state, reword.words), rested=0)

    def _spare_cores(self) -> None:
        """A core that draws and computes by turns keeps every other one waiting."""
        if self.spared != self.inbox.spare:
            import torch

            self.spared = self.inbox.spare
            torch.set_num_threads(max(1, (os.cpu_count() or 1) - self.spared))

    def _step(self, flight: Flight) -> Flight:
        started = time.perf_counter()
        self._spare_cores()
        spec = self.engine.spec
        flown = self._flown(flight, started)
        poses, lens, pilot = self._aim(flight, flown, started)
        if self.pace.mode != self.inbox.refining:
            self.pace = self.pace.chosen(self.inbox.refining)
        state = replace(flight.state, refining=self.pace.refining)
        with self.pulse.working():
            chunk, discarded = finite_step(self.engine, state, poses, intrinsics=lens)
        rested = flight.rested + 1 if at_rest(flight.pilot.pose, pilot.pose) else 0
        flight = replace(
            flight,
            state=chunk.state,
            pilot=pilot,
            used=flown.steering,
            rested=rested,
            discarded=flight.discarded + discarded,
        )
        seconds = time.perf_counter() - started
        self.recent.append(seconds)
        if chunk.state.refiner is not None:
            self.pace = self.pace.after(chunk.timing, seconds=seconds, length=spec.chunk_frames / spec.fps)
        flight = self._send(flight, chunk, poses, lens, started=started)
        self._keep(flight)
        return flight

    def _keep(self, flight: Flight) -> None:
        """The state goes where the end of this process does not reach it. A full disk does not end the flight."""
        if self.spool is None:
            return
        started = time.perf_counter()
        path = self.spool / f"{flight.id}-{flight.index:09d}.world"
        with self.pulse.working():
            try:
                size = save_flight(path, flight, lasting(self.engine))
            except OSError:
                size = 0
        seconds = time.perf_counter() - started
        self.pipe.send(Kept(flight=flight.id, index=flight.index - 1, path=path, size=size, seconds=seconds))

    def _flown(self, flight: Flight, now: float) -> Flown:
        """The pilot's newest word; until it flies here, the hands at the place where the flight begins."""
        flown = self.inbox.flown
        if flown is not None and flown.flight == flight.id:
            return flown
        held = replace(flight.used, controls=self.inbox.steering.controls)
        pilot = replace(flight.pilot, used=flight.used)
        return Flown(flight=flight.id, steering=held, pilot=pilot, time=now)

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
        lens = zoomed(flight.intrinsics, states[-1].zoom)
        return poses, lens, replace(states[-1], pose=poses[-1])

    def _send(
        self, flight: Flight, chunk: Chunk, poses: tuple[Pose, ...], lens: Intrinsics, *, started: float
    ) -> Flight:
        seconds = time.perf_counter() - started
        self.inbox.wait_slot()
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
                flight=flight.id,
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
    engine: World, state: StreamState, poses: Sequence[Pose], *, intrinsics: Intrinsics
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


def _shared(size: int) -> SharedMemory:
    """Memory that the window sees too. Raises ValueError where there is too little: writing to it would kill us."""
    place = Path("/dev/shm")
    if place.is_dir() and (free := shutil.disk_usage(place).free) < size:
        raise ValueError(
            f"frames need {size >> 20} MB of shared memory and {place} has {free >> 20} MB free: "
            "in a container, start it with --shm-size 1g"
        )
    return SharedMemory(create=True, size=size)


def _keeps(engine: World) -> bool:
    try:
        lasting(engine)
    except ValueError:
        return False
    return True


def serve(
    pipe: Connection,
    shared: MutableSequence[float],
    *,
    model: str,
    assets: Path,
    device: str,
    threads: int | None,
    nice: int,
    setup: Setup | None = None,
    spool: Path | None,
) -> None:
    """The engine process from its first line to its last."""
    inbox, pulse = Inbox(pipe), Pulse(shared)
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
        memory = _shared(Slots.size(spec))
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
        Host(engine, pipe, inbox, memory, pulse, spool if _keeps(engine) else None).run()
    except (ValueError, RuntimeError, FloatingPointError, MemoryError, OSError, ImportError) as error:
        pipe.send(Failed(" ".join(str(error).split()) or type(error).__name__))
