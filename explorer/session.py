"""A flight as its owner sees it: one engine process, one clock for its frames, and what was measured on the way."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any, Literal

import numpy as np

from engine.camera import Intrinsics
from engine.frame import Frame
from explorer.assets import Scene
from explorer.controls import Steering
from explorer.latency import Journey, Latency
from explorer.messages import Failed, Frames, Progress, Ready, Resting
from explorer.pacer import Pacer, Shown
from explorer.pilot import PilotState, steered
from explorer.predict import Flown, held_back, zoomed
from explorer.reproject import Anchor, View, leashed, reach_of, shown_lens
from explorer.worker import Chunk, EngineProcess

LONGEST = 0.25  # seconds between two ticks that the pilot flies: a window that was held up does not run away

Stage = Literal["loading", "ready", "waiting", "flying", "resting", "failed"]


class Session:
    """Starts loading at once; `begin` may come before the model is there."""

    def __init__(self, model: str, *, assets: Path, device: str = "auto", threads: int | None = None) -> None:
        self._options: dict[str, Any] = dict(model=model, assets=assets, device=device, threads=threads)
        self.scene: Scene | None = None
        self._load()

    def _load(self) -> None:
        self.engine = EngineProcess(**self._options)
        self.stage: Stage = "loading"
        self.note = "starting the engine"  # what start-up is doing, or why it failed
        self.stats = Stats()
        self._pacer: Pacer | None = None
        self.pilot: PilotState | None = None  # placed where a flight begins
        self._lens: Intrinsics | None = None  # of the scene
        self._anchor: Anchor | None = None  # of the leash between pilot and picture
        self._flight = 0  # that the pilot flies in
        self._at = 0.0  # perf_counter seconds of the last tick

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
            self.pilot, self._anchor, self._lens = None, None, intrinsics
            self.engine.begin(
                picture, pose=scene.pose, intrinsics=intrinsics, words=scene.words, seed=scene.seed
            )
            self.stage, self.note = "waiting", "generating the first frames"

    def tick(self, steering: Steering, *, now: float) -> list[Shown]:
        """Hand over what is held, collect what arrived. Returns frames that are due, oldest first."""
        if self.stage == "failed":
            return []
        self._fly(steering, now)
        for event in self.engine.events():
            self._take(event, now, steering)
        shown = self._pacer.due(now) if self._pacer else []
        for item in shown:
            self.stats.shown(item, now)
        return shown

    def _fly(self, steering: Steering, now: float) -> None:
        """The pilot flies until now, and the engine hears of it."""
        dt, self._at = min(now - self._at, LONGEST), now
        if self.pilot is not None:
            self.stats.latency.asked(steering)
            self.pilot = steered(self.pilot, steering, max(dt, 0.0))
            generated = self._pacer.between(now) if self._pacer else None
            if generated is not None:
                self.pilot = held_back(self.pilot, generated)
            self.engine.steer(Flown(flight=self._flight, steering=steering, pilot=self.pilot, time=now))
            self.stats.latency.drawn(obeyed=steering.input)

    def view(self, now: float) -> View | None:
        """From where to draw: the pilot's pose now, as far as it may lead what is generated. None before a frame."""
        anchor = self._pacer.between(now) if self._pacer else None
        if anchor is None or self.pilot is None or self.stats.frame is None:
            return None
        assert self._lens is not None
        self._anchor = Anchor(anchor, now) if self._anchor is None else self._anchor.towards(anchor, now)
        pose = leashed(self.pilot.pose, self._anchor.pose, reach=self.stats.reach)
        return View(pose=pose, lens=shown_lens(zoomed(self._lens, self.pilot.zoom)))

    def _take(self, event: object, now: float, steering: Steering) -> None:
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
                self._queue(event, now, steering)

    def _queue(self, chunk: Chunk, now: float, steering: Steering) -> None:
        assert self._pacer is not None
        made = chunk.made
        if made.flight != self._flight:
            self._flight, self._anchor = made.flight, None
            self.pilot = PilotState(chunk.frames[0].pose, used=steering, zoom=steering.zoom)
            self.stats.latency = Latency(newest=steering.input)
        way = _journey(made, now) if made.first else None
        end = self._pacer.add(chunk.frames, input=made.input, seconds=made.seconds, now=now, way=way)
        self.engine.taken(chunk, end=end, period=self._pacer.period)
        if made.first:  # the first picture is no generated chunk
            self.stage = "flying"
            self.stats.made(chunk, now)

    def stop(self) -> None:
        self.engine.stop()


def _journey(made: Frames, now: float) -> Journey:
    denoise, decode = made.timing.get("denoise", 0.0), made.timing.get("decode", 0.0)
    return Journey(started=made.started, denoise=denoise, decode=decode, sent=made.sent, received=now)


class Stats:
    """Figures of the last seconds."""

    def __init__(self) -> None:
        self.chunk_seconds: deque[float] = deque(maxlen=16)
        self.latency = Latency()
        self.discarded = 0
        self.frame: Frame | None = None  # on screen
        self.reach: float | None = None  # metres: median distance of what it shows
        self.first_frame_at: float | None = None  # perf_counter of the first generated frame
        self._arrivals: deque[tuple[float, int]] = deque(maxlen=9)  # time, frames so far

    def made(self, chunk: Chunk, now: float) -> None:
        self.chunk_seconds.append(chunk.made.seconds)
        self.discarded = chunk.made.discarded
        self._arrivals.append((now, chunk.made.first + len(chunk.frames)))

    def shown(self, shown: Shown, now: float) -> None:
        self.frame, self.reach = shown.frame, reach_of(shown.frame)
        if shown.frame.index and self.first_frame_at is None:
            self.first_frame_at = now
        self.latency.shown(shown.input, shown.way, now=now)

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
