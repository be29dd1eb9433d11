"""What a station shows, from its first picture to the operator's keys. Runs on the main thread of its process."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

import pygame

from explorer.assets import Scene
from explorer.display import Display
from explorer.gallery import Grid
from explorer.kiosk import autopilot
from explorer.kiosk.health import Health
from explorer.kiosk.link import Close, Event, Fly, Report, Reset
from explorer.kiosk.screens import Screens, View
from explorer.kiosk.settings import Station
from explorer.kiosk.visit import Rules, Visit
from explorer.kiosk.watch import Watching
from explorer.kiosk.window import StationWindow
from explorer.refresh import Beat
from explorer.session import Session

CURTAIN = 0.9  # seconds in which one scene goes and the next one comes


class Show:
    """One window and one session, day and night."""

    def __init__(
        self,
        window: StationWindow,
        session: Session,
        scenes: Sequence[Scene],
        station: Station,
        *,
        tell: Callable[[Report | Event], None],
    ) -> None:
        """`tell` passes on how it goes."""
        self.window, self.session, self.scenes = window, session, scenes
        self.station, self.tell = station, tell
        rules = station.visit
        self.rules = Rules(
            limit=60 * rules.minutes, idle=rules.idle_seconds, countdown=rules.countdown_seconds
        )
        self.display = Display(window.size)
        session.spare(1 if self.display.software else 0)
        if self.display.software:
            window.never_wait()
        self.screens = Screens(self.display, scenes, station, self.rules)
        now = time.perf_counter()
        self.visit, self.visits = Visit(since=now), 0
        self.language = 0
        self.grid = Grid(len(scenes), window.size)
        self.scene = 0
        self.health = Health(session, tell=tell)
        self.watching: Watching | None = None
        self.running = True
        self._help_until = 0.0
        self._begun = now  # the flight
        self._seen = 0.0  # its first frame, 0.0: not yet
        self._told = 0.0  # the last report
        self._begin(0, now)

    def run(self, commands: deque[object]) -> None:
        """Until the operator leaves. commands: of the supervisor, as they come."""
        beat = Beat(software=self.display.software)
        while self.running:
            while commands:
                self.obey(commands.popleft(), time.perf_counter())
            self.refresh(time.perf_counter())
            time.sleep(beat.rest(time.perf_counter(), flip=self.display.flip_seconds))

    def close(self) -> None:
        if self.watching is not None:
            self.watching.stop()

    def obey(self, command: object, now: float) -> None:
        """What the supervisor asks for."""
        match command:
            case Close():
                self.running = False
            case Reset():
                self._turn(self.visit.reset(now), now)
            case Fly(scene=name):
                numbers = [i for i, scene in enumerate(self.scenes) if scene.name == name]
                if numbers:
                    self._fly(numbers[0], now)

    def refresh(self, now: float) -> None:
        """One look at the hands, the engine and the clock, and one picture."""
        self._hands(now)
        self._turn(self.visit.tick(now, self.rules), now)
        self._attract(now)
        for shown in self.session.tick(self.window.hands.steering, now=now)[-1:]:
            self._seen = self._seen or (now if shown.frame.index else 0.0)
            self.display.frame(shown.frame, now=now)
            if self.watching is not None:
                self.watching.show(shown)
        begun = time.perf_counter()
        if (view := self.session.view(now)) is not None:
            self.display.look(view, now=now)
        self._engine(now)
        self.screens.draw(self._view(now))
        self.display.draw(begun=begun)
        self._report(now)

    def _hands(self, now: float) -> None:
        actions, touched = self.window.visit(flying=self.visit.phase == "flying", now=now)
        arrived = touched and self.visit.phase == "attract"
        if touched:
            self._turn(self.visit.touch(now), now)
        if arrived:
            self.window.take_up(now)
        for action in actions:
            if action.name in ("leave", "resized") or not arrived:  # the first touch only begins
                self._act(action.name, action.x, action.y, now)
        self.window.grab(self.visit.phase == "flying" and pygame.key.get_focused())
        self.window.point(self.visit.phase == "choosing")

    def _act(self, name: str, x: int, y: int, now: float) -> None:
        todo: dict[str, Callable[[], None]] = {"leave": self._leave, "resized": self._resized}
        if self.visit.present:
            todo |= {"language": self._next_language}
        if self.visit.phase == "flying":
            todo |= {
                "help": lambda: self._toggle_help(now),
                "again": lambda: self._begin(self.scene, now),
                "scenes": lambda: self._choose(now),
            }
        if self.visit.phase == "choosing":
            moves = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
            if name in moves:
                self.grid = self.grid.move(*moves[name])
            todo |= {
                "accept": lambda: self._fly(self.grid.chosen, now),
                "click": lambda: self._click(x, y, now),
                "point": lambda: self._point(x, y),
                "scenes": lambda: self._turn(self.visit.turn("flying", now), now),
            }
        if name in todo:
            todo[name]()

    def _leave(self) -> None:
        self.tell(Event("the operator's keys were pressed"))
        self.running = False

    def _resized(self) -> None:
        self.display.resize(self.window.size)
        self.grid = Grid(len(self.scenes), self.window.size, self.grid.chosen)

    def _next_language(self) -> None:
        self.language = (self.language + 1) % len(self.station.texts)

    def _toggle_help(self, now: float) -> None:
        self._help_until = 0.0 if now < self._help_until else float("inf")

    def _choose(self, now: float) -> None:
        if len(self.scenes) > 1:
            self.grid = replace(self.grid, chosen=self.scene)
            self._turn(self.visit.turn("choosing", now), now)

    def _point(self, x: int, y: int) -> None:
        self.grid = self.grid.point(x, y)

    def _click(self, x: int, y: int, now: float) -> None:
        if self.grid.at(x, y) is not None:
            self._point(x, y)
            self._fly(self.grid.chosen, now)

    def _fly(self, scene: int, now: float) -> None:
        self._turn(self.visit.turn("flying", now), now)
        self._begin(scene, now)

    def _turn(self, visit: Visit, now: float) -> None:
        """Take on a new visit, and do what its phase begins with."""
        before, self.visit = self.visit, visit
        if before.phase == visit.phase:
            return
        self._told = 0.0
        if before.phase == "attract":
            self._welcome(now)
        elif visit.phase == "attract":
            if before.present:
                self.tell(Event("a visit ended"))
            self.language = 0
            self._begin(self.scene, now)
        elif visit.phase == "goodbye":
            self.tell(Event("a visit ended at its time limit"))
            self._let_go(now)
        elif visit.phase == "choosing":
            self._let_go(now)

    def _welcome(self, now: float) -> None:
        self.visits += 1
        self.tell(Event(f"visit {self.visits} began in {self.scenes[self.scene].name}"))
        self._help_until = now + self.station.visit.help_seconds
        self.window.hands = replace(self.window.hands, speed=self.station.world.speed)
        self._begin(self.scene, now)

    def _let_go(self, now: float) -> None:
        self.window.hands = self.window.hands.let_go(now=now)

    def _begin(self, scene: int, now: float) -> None:
        """Show the picture at once, and ask for the flight."""
        self.scene, self._begun, self._seen = scene, now, 0.0
        self._told = 0.0  # who listens hears of it at once
        self._let_go(now)
        spec = self.session.engine.spec
        size = (spec.width, spec.height) if spec else (256, 160)
        self.display.still(self.scenes[scene].picture(*size)[0])
        self.session.begin(self.scenes[scene])
        if self.watching is not None:
            self.watching.report(self.session.stage, self.scenes[scene].name)

    def _attract(self, now: float) -> None:
        """Nobody there: wander, and go on to the next scene when its time is over."""
        if self.visit.phase != "attract" or not self._seen:
            return
        flown = now - self._seen
        if flown > self.station.attract.scene_seconds:
            self._begin((self.scene + 1) % len(self.scenes), now)
        else:
            hands = replace(self.window.hands, speed=self.station.world.speed)
            self.window.hands = hands.pad(autopilot.sticks(flown), now=now)

    def _engine(self, now: float) -> None:
        """Open the port for phones once the world is known; look after the engine."""
        session = self.session
        if session.engine.spec is not None and self.watching is None and self.station.watch.enabled:
            self.watching = Watching(self.station.watch, session.engine.spec, self.scenes)
            self.tell(Event(f"phones can watch at {self.watching.address}"))
        if self.watching is not None:
            self.watching.send()
        if self.health.tick(seen=self._seen, now=now):
            self._seen = 0.0

    def _view(self, now: float) -> View:
        """What is to be seen, as a value."""
        return View(
            now=now,
            phase=self.visit.phase,
            texts=self._texts(now),
            scene=self.scenes[self.scene],
            grid=self.grid,
            since=self._begun,
            curtain=self._curtain(now),
            helping=self.visit.phase == "flying" and now < self._help_until,
            padded=self.window.padded,
            loading=self.session.engine.spec is None,
            trouble=self.health.down,
            countdown=self.visit.countdown(now, self.rules),
            left=self.visit.left(now, self.rules)[0],
            code=self.watching.code if self.watching else (),
        )

    def _texts(self, now: float) -> int:
        """The language shown: while nobody is there, each in turn."""
        if self.visit.phase != "attract":
            return self.language
        return int((now - self.visit.since) / self.station.attract.language_seconds) % len(self.station.texts)

    def _curtain(self, now: float) -> float:
        """How much of the picture is covered while one scene of the unattended flight follows another, 0 to 1."""
        if self.visit.phase != "attract" or not self._seen:
            return 0.0
        left = self.station.attract.scene_seconds - (now - self._seen)
        return max(1.0 - left / CURTAIN, 0.0)

    def _report(self, now: float) -> None:
        if now - self._told < 1.0:
            return
        self._told = now
        session, scene = self.session, self.scenes[self.scene].name
        if self.watching is not None:
            self.watching.report(session.stage, scene)
        self.tell(
            Report(
                phase=self.visit.phase,
                stage=session.stage,
                note=session.note,
                scene=scene,
                language=self.station.texts[self._texts(now)].code,
                visits=self.visits,
                seconds_left=self.visit.left(now, self.rules)[0] if self.visit.present else None,
                frames_per_second=session.stats.generated_fps,
                engine_restarts=self.health.troubles,
                viewers=self.watching.viewers if self.watching else 0,
                watch=self.watching.address if self.watching else "",
            )
        )
