"""A flight as its owner sees it: one engine process, one clock for its frames, and what was measured on the way."""

from __future__ import annotations

from collections import OrderedDict, deque
from pathlib import Path
from typing import Any, Literal

import numpy as np

from engine.frame import Frame
from engine.setup import Refining, Setup
from explorer.assets import Scene
from explorer.controls import Steering
from explorer.messages import Failed, Progress, Ready, Resting
from explorer.pacer import Pacer, Shown
from explorer.worker import Chunk, EngineProcess

Stage = Literal["loading", "ready", "waiting", "flying", "resting", "failed"]


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
    ) -> None:
        self._options: dict[str, Any] = dict(
            model=model, assets=assets, device=device, threads=threads, setup=setup
        )
        self.refining: Refining = "auto" if setup is None else setup.refiner
        self.scene: Scene | None = None
        self._load()

    def _load(self) -> None:
        self.engine = EngineProcess(**self._options)
        self.stage: Stage = "loading"
        self.note = "starting the engine"  # what start-up is doing, or why it failed
        self.stats = Stats()
        self._pacer: Pacer | None = None

    def restart(self) -> None:
        """A new engine process after a failure; the scene is flown from its beginning."""
        self.engine.stop()
        self._load()

    def begin(self, scene: Scene) -> None:
        """Fly from this scene, now or as soon as the model is loaded."""
        self.scene = scene
        self.stats = Stats()
        if self.stage != "failed" and (spec := self.engine.spec):
            assert self._pacer is not None
            self._pacer.clear()
            picture, intrinsics = scene.picture(spec.width, spec.height)
            self.engine.begin(
                picture, pose=scene.pose, intrinsics=intrinsics, words=scene.words, seed=scene.seed
            )
            self.stage, self.note = "waiting", "generating the first frames"

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
        shown = self._pacer.due(now) if self._pacer else []
        for item in shown:
            self.stats.shown(item, now)
        return shown

    def _take(self, event: object, now: float) -> None:
        match event:
            case Progress(step=step):
                self.note = step
            case Ready(fps=fps):
                self._pacer = Pacer(fps=fps)
                self.stage, self.note = "ready", ""
                if self.scene is not None:
                    self.begin(self.scene)
            case Resting():
                self.stage = "resting"
            case Failed(why=why):
                self.stage, self.note = "failed", why
            case Chunk():
                self._queue(event, now)

    def _queue(self, chunk: Chunk, now: float) -> None:
        assert self._pacer is not None
        made = chunk.made
        end = self._pacer.add(chunk.frames, input=made.input, seconds=made.seconds, now=now)
        self.engine.taken(chunk, end=end)
        if made.first:  # the first picture is no generated chunk
            self.stage = "flying"
            self.stats.made(chunk, now)

    def stop(self) -> None:
        self.engine.stop()


class Stats:
    """Figures of the last seconds."""

    def __init__(self) -> None:
        self.chunk_seconds: deque[float] = deque(maxlen=16)
        self.latencies: deque[float] = deque(maxlen=200)  # seconds from an input to the first frame it shaped
        self.discarded = 0
        self.refined = False  # the last chunk
        self.frame: Frame | None = None  # on screen
        self.first_frame_at: float | None = None  # perf_counter of the first generated frame
        self._arrivals: deque[tuple[float, int]] = deque(maxlen=9)  # time, frames so far
        self._open: OrderedDict[int, float] = OrderedDict()  # inputs not yet seen on screen
        self._newest = 0

    def asked(self, steering: Steering) -> None:
        if steering.input > self._newest:
            self._newest = steering.input
            self._open[steering.input] = steering.time

    def made(self, chunk: Chunk, now: float) -> None:
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
