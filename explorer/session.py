"""A flight as its owner sees it: one engine process, one clock for its frames, and what was measured on the way.

An engine that dies, hangs or cannot go on is replaced by another, which continues from the newest state that was
kept. Should that not lead to a further chunk, the one before is tried, and so on; after FALLS attempts it is given up.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from engine.frame import Frame
from engine.setup import Refining, Setup
from explorer.assets import Scene
from explorer.controls import Steering
from explorer.drift import Drift, Look, drift, look
from explorer.history import History
from explorer.messages import Failed, Kept, Progress, Ready, Refused, Resting
from explorer.pacer import Pacer, Shown
from explorer.spool import DISK, MEMORY
from explorer.worker import PATIENCE, Chunk, EngineProcess

Stage = Literal["loading", "ready", "waiting", "flying", "resting", "recovering", "failed"]
FALLS = 5  # engines in a row that do not generate a chunk
SLOWER = 8.0  # times a usual chunk that one may take before the engine is believed to hang
ASLEEP = 1.0  # seconds between two ticks: longer, and it was the window that slept


class Session:
    """Starts loading at once; `begin` may come before the model is there."""

    def __init__(
        self,
        model: str,
        *,
        assets: Path,
        device: str = "auto",
        threads: int | None = None,
        setup: Setup | None = None,
        memory: int = MEMORY,
        disk: int = DISK,
    ) -> None:
        """memory, disk: bytes for the states that one can return to."""
        self.history = History(memory=memory, disk=disk)
        self._options: dict[str, Any] = dict(
            model=model,
            assets=assets,
            device=device,
            threads=threads,
            setup=setup,
            spool=self.history.spool.folder,
        )
        self.refining: Refining = "auto" if setup is None else setup.refiner
        self.scene: Scene | None = None
        self.paused = False
        self.engine = EngineProcess(**self._options)
        self._fresh()

    def _fresh(self) -> None:
        self.stage: Stage = "loading"
        self.note = "starting the engine"  # what start-up is doing, or why it failed
        self.stats = Stats()
        self.recoveries = 0
        self._pacer: Pacer | None = None
        self._falls = 0  # engines lost since the last chunk
        self._singles, self._asked = 0, False  # frames asked for one by one, and whether of the engine
        self._last_tick = self._awake = 0.0
        self.patience = PATIENCE  # seconds until an engine that does nothing is believed to hang

    def restart(self) -> None:
        """A new engine process after a failure; the scene is flown from its beginning."""
        self._replace_engine()
        self._fresh()

    def begin(self, scene: Scene) -> None:
        """Fly from this scene, now or as soon as the model is loaded."""
        self.scene = scene
        self.stats = Stats()
        self.history.begin(scene)
        self.pause(False, now=self._last_tick)
        if self.stage not in ("failed", "recovering") and (spec := self.engine.spec):
            assert self._pacer is not None
            self._pacer.clear()
            self.stage, self.note = "waiting", "generating the first frames"
            if scene.past is not None:
                self.engine.resume(self.history.go(0))
                self.stats.reference(scene.past.picture)
                return
            picture, intrinsics = scene.picture(spec.width, spec.height)
            self.engine.begin(
                picture, pose=scene.pose, intrinsics=intrinsics, words=scene.words, seed=scene.seed
            )

    def go(self, id: int) -> None:
        """Return to a moment of the timeline; what is flown from there is a branch. Raises KeyError."""
        path = self.history.go(id)
        if self._pacer is not None:
            self._pacer.clear()
        self.stats.broke()
        if self.stage in ("flying", "resting", "waiting"):
            self.engine.resume(path)
            self.stage = "flying"

    def pause(self, on: bool, *, now: float) -> None:
        """Stand still, pictures and engine alike, or go on."""
        self.paused, self._singles, self._asked = on, 0, False
        self.still(on, now=now)

    def still(self, on: bool, *, now: float) -> None:
        """The same for a while, as when rewinding; what `pause` said holds after it."""
        on = on or self.paused
        self.engine.pause(on)
        if self._pacer is not None:
            if on:
                self._pacer.hold()
            else:
                self._pacer.go(now)

    def single(self) -> None:
        """One more frame while paused."""
        if self.paused and self._pacer is not None:
            self._singles += 1
            if self._singles > self._pacer.waiting and not self._asked:
                self._asked = True
                self.engine.once()

    @property
    def rewordable(self) -> bool:
        """Whether the world takes other words while it is flown."""
        return bool(self._options["model"] == "pocket")

    def reword(self, words: tuple[int, ...] | None) -> None:
        """Other words for the world from the next chunk on."""
        if self.scene is not None:
            self.scene = replace(self.scene, words=words)
            self.engine.reword(words)

    def save(self, path: Path) -> Future[int]:
        """Write the flight as it is here into a .world file. Raises ValueError, here or in the future."""
        assert self.scene is not None
        return self.history.save(path, self.scene)

    def refine(self, mode: Refining) -> None:
        """When the second stage of sana-wm is to work."""
        self.refining = mode
        self.engine.refine(mode)

    def next_refining(self) -> Refining:
        """auto → on → off → auto."""
        following: dict[Refining, Refining] = {"auto": "on", "on": "off", "off": "auto"}
        self.refine(following[self.refining])
        return self.refining

    @property
    def refiner(self) -> str:
        """What the second stage does, in a word or two; empty where the world has none."""
        if self._options["model"] != "sana-wm":
            return ""
        return "on" if self.stats.refined else "off, to keep up" if self.refining == "auto" else "off"

    def tick(self, steering: Steering, *, now: float) -> list[Shown]:
        """Hand over what is held, collect what arrived. Returns frames that are due, oldest first."""
        if self.stage == "failed":
            return []
        self.engine.steer(steering)
        self.stats.asked(steering)
        for event in self.engine.events():
            self._take(event, now)
        self._watch(now)
        shown = self._pacer.due(now) if self._pacer else []
        while self._singles and self._pacer and (one := self._pacer.one()):
            self._singles -= 1
            shown.append(one)
        for item in shown:
            self.stats.shown(item, now)
        return shown

    def _watch(self, now: float) -> None:
        """Replace an engine that hangs."""
        if now - self._last_tick > ASLEEP:
            self._awake = now
        self._last_tick = now
        patience = max(self.patience, SLOWER * max(self.stats.chunk_seconds, default=0.0))
        if self.stage != "failed" and self.engine.hangs(now, since=self._awake, patience=patience):
            self.patience *= 2  # should this machine only be busy, the next engine gets more time
            self._fall("the engine no longer answers")

    def _take(self, event: object, now: float) -> None:
        match event:
            case Progress(step=step):
                self.note = step
            case Ready(fps=fps):
                self._loaded(fps)
            case Resting():
                self.stage = "resting"
            case Failed(why=why) if self._pacer is None:
                self.stage, self.note = "failed", why
            case Failed(why=why) | Refused(why=why):
                self._fall(why)
            case Kept(flight=flight, path=path) if flight != self.engine.flight:
                self.history.spool.discard(path)
            case Kept():
                self.history.kept(event)
                self.stats.kept(event)
            case Chunk():
                self._queue(event, now)

    def _loaded(self, fps: int) -> None:
        if self._pacer is None:
            self._pacer = Pacer(fps=fps)
        recovering, self.stage, self.note = self.stage == "recovering", "ready", ""
        if recovering and (here := self.history.timeline.here) is not None:
            self.engine.resume(self.history.go(here))
            self.engine.pause(self.paused)
            self.stage = "recovering"
        elif self.scene is not None:
            self.begin(self.scene)

    def _fall(self, why: str) -> None:
        """The engine is lost: another one continues, from further back each time in a row."""
        self._falls += 1
        history, line = self.history, self.history.timeline.line()
        history.lose()
        if self._falls > FALLS:
            self.engine.kill()
            self.stage, self.note = "failed", why
            return
        if line:
            # It began there, but got no further: that state may be why.
            again = self.stage == "recovering" and self.engine.spec is not None
            here = line[-2] if again and len(line) > 1 else line[-1]
            history.go(here)
            assert self._pacer is not None
            self._pacer.drop_after(history.timeline.moments[here].index)
        self._replace_engine()
        self.recoveries += 1
        self.stats.broke()
        self.stage, self.note = "recovering", why

    def _replace_engine(self) -> None:
        self.engine.kill()
        self.engine.stop()
        self.engine = EngineProcess(**self._options, flight=self.engine.flight)

    def _queue(self, chunk: Chunk, now: float) -> None:
        assert self._pacer is not None
        made, self._asked = chunk.made, False
        end = self._pacer.add(chunk.frames, input=made.input, seconds=made.seconds, now=now)
        self.engine.taken(chunk, end=end)
        self.history.flown(chunk.frames)
        if made.first:  # the first picture is no generated chunk
            self.stage, self._falls = "flying", 0
            self.stats.made(chunk, now)
        else:
            self.stats.reference(chunk.frames[0].pixels)

    def stop(self) -> None:
        self.engine.stop()
        self.history.close()


class Stats:
    """Figures of the last seconds."""

    def __init__(self) -> None:
        self.chunk_seconds: deque[float] = deque(maxlen=16)
        self.latencies: deque[float] = deque(maxlen=200)  # seconds from an input to the first frame it shaped
        self.discarded = 0
        self.refined = False  # the last chunk
        self.frame: Frame | None = None  # on screen
        self.first_frame_at: float | None = None  # perf_counter of the first generated frame
        self.drift: Drift | None = None  # of the newest chunk from the first picture
        self.keeping: deque[float] = deque(maxlen=16)  # seconds to keep a state
        self._first: Look | None = None
        self._arrivals: deque[tuple[float, int]] = deque(maxlen=9)  # time, frames so far
        self._open: OrderedDict[int, float] = OrderedDict()  # inputs not yet seen on screen
        self._newest = 0

    def asked(self, steering: Steering) -> None:
        if steering.input > self._newest:
            self._newest = steering.input
            self._open[steering.input] = steering.time

    def reference(self, picture: NDArray[np.uint8]) -> None:
        """The picture [Y, X, 3] that drift is measured from."""
        self._first = look(picture)

    def kept(self, kept: Kept) -> None:
        self.keeping.append(kept.seconds)

    def broke(self) -> None:
        """Frames no longer follow the ones before."""
        self._arrivals.clear()

    def made(self, chunk: Chunk, now: float) -> None:
        if self._first is not None:
            self.drift = drift(self._first, look(chunk.frames[-1].pixels))
        self.chunk_seconds.append(chunk.made.seconds)
        self.discarded = chunk.made.discarded
        self.refined = "refine" in chunk.made.timing
        self._arrivals.append((now, chunk.made.first + len(chunk.frames)))

    def shown(self, shown: Shown, now: float) -> None:
        self.frame = shown.frame
        if shown.frame.index and self.first_frame_at is None:
            self.first_frame_at = now
        while self._open and next(iter(self._open)) <= shown.input:
            self.latencies.append(now - self._open.popitem(last=False)[1])

    @property
    def generated_fps(self) -> float:
        if len(self._arrivals) < 2:
            return 0.0
        (t0, n0), (t1, n1) = self._arrivals[0], self._arrivals[-1]
        return (n1 - n0) / max(t1 - t0, 1e-9)

    @property
    def chunk(self) -> float:
        """Mean seconds per chunk, 0 before the first."""
        return float(np.mean(self.chunk_seconds)) if self.chunk_seconds else 0.0

    def latency(self, percentile: float) -> float:
        """Seconds from an input to the first generated frame it shaped; 0 before the first."""
        return float(np.percentile(self.latencies, percentile)) if self.latencies else 0.0
