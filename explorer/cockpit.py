"""The flight in a window: from the gallery to the last recorded frame. Runs on the main thread."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pygame

from engine.camera import Pose
from engine.frame import Frame
from explorer import hud
from explorer.assets import Scene
from explorer.controls import Hands
from explorer.display import Display
from explorer.gallery import GalleryPainter, Grid
from explorer.paint import ALERT, Brush
from explorer.recorder import Recorder, pictures_folder, save_png, stamped
from explorer.reproject import View, shown_lens
from explorer.session import Session
from explorer.window import Action, Window

REFRESH, REFRESH_SOFTWARE = 60.0, 32.0  # per second; where the CPU draws, it has the world to make too
HINT_SECONDS, TOAST_SECONDS, FADE = 9.0, 4.0, 0.6
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
        self, window: Window, session: Session, scenes: Sequence[Scene], *, say: Callable[[str], None]
    ) -> None:
        """scenes: to choose from, or the only one, with which the flight begins at once. say: prints a line."""
        self.window, self.session, self.scenes, self.say = window, session, scenes, say
        self.display = Display(window.size)
        self.brush = Brush(window.size[1])
        self.grid = Grid(len(scenes), window.size)
        self.painter = GalleryPainter(scenes)
        self.choosing = len(scenes) > 1
        self.running = True
        self.show_help, self.show_figures, self.raw = False, True, False
        self.recorder: Recorder | None = None
        self._toast = Toast("", 0.0)
        self._still: View | None = None  # of the scene's own picture
        self._leave_until = 0.0  # a second Esc before this leaves
        self._begun = 0.0
        self._figures_at = 0.0
        self._painted: dict[str, tuple[object, ...]] = {}  # what each panel shows
        self._refreshes: deque[float] = deque(maxlen=90)
        self._longest = 0.0  # seconds between two refreshes in flight
        if not self.choosing:
            self._begin(scenes[0])

    def run(self) -> int:
        """Returns the exit code. A model that cannot be loaded raises ValueError."""
        period = 1.0 / (REFRESH_SOFTWARE if self.display.software else REFRESH)
        deadline = time.perf_counter()
        while self.running:
            self._refresh(time.perf_counter())
            deadline = max(deadline + period, time.perf_counter() - period)
            time.sleep(max(deadline - time.perf_counter(), 0.001))
        return 0

    def close(self) -> None:
        """Finish the recording and say how it went; the rest belongs to others."""
        if self.recorder is not None:
            self._stop_recording()
        stats = self.session.stats
        if stats.first_frame_at is not None and stats.frame is not None:
            self.say(
                f"{stats.frame.index} frames, first after {stats.first_frame_at - self._begun:.1f} s; "
                f"{stats.generated_fps:.1f} generated per second, window {self._fps():.0f}; "
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
            "window_fps": round(self._fps(), 2),
            "longest_refresh_ms": round(self._longest * 1e3, 1),
            "chunk_ms": round(stats.chunk * 1e3, 1),
            "discarded": stats.discarded,
            "drawn": self.display.way,
            "renderer": self.display.gl.info["GL_RENDERER"],
            "window": self.window.size,
        }

    def _refresh(self, now: float) -> None:
        if self._refreshes and self.session.stats.first_frame_at is not None:
            self._longest = max(self._longest, now - self._refreshes[-1])
        self._refreshes.append(now)
        for action in self.window.pump(flying=not self.choosing, now=now):
            self._act(action, now)
        shown = self.session.tick(self.window.hands.steering, now=now)
        if self.session.stage == "failed" and self.session.engine.spec is None:
            raise ValueError(self.session.note)
        begun = time.perf_counter()
        if not self.choosing:
            for item in shown:
                if self.recorder is not None:
                    self.recorder.add(item.frame.pixels)
            if shown:
                self.display.frame(shown[-1].frame, now=now)
            view = self.session.view(now) or self._still
            self.display.look(None if self.raw else view, now=now)
        self._panels(now)
        self.display.draw(begun=begun)
        self.session.stats.latency.presented(time.perf_counter())

    def _act(self, action: Action, now: float) -> None:
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
            "record": lambda: self._record(now),
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
        self.show_help = not self.show_help
        self._show_help()

    def _show_help(self) -> None:
        if self.show_help:
            self._center("help", hud.help_card(self.brush))
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
        self._begun = time.perf_counter()
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
            self.window.grab(False)
            pygame.display.set_caption("World Explorer")

    def _restart(self) -> None:
        if self.session.stage == "failed":
            self.session.restart()
        if self.session.scene is not None:
            self._begin(self.session.scene)

    def _record(self, now: float) -> None:
        if self.recorder is not None:
            self._stop_recording()
        elif self.session.engine.spec is not None:
            path = stamped(pictures_folder(), ".mp4")
            self.recorder = Recorder(path, fps=self.session.engine.spec.fps)

    def _stop_recording(self) -> None:
        assert self.recorder is not None
        path, frames = self.recorder.path, self.recorder.frames
        self.recorder.close()
        self.recorder = None
        if frames:
            self.say(f"recorded {frames} frames: {path}")
            self._toast = Toast(f"Saved {path.name}", time.perf_counter() + TOAST_SECONDS)

    def _screenshot(self, now: float) -> None:
        path = stamped(pictures_folder(), ".png")
        save_png(path, self.display.grab())
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
                "notice", hud.notice(self.brush, "The flight broke off", f"{self.session.note}. Press R.")
            )
        else:
            self.display.drop("notice")
        if stage in ("loading", "waiting"):
            self._draw_progress(now)
        else:
            self.display.drop("progress")
        self._draw_hint(now)
        self._draw_recording()
        if now - self._figures_at >= FIGURES_EVERY:
            self._figures_at = now
            self._draw_figures()

    def _draw_progress(self, now: float) -> None:
        scene = self.session.scene
        card = hud.progress(
            self.brush, scene.title if scene else "", self.session.note, seconds=now - self._begun
        )
        width, height = self.window.size
        top = height - card.get_height() - self.brush.px(2 * GAP)
        self.display.put("progress", card, left=(width - card.get_width()) // 2, top=top)

    def _draw_hint(self, now: float) -> None:
        """How to fly, at the beginning of a flight."""
        since = self.session.stats.first_frame_at
        if since is None or now - since > HINT_SECONDS:
            self._drop("hint")
            return
        if self._changed("hint", self.brush):
            card = hud.chip(self.brush, "W A S D to fly     click to look around     H for help")
            width, height = self.window.size
            top = height - card.get_height() - self.brush.px(GAP)
            self.display.put("hint", card, left=(width - card.get_width()) // 2, top=top)
        self.display.fade(
            "hint", max(min((HINT_SECONDS - (now - since)) / FADE, (now - since) / FADE, 1.0), 0.0)
        )

    def _draw_recording(self) -> None:
        if self.recorder is None or self.session.engine.spec is None:
            self._drop("record")
            return
        seconds = self.recorder.frames // self.session.engine.spec.fps
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
                fps=self._fps(),
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
            ),
        )
        top = self.window.size[1] - card.get_height() - self.brush.px(GAP)
        self.display.put("figures", card, left=self.brush.px(GAP), top=top)

    def _fps(self) -> float:
        if len(self._refreshes) < 2:
            return 0.0
        return (len(self._refreshes) - 1) / max(self._refreshes[-1] - self._refreshes[0], 1e-9)

    def _draw_toast(self, now: float) -> None:
        left = self._toast.until - now
        if left <= 0:
            self._drop("toast")
            return
        if self._changed("toast", self.brush, self._toast.words):
            card = hud.chip(self.brush, self._toast.words)
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
