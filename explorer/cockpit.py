"""The flight in a window: from the gallery to the last recorded frame. Runs on the main thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pygame

from engine.camera import Pose
from engine.frame import Frame
from explorer import hud
from explorer.assets import Scene
from explorer.bindings import labels
from explorer.controls import Hands
from explorer.deck import Deck
from explorer.display import Display
from explorer.filming import Filming
from explorer.gallery import GalleryPainter, Grid
from explorer.pacer import Shown
from explorer.paint import Brush
from explorer.recorder import save_png, stamped
from explorer.recording import Films
from explorer.refresh import Beat, Refreshes
from explorer.reproject import View, shown_lens
from explorer.session import Session
from explorer.startup import Steps, startup_card
from explorer.state_folder import first_time
from explorer.theme import ALERT
from explorer.window import Action, Window

HINT_SECONDS, TOAST_SECONDS, FADE = 9.0, 4.0, 0.6
FIRST_HELP = 10.0  # seconds for which all keys are shown on somebody's first flight
FIGURES_EVERY = 0.25  # seconds between redraws of the figures
GAP = 24  # pixels between a panel and the rim, in a window 800 pixels high


@dataclass(slots=True)
class Toast:
    """A line that comes and goes."""

    words: str
    until: float


class Cockpit:
    """One window and one session, until the pilot leaves."""

    def __init__(
        self,
        window: Window,
        session: Session,
        scenes: Sequence[Scene],
        *,
        say: Callable[[str], None],
        films: Films | None = None,
    ) -> None:
        """scenes: to choose from, or the only one, with which the flight begins at once. say: prints a line."""
        self.window, self.session, self.scenes, self.say = window, session, scenes, say
        self.display = Display(window.size)
        session.spare(1 if self.display.software else 0)
        if self.display.software:
            window.never_wait()
        self.brush = Brush(window.size[1])
        self.grid = Grid(len(scenes), window.size)
        self.painter = GalleryPainter(scenes)
        self.choosing = len(scenes) > 1
        self.running = True
        self.keys = labels(window.settings.keys)
        self.show_help, self.show_figures, self.raw = False, window.settings.hud.figures, False
        self.filming = Filming(films or Films(), say=say, done=self._filmed)
        self._toast = Toast("", 0.0)
        self._still: View | None = None  # of the scene's own picture, until there is a frame
        self.deck = Deck(window, session, self.display, tell=self._tell, folder=self.filming.films.folder)
        self._leave_until = 0.0  # a second Esc before this leaves
        self._begun = 0.0
        self._steps = Steps()  # of start-up
        self._help_until = 0.0  # help that came by itself goes by itself
        self._figures_at = 0.0
        self._painted: dict[str, tuple[object, ...]] = {}  # what each panel shows
        self._beat, self._refreshes = Beat(software=self.display.software), Refreshes()
        if not self.choosing:
            self._begin(scenes[0])

    def run(self) -> int:
        """Returns the exit code. A model that cannot be loaded raises ValueError."""
        while self.running:
            self._refresh(time.perf_counter())
            time.sleep(self._beat.rest(time.perf_counter(), flip=self.display.flip_seconds))
        return 0

    def close(self) -> None:
        """Finish the recording and say how it went; the rest belongs to others."""
        self.deck.close()
        self.filming.close()
        stats = self.session.stats
        if stats.first_frame_at is not None and stats.frame is not None:
            self.say(
                f"{stats.frame.index} frames, first after {stats.first_frame_at - self._begun:.1f} s; "
                f"{stats.generated_fps:.1f} generated per second, window {self._refreshes.rate:.0f}; "
                f"chunk {stats.chunk * 1e3:.0f} ms; "
                f"input to reprojected {hud.spread(stats.latency, generated=False)}, "
                f"to generated {hud.spread(stats.latency, generated=True)} (median / 95 of 100)"
            )

    def report(self) -> dict[str, object]:
        """Figures of the flight so far."""
        stats = self.session.stats
        return {
            "latency": stats.latency.report(),
            "frames": stats.frame.index if stats.frame else 0,
            "generated_fps": round(stats.generated_fps, 2),
            **self._refreshes.report(),
            "paced_by": "display" if self._beat.by_display else "clock",
            "chunk_ms": round(stats.chunk * 1e3, 1),
            "discarded": stats.discarded,
            "drawn": self.display.way,
            "renderer": self.display.gl.info["GL_RENDERER"],
            "window": self.window.size,
        }

    def _refresh(self, now: float) -> None:
        flying = not self.choosing and self.session.stats.first_frame_at is not None
        self._refreshes.add(now, flying=flying)
        for action in self.window.pump(flying=not self.choosing, now=now):
            self._act(action, now)
        shown = self.session.tick(self.window.hands.steering, now=now)
        if self.session.stage == "failed" and self.session.engine.spec is None:
            raise ValueError(self.session.note)
        begun = time.perf_counter()
        if not self.choosing:
            self._look(shown, now)
        self._panels(now)
        filming = self.filming.frames is not None and not self.choosing and bool(shown)
        window = self.display.draw(begun=begun, read=filming and self.filming.films.hud)
        self.session.stats.latency.presented(time.perf_counter())
        if filming:
            self.filming.add([item.frame for item in shown], window)
        self.filming.saved()

    def _look(self, shown: Sequence[Shown], now: float) -> None:
        """Draw the newest frame from where the pilot is; while time runs backwards the deck shows what was."""
        if shown:
            self.display.frame(shown[-1].frame, now=now)
            self._still = None
        view = self.session.view(now) or self._still
        if not self.deck.rewinding and (view is not None or self.raw):
            self.display.look(None if self.raw else view, now=now)

    def _act(self, action: Action, now: float) -> None:
        if not self.choosing and self.deck.act(action, now):
            return
        common: dict[str, Callable[[], None]] = {
            "quit": self._quit,
            "resized": self._resized,
            "help": self._toggle_help,
            "fullscreen": self._fullscreen,
            "escape": lambda: self._escape(now),
        }
        choosing: dict[str, Callable[[], None]] = {
            "left": lambda: self._move(-1, 0),
            "right": lambda: self._move(1, 0),
            "up": lambda: self._move(0, -1),
            "down": lambda: self._move(0, 1),
            "accept": lambda: self._begin(self.scenes[self.grid.chosen]),
            "point": lambda: self._point(action.x, action.y),
            "click": lambda: self._click(action.x, action.y),
        }
        flying: dict[str, Callable[[], None]] = {
            "figures": self._toggle_figures,
            "raw": lambda: self._toggle_raw(now),
            "walk": lambda: self._toggle_walk(now),
            "level": lambda: self._take(self.window.hands.level_out(now=now)),
            "zoom_in": lambda: self._take(self.window.hands.zoomed(1, now=now)),
            "zoom_out": lambda: self._take(self.window.hands.zoomed(-1, now=now)),
            "gallery": self._gallery,
            "restart": self._restart,
            "record": self._record,
            "refiner": lambda: self._refiner(now),
            "screenshot": lambda: self._screenshot(now),
        }
        todo = {**common, **(choosing if self.choosing else flying)}
        if action.name in todo:
            todo[action.name]()

    def _quit(self) -> None:
        self.running = False

    def _escape(self, now: float) -> None:
        if self.window.grabbed:
            self.window.grab(False)
        elif self.show_help:
            self._toggle_help()
        elif now < self._leave_until:
            self.running = False
        else:
            self._leave_until = now + 2.5
            self._toast = Toast("Press Esc again to leave", self._leave_until)

    def _resized(self) -> None:
        size = self.window.size
        self.display.resize(size)
        self.brush = Brush(size[1])
        self.grid = Grid(len(self.scenes), size, self.grid.chosen)
        self._figures_at = 0.0
        self._show_help()

    def _fullscreen(self) -> None:
        pygame.display.toggle_fullscreen()
        self._resized()

    def _toggle_help(self) -> None:
        self._help_until = 0.0
        self.show_help = not self.show_help
        self._show_help()

    def _show_help(self) -> None:
        if self.show_help:
            self._center("help", hud.help_card(self.brush, self.keys))
        else:
            self.display.drop("help")

    def _toggle_figures(self) -> None:
        self.show_figures, self._figures_at = not self.show_figures, 0.0

    def _take(self, hands: Hands) -> None:
        self.window.hands = hands

    def _toggle_walk(self, now: float) -> None:
        self._take(self.window.hands.toggle_walk(now=now))
        words = "Walking: upright, at this height" if self.window.hands.walk else "Flying"
        self._toast = Toast(words, now + TOAST_SECONDS)

    def _toggle_raw(self, now: float) -> None:
        self.raw = not self.raw
        words = "Frames as they are generated" if self.raw else "Frames drawn from where you are"
        self._toast = Toast(words, now + TOAST_SECONDS)

    def _move(self, dx: int, dy: int) -> None:
        self.grid = self.grid.move(dx, dy)

    def _point(self, x: int, y: int) -> None:
        self.grid = self.grid.point(x, y)

    def _click(self, x: int, y: int) -> None:
        if self.grid.at(x, y) is not None:
            self._point(x, y)
            self._begin(self.scenes[self.grid.chosen])

    def _begin(self, scene: Scene) -> None:
        """Show the picture at once, and ask for the flight."""
        self.choosing = False
        self.deck.leave()
        self._begun = time.perf_counter()
        self._steps = Steps()
        if first_time("flight"):
            self._help_until = self._begun + FIRST_HELP
            self.show_help = True
            self._show_help()
        self.window.fresh_hands()
        self._drop("gallery")
        self.display.blank()
        pixels, lens = scene.picture(*self._picture_size())
        self._still = View(pose=scene.pose, lens=shown_lens(lens))
        still = Frame(pixels=pixels, pose=scene.pose, intrinsics=lens, index=0, world="")
        self.display.frame(still, now=self._begun)
        self.session.begin(scene)
        pygame.display.set_caption(f"{scene.title} - World Explorer")

    def _picture_size(self) -> tuple[int, int]:
        """The world's size once known; before that a small picture of the usual shape."""
        spec = self.session.engine.spec
        return (spec.width, spec.height) if spec else (256, 160)

    def _gallery(self) -> None:
        if len(self.scenes) > 1:
            self.choosing = True
            self.deck.leave()
            self.window.grab(False)
            pygame.display.set_caption("World Explorer")

    def _restart(self) -> None:
        if self.session.stage == "failed":
            self.session.restart()
        elif self.deck.home():
            return
        if self.session.scene is not None:
            self._begin(self.session.scene)

    def _record(self) -> None:
        if self.filming.frames is not None:
            self.filming.stop()
        elif (spec := self.session.engine.spec) is not None:
            try:
                self.filming.begin(spec)
            except ValueError as error:
                self._tell(str(error))

    def _filmed(self, sentence: str, whole: bool) -> None:
        seconds = TOAST_SECONDS if whole else 2 * TOAST_SECONDS
        self._toast = Toast(sentence, time.perf_counter() + seconds)

    def _tell(self, sentence: str) -> None:
        """In the window and on the terminal."""
        self.say(sentence)
        self._toast = Toast(sentence, time.perf_counter() + 2 * TOAST_SECONDS)

    def _refiner(self, now: float) -> None:
        """auto → on → off → auto, in a world that has one."""
        if self.session.refiner:
            self._toast = Toast(f"Refiner: {self.session.next_refining()}", now + TOAST_SECONDS)

    def _screenshot(self, now: float) -> None:
        try:
            path = stamped(self.filming.films.folder, ".png")
            save_png(path, self.display.grab())
        except ValueError as error:
            self._tell(str(error))
            return
        self.say(f"picture: {path}")
        self._toast = Toast(f"Saved {path.name}", now + TOAST_SECONDS)

    def _panels(self, now: float) -> None:
        if self.choosing:
            self._draw_gallery()
            for name in ("figures", "progress", "notice", "hint", "record"):
                self._drop(name)
        else:
            self._draw_flight(now)
        self._draw_toast(now)

    def _draw_gallery(self) -> None:
        stage = self.session.stage
        status = f"Getting ready: {self.session.note}" if stage == "loading" else "Ready to fly"
        if self._changed("gallery", self.grid, status):
            surface = self.painter.draw(self.brush, self.grid, status=status)
            self.display.put("gallery", surface, left=0, top=0)

    def _draw_flight(self, now: float) -> None:
        stage = self.session.stage
        if stage == "failed":
            self._center(
                "notice",
                hud.notice(
                    self.brush, "The flight broke off", f"{self.session.note}. Press {self.keys['restart']}."
                ),
            )
        else:
            self.display.drop("notice")
        if stage in ("loading", "waiting"):
            self._draw_progress(now)
        else:
            self.display.drop("progress")
        if 0.0 < self._help_until < now:
            self._toggle_help()
        self.deck.refresh(self.brush, now, left=self.brush.px(GAP + hud.WIDTH) if self.show_figures else 0)
        self._draw_hint(now)
        self._draw_recording()
        if now - self._figures_at >= FIGURES_EVERY:
            self._figures_at = now
            self._draw_figures()

    def _draw_progress(self, now: float) -> None:
        scene = self.session.scene
        self._steps = self._steps.then(self.session.note)
        title = scene.title if scene else ""
        card = startup_card(self.brush, title, self._steps.names, seconds=now - self._begun)
        top = self.window.size[1] - card.get_height() - self.brush.px(GAP)
        self.display.put("progress", card, left=self.brush.px(GAP), top=top)

    def _draw_hint(self, now: float) -> None:
        """How to fly, at the beginning of a flight."""
        since = self.session.stats.first_frame_at
        hidden = self.show_help or self.deck.busy or not self.window.settings.hud.hints
        if since is None or now - since > HINT_SECONDS or hidden:
            self._drop("hint")
            return
        if self._changed("hint", self.brush):
            card = hud.chip(self.brush, hud.HINT.format_map(self.keys))
            width, height = self.window.size
            top = height - card.get_height() - self.brush.px(GAP)
            self.display.put("hint", card, left=(width - card.get_width()) // 2, top=top)
        self.display.fade(
            "hint", max(min((HINT_SECONDS - (now - since)) / FADE, (now - since) / FADE, 1.0), 0.0)
        )

    def _draw_recording(self) -> None:
        frames, spec = self.filming.frames, self.session.engine.spec
        if frames is None or spec is None:
            self._drop("record")
            return
        seconds = frames // spec.fps
        if not self._changed("record", self.brush, seconds):
            return
        card = hud.chip(self.brush, f"{seconds // 60}:{seconds % 60:02d}", dot=ALERT)
        left = self.window.size[0] - card.get_width() - self.brush.px(GAP)
        self.display.put("record", card, left=left, top=self.brush.px(GAP))

    def _draw_figures(self) -> None:
        spec, stats = self.session.engine.spec, self.session.stats
        if not self.show_figures or spec is None or stats.first_frame_at is None:
            self.display.drop("figures")
            return
        card = hud.figures(
            self.brush,
            hud.Figures(
                fps=self._refreshes.rate,
                generated=stats.generated_fps,
                chunk=stats.chunk,
                chunk_length=spec.chunk_frames / spec.fps,
                drawn="raw" if self.raw else self.display.way,
                latency=stats.latency,
                pose=self.session.pilot.pose if self.session.pilot else Pose(),
                walking=self.window.hands.walk,
                speed=self.window.hands.speed,
                resting=self.session.stage == "resting",
                discarded=stats.discarded,
                refiner=self.session.refiner,
                recoveries=self.session.recoveries,
                drift=stats.drift,
                moments=self.session.history.spool.count,
                memory=self.session.history.spool.in_memory,
                disk=self.session.history.spool.on_disk,
            ),
        )
        top = self.window.size[1] - card.get_height() - self.brush.px(GAP)
        self.display.put("figures", card, left=self.brush.px(GAP), top=top)

    def _draw_toast(self, now: float) -> None:
        left = self._toast.until - now
        if left <= 0:
            self._drop("toast")
            return
        if self._changed("toast", self.brush, self._toast.words):
            width = min(self.window.size[0] - self.brush.px(2 * GAP), self.brush.px(760))
            card = hud.toast(self.brush, self._toast.words, width=width)
            x = (self.window.size[0] - card.get_width()) // 2
            self.display.put("toast", card, left=x, top=self.brush.px(GAP))
        self.display.fade("toast", min(left / FADE, 1.0))

    def _changed(self, name: str, *what: object) -> bool:
        """Whether a panel must be painted anew: it shows something else than when last asked."""
        before = self._painted.get(name)
        self._painted[name] = what
        return before != what

    def _drop(self, name: str) -> None:
        self._painted.pop(name, None)
        self.display.drop(name)

    def _center(self, name: str, card: pygame.Surface) -> None:
        width, height = self.window.size
        left, top = (width - card.get_width()) // 2, (height - card.get_height()) // 2
        self.display.put(name, card, left=left, top=top)
