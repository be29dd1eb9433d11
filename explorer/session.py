"""A flight as its owner sees it: one engine process, one clock for its frames, and what was measured on the way.

An engine that dies, hangs or cannot go on is replaced by another, which continues from the newest state that was
kept. Should that not lead to a further chunk, the one before is tried, and so on; after FALLS attempts it is given up.
"""

from __future__ import annotations

from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from engine.camera import Intrinsics
from engine.clearance import Surroundings
from engine.setup import Refining, Setup
from explorer.assets import Scene
from explorer.clearance import guided
from explorer.controls import Steering
from explorer.flight import read_intrinsics
from explorer.history import History
from explorer.latency import Journey, Latency
from explorer.messages import Drawn, Failed, Frames, Kept, Progress, Ready, Refused, Resting, Told
from explorer.pacer import Pacer, Shown
from explorer.pilot import PilotState
from explorer.predict import Flown, held_back, zoomed
from explorer.reproject import Anchor, View, leashed, shown_lens
from explorer.spool import budgets
from explorer.stats import Stats
from explorer.teller import Teller
from explorer.worker import PATIENCE, Chunk, EngineProcess

FRAMES = "generating the first frames"
Stage = Literal["loading", "ready", "waiting", "flying", "resting", "recovering", "failed"]
FALLS = 5  # engines in a row that do not generate a chunk
SLOWEST = 100e6  # bytes of a state that are read, checked and placed per second at the very least
DRAWING = 60.0  # seconds that a first picture from words may take on a machine that is busy or slow; usual: 2
SLOWER = 8.0  # times a usual chunk that one may take before the engine is believed to hang
ASLEEP = 1.0  # seconds between two ticks: longer, and it was the window that slept
LONGEST = 0.25  # seconds between two ticks that the pilot flies: a window that was held up does not run away


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
        memory: int = 0,
        disk: int = 0,
    ) -> None:
        """memory, disk: bytes for the states that one can return to; 0: what suits the world."""
        usual = budgets(model)
        self.history = History(memory=memory or usual[0], disk=disk or usual[1])
        self._options: dict[str, Any] = dict(
            model=model,
            assets=assets,
            device=device,
            threads=threads,
            spool=self.history.spool.places,
        )
        setup = setup or Setup()
        self.refining: Refining = setup.refiner
        self.teller = Teller(setup, self.history.spool.folder)
        self.scene: Scene | None = None
        self.paused = self._stands = False
        self._spare = 0
        self._lens: Intrinsics | None = None  # of the scene
        self.engine = EngineProcess(**self._options, setup=self.teller.setup)
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
        self._land()
        self._opening = 0.0  # seconds that reading the last state, or drawing the first picture, may take
        self.patience = PATIENCE  # seconds until an engine that does nothing is believed to hang

    def _resume(self, path: Path) -> None:
        """Have the engine go on from a state, which it may take its time to read."""
        with suppress(OSError):
            self._opening = path.stat().st_size / SLOWEST
        self.engine.resume(path)

    def _land(self) -> None:
        """No pilot, until a frame says where he is."""
        self.pilot: PilotState | None = None
        self._anchor: Anchor | None = None  # of the leash between pilot and picture
        self._around = Surroundings()  # what the pilot keeps off
        self._flight = 0  # that the pilot flies in

    def restart(self) -> None:
        """A new engine process after a failure; the scene is flown from its beginning."""
        self._replace_engine()
        self._fresh()

    def begin(self, scene: Scene) -> None:
        """Fly from this scene, now or as soon as the model is loaded."""
        self.scene = scene
        self.stats = Stats()
        self.history.begin(scene)
        self._land()
        self.pause(False, now=self._last_tick)
        if self.stage not in ("failed", "recovering") and (spec := self.engine.spec):
            assert self._pacer is not None
            self._pacer.clear()
            self.stage = "waiting"
            self.note = FRAMES if scene.drawn else "drawing a first picture from the words"
            if scene.past is not None:
                self._resume(self.history.go(0))
                self.stats.reference(scene.past.picture)
                self._lens = read_intrinsics(scene.past.record)
                return
            self._opening = 0.0 if scene.drawn else DRAWING
            start = scene.start(spec.width, spec.height)
            self._lens = start["intrinsics"]
            self.engine.begin(**start)

    def go(self, id: int) -> None:
        """Return to a moment of the timeline; what is flown from there is a branch. Raises KeyError."""
        path = self.history.go(id)
        if self._pacer is not None:
            self._pacer.clear()
        self._land()
        self.stats.broke()
        if self.stage in ("flying", "resting", "waiting"):
            self._resume(path)
            self.stage = "flying"

    def pause(self, on: bool, *, now: float) -> None:
        """Stand still, pictures and engine alike, or go on."""
        self.paused, self._singles, self._asked = on, 0, False
        self.still(on, now=now)

    def still(self, on: bool, *, now: float) -> None:
        """The same for a while, as when rewinding; what `pause` said holds after it."""
        on = self._stands = on or self.paused
        self.engine.pause(on)
        if self._pacer is not None:
            if on:
                self._pacer.hold()
            else:
                self._pacer.go(now)

    def spare(self, cores: int) -> None:
        """Leave so many cores to the window, unless somebody has said how many threads the engine takes."""
        self._spare = cores if self._options["threads"] is None else 0
        self.engine.spare(self._spare)

    def single(self) -> None:
        """One more frame while paused."""
        if self.paused and self._pacer is not None:
            self._singles += 1
            if self._singles > self._pacer.waiting and not self._asked:
                self._asked = True
                self.engine.once()

    @property
    def reads(self) -> bool:
        """Whether the world reads any prompt; else it knows words of a vocabulary."""
        return bool(self._options["model"] == "sana-wm")

    def retell(self, prompt: str) -> None:
        """Another prompt for the flight and all later ones; `teller` says how far it is."""
        if self.engine.spec is not None:
            self.teller.ask(prompt, refiner=self.engine.spec.refiner)
        else:
            self.teller.news = "The prompt stays as it was: the engine is starting, ask again in a moment"

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
        self._fly(steering, now)
        for event in self.engine.events():
            self._take(event, now, steering)
        self._watch(now)
        if (ready := self.teller.ready()) is not None:
            self.engine.retell(*ready)
        shown = self._pacer.due(now) if self._pacer else []
        while self._singles and self._pacer and (one := self._pacer.one()):
            self._singles -= 1
            shown.append(one)
            if self.pilot is not None:  # he steps with the frames
                self.pilot = replace(self.pilot, pose=one.frame.pose)
        for item in shown:
            self.stats.shown(item, now)
        return shown

    def _fly(self, steering: Steering, now: float) -> None:
        """The pilot flies until now, and the engine hears of it."""
        dt = min(max(now - self._last_tick, 0.0), LONGEST)
        if self.pilot is None:
            return
        self.stats.latency.asked(steering)
        if not self._stands:
            self.pilot = guided(self.pilot, steering, dt, self._around.points)
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

    def _watch(self, now: float) -> None:
        """Replace an engine that hangs."""
        if now - self._last_tick > ASLEEP:
            self._awake = now
        self._last_tick = now
        patience = max(self.patience, self._opening, SLOWER * max(self.stats.chunk_seconds, default=0.0))
        if self.stage != "failed" and self.engine.hangs(now, since=self._awake, patience=patience):
            self.patience *= 2  # should this machine only be busy, the next engine gets more time
            self._fall("the engine no longer answers")

    def _take(self, event: object, now: float, steering: Steering) -> None:
        match event:
            case Progress(step=step):
                self.note = step
            case Ready(fps=fps):
                self._loaded(fps)
            case Drawn() if self.scene is not None:
                self.scene, self.note = self.scene.shown(event.picture, event.inverse_depth), FRAMES
                self._opening = 0.0
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
            case Told():
                self.teller.told(event)
            case Chunk():
                self._queue(event, now, steering)

    def _loaded(self, fps: int) -> None:
        if self._pacer is None:
            self._pacer = Pacer(fps=fps)
        recovering, self.stage, self.note = self.stage == "recovering", "ready", ""
        if recovering and (here := self.history.timeline.here) is not None:
            self._resume(self.history.go(here))
            self.engine.pause(self.paused)
            self.teller.again()
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
        self.history.spool.tidy()
        self.engine = EngineProcess(**self._options, setup=self.teller.setup, flight=self.engine.flight)
        self.engine.spare(self._spare)
        self.engine.refine(self.refining)

    def _queue(self, chunk: Chunk, now: float, steering: Steering) -> None:
        assert self._pacer is not None
        made, self._asked = chunk.made, False
        if made.flight != self._flight:
            self._flight, self._anchor, self._around = made.flight, None, Surroundings()
            self.pilot = PilotState(chunk.frames[0].pose, used=steering, zoom=steering.zoom)
            self.stats.latency = Latency(newest=steering.input)
        self._around = self._around.after(chunk.frames[-1])
        way = _journey(made, now) if made.first else None
        end = self._pacer.add(chunk.frames, input=made.input, seconds=made.seconds, now=now, way=way)
        self.engine.taken(chunk, end=end, period=self._pacer.period)
        self.history.flown(chunk.frames)
        if made.first:  # the first picture is no generated chunk
            self.stage, self._falls = "flying", 0
            self.stats.made(chunk, now)
        else:
            self.stats.reference(chunk.frames[0].pixels)

    def stop(self) -> None:
        self.teller.stop()
        self.engine.stop()
        self.history.close()


def _journey(made: Frames, now: float) -> Journey:
    denoise, decode = made.timing.get("denoise", 0.0), made.timing.get("decode", 0.0)
    return Journey(started=made.started, denoise=denoise, decode=decode, sent=made.sent, received=now)
