"""The inside of the engine process: the newest steering in, chunks of frames out. Alone imports torch, when it runs."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import MutableSequence, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import TYPE_CHECKING

from engine.camera import Intrinsics, Pose
from engine.setup import Setup
from explorer.flight import Flight, open_flight
from explorer.inbox import Inbox
from explorer.keeper import Keeper
from explorer.messages import (
    Begin,
    Drawn,
    Failed,
    Frames,
    Progress,
    Ready,
    Refused,
    Resting,
    Resume,
    Retell,
    Reword,
    Told,
)
from explorer.pace import Pace
from explorer.pilot import PilotState, at_rest
from explorer.post import Post
from explorer.predict import Flown, foretold, reconciled, zoomed
from explorer.pulse import Pulse
from explorer.slots import Slots, shared_memory

if TYPE_CHECKING:
    from engine.engine import Chunk, Engine
    from engine.opening import World
    from engine.sana import SanaEngine
    from engine.state import StreamState

MARGIN = 0.10  # seconds: a chunk is meant to be ready this long before it is due
REST = 2  # chunks without motion after which the engine rests, in a world where nothing moves by itself


@dataclass
class Host:
    """Runs flights with one engine."""

    engine: World
    pipe: Post
    inbox: Inbox
    memory: SharedMemory
    pulse: Pulse
    keeper: Keeper
    prompt: str = ""  # of flights to come, in a world that reads one
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
                inverse_depth=begin.inverse_depth,
            )
        if begin.picture is None:
            first = chunk.frames[0]
            assert first.inverse_depth is not None
            self.pipe.send(Drawn(begin.flight, first.pixels, first.inverse_depth))
        used = self.inbox.steering
        flight = Flight(
            id=begin.flight,
            intrinsics=begin.intrinsics,
            state=chunk.state,
            pilot=PilotState(begin.pose, used=used),
            used=used,
            index=0,
            prompt=self.prompt,
        )
        self.inbox.end = 0.0
        flight = self._send(flight, chunk, (begin.pose,), begin.intrinsics, started=started)
        with self.pulse.working():
            self.keeper.keep(flight)
        return flight

    def _resume(self, resume: Resume) -> Flight | None:
        """None where the file is no good: that is said, and the engine waits for something else to do."""
        try:
            with self.pulse.working():
                flight = open_flight(resume.path, self.engine, id=resume.flight, used=self.inbox.steering)
        except ValueError as error:
            self.pipe.send(Refused(resume.flight, str(error)))
            return None
        self.inbox.end = 0.0
        return flight

    def _reworded(self, flight: Flight) -> Flight:
        """Under other words, or another prompt, where one was asked for."""
        match self.inbox.take_reword():
            case Reword(words=words):
                return replace(flight, state=_pocket(self.engine).reworded(flight.state, words), rested=0)
            case Retell() as retell:
                return self._retold(flight, retell)
        return flight

    def _retold(self, flight: Flight, retell: Retell) -> Flight:
        from engine.prompt import kept_text

        engine = _sana(self.engine)
        try:
            text = kept_text(retell.path)
            state = engine.retold(flight.state, text)
        except ValueError as error:
            self.pipe.send(Told(retell.prompt, why=str(error)))
            return flight
        engine.text, self.prompt = text.to(engine.device), retell.prompt
        self.pipe.send(Told(retell.prompt))
        return replace(flight, state=state, prompt=retell.prompt, rested=0)

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
        with self.pulse.working():
            self.keeper.keep(flight)
        return flight

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
        before, *states = foretold(flown, times, points=flight.around.points)
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
        return replace(flight, index=flight.index + count, around=flight.around.after(chunk.frames[-1]))


def finite_step(
    engine: World, state: StreamState, poses: Sequence[Pose], *, intrinsics: Intrinsics
) -> tuple[Chunk, int]:
    """A chunk, and how many were thrown away for it: the state before is untouched, so once is tried again."""
    try:
        return engine.step(state, poses, intrinsics=intrinsics), 0
    except FloatingPointError:
        return engine.step(state, poses, intrinsics=intrinsics, attempt=1), 1


def _pocket(world: World) -> Engine:
    from engine.engine import Engine

    assert isinstance(world, Engine), f"{world.spec.name} has no vocabulary"
    return world


def _sana(world: World) -> SanaEngine:
    from engine.sana import SanaEngine

    assert isinstance(world, SanaEngine), f"{world.spec.name} reads no prompt"
    return world


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
    spool: Sequence[Path] = (),
) -> None:
    """The engine process from its first line to its last. spool: where states are kept, the fastest place first."""
    inbox, pulse, post = Inbox(pipe), Pulse(shared), Post(pipe)
    inbox.refining = "auto" if setup is None else setup.refiner
    if hasattr(os, "nice"):
        os.nice(nice)
    try:
        post.send(Progress("starting torch"))
        from engine.opening import open_world

        engine = open_world(
            model,
            assets=assets,
            device=device,
            threads=threads,
            setup=setup,
            on_step=lambda step: post.send(Progress(step)),
        )
        spec = engine.spec
        memory = shared_memory(Slots.size(spec))
        post.send(
            Ready(
                name=spec.name,
                width=spec.width,
                height=spec.height,
                fps=spec.fps,
                chunk_frames=spec.chunk_frames,
                memory=memory.name,
                refiner=getattr(engine, "refiner", None) is not None,
            )
        )
        keeper = Keeper(spool, engine, tell=post.send)
        prompt = "" if setup is None else setup.prompt
        Host(engine, post, inbox, memory, pulse, keeper, prompt).run()
    except (ValueError, RuntimeError, FloatingPointError, MemoryError, OSError, ImportError) as error:
        post.send(Failed(" ".join(str(error).split()) or type(error).__name__))
