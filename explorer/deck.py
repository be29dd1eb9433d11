"""The pilot's hold on time: rewind, branch, bookmark, pause, save, other words. Owned by the main thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

from explorer import hud, strip
from explorer.bindings import labels
from explorer.display import Display
from explorer.paint import Brush
from explorer.recorder import stamped
from explorer.reel import Shot, develop
from explorer.rewind import Rewind, rewind
from explorer.session import Session
from explorer.strip import Strip
from explorer.theme import ACCENT
from explorer.timeline import Timeline
from explorer.window import Action, Window
from explorer.wording import Wording
from explorer.worldfile import SUFFIX

LINGER = 3.0  # seconds that the strip stays after it was used
GAP = 24  # pixels between a panel and the rim, in a window 800 pixels high
PANELS = ("strip", "cursor", "mode", "words")


class Deck:
    """Acts on one session, draws on one display."""

    def __init__(
        self,
        window: Window,
        session: Session,
        display: Display,
        *,
        tell: Callable[[str], None],
        folder: Path,
    ) -> None:
        """tell: shows a line for a moment.  folder: for flights that are saved."""
        self._window, self._session, self._display, self._tell = window, session, display, tell
        self._folder = folder
        self._keys = labels(window.settings.keys)
        self._rewind: Rewind | None = None
        self._words: Wording | None = None
        self._always = False
        self._until = 0.0
        self._saving: tuple[Path, Future[int]] | None = None
        self._strip: Strip | None = None
        self._drawn: tuple[Timeline, Brush, int] | None = None
        self._marked = -1  # where in the strip the cursor is
        self._said: tuple[Brush, str] | None = None
        self._shot: Shot | None = None  # on screen while rewinding

    @property
    def busy(self) -> bool:
        """Whether the lower edge is taken by the strip or by words being typed."""
        return self._strip is not None or self._words is not None

    @property
    def rewinding(self) -> bool:
        """Whether the deck shows what was."""
        return self._rewind is not None

    def act(self, action: Action, now: float) -> bool:
        """Do what was asked for; False: it is nothing of ours."""
        if self._words is not None:
            return self._type(action, now)
        todo: dict[str, Callable[[], None]] = {
            "rewind": lambda: self._begin_rewind(now),
            "release": lambda: self._end_rewind(now),
            "mark": lambda: self._mark(now),
            "return": lambda: self._return(action.x, now),
            "branch": lambda: self._branch(now),
            "timeline": self._toggle,
            "pause": lambda: self._pause(now),
            "single": self._session.single,
            "save": self._save,
            "seed": self._reseed,
            "words": self._ask,
        }
        if action.name in todo:
            todo[action.name]()
        return action.name in todo

    def home(self) -> bool:
        """Return to the beginning of this flight; False where there is none yet."""
        line = self._session.history.timeline.line()
        if not line or self._session.stage == "failed":
            return False
        self._go(line[0])
        return True

    def leave(self) -> None:
        """The flight is left: nothing is held any more."""
        self._rewind = self._words = None
        self._window.typing = False
        self._hide()

    def refresh(self, brush: Brush, now: float, *, left: int) -> None:
        """Once per refresh: the picture while rewinding, and the panels. left: pixels taken at the lower left."""
        if self._rewind is not None:
            self._show(self._rewind.at(now).shot)
        self._collect()
        self._hear()
        timeline = self._session.history.timeline
        wanted = self._rewind or self._session.paused or self._always or now < self._until
        if wanted and timeline.here is not None and self._words is None:
            self._draw_strip(brush, timeline, now, left=left)
        else:
            self._drop_strip()
        self._draw_words(brush)
        self._draw_mode(brush, now)

    def close(self) -> None:
        """Wait until a flight that is being saved has been."""
        if self._saving is not None:
            if not self._saving[1].done():
                self._tell(f"finishing {self._saving[0].name}")
            self._saving[1].exception()
            self._collect()

    # --- what the keys do --------------------------------------------------------------------------------------

    def _begin_rewind(self, now: float) -> None:
        spec = self._session.engine.spec
        if self._rewind is None and spec is not None:
            self._rewind = rewind(
                self._session.history.timeline, self._session.history.reel, now=now, fps=spec.fps
            )
            if self._rewind is not None:
                self._session.still(True, now=now)

    def _end_rewind(self, now: float) -> None:
        if self._rewind is not None:
            landing, self._rewind = self._rewind.at(now).landing, None
            self._go(landing, now)
            self._session.still(False, now=now)

    def _mark(self, now: float) -> None:
        history = self._session.history
        if (here := history.timeline.here) is None:
            return
        history.mark(here)
        keys = [key for key, at in history.timeline.marks.items() if at == here]
        self._tell(f"Bookmark {keys[0]}: press {keys[0]} to return" if keys else "Bookmark removed")
        self._until = now + LINGER

    def _return(self, key: int, now: float) -> None:
        id = self._session.history.timeline.marks.get(key)
        if id is None:
            self._tell("There is no bookmark {}: {mark} sets one".format(key, **self._keys))
        else:
            self._go(id, now)

    def _branch(self, now: float) -> None:
        """To the end of another branch: the one before the one that was flown last, and so on round."""
        timeline = self._session.history.timeline
        line = set(timeline.line())
        tips = timeline.tips
        others = [tip for tip in tips if tip not in line]
        if not others:
            self._tell("There is no other branch yet: rewind and fly on")
            return
        here = timeline.here or 0
        self._go(max((tip for tip in others if tip < here), default=others[-1]), now)

    def _toggle(self) -> None:
        self._always = not self._always

    def _pause(self, now: float) -> None:
        self._session.pause(not self._session.paused, now=now)

    def _go(self, id: int, now: float | None = None) -> None:
        self._session.go(id)
        shots = self._session.history.reel.shots(id)
        if shots:
            self._show(shots[-1])
        self._shot = None
        if now is not None:
            self._until = now + LINGER

    def _show(self, shot: Shot) -> None:
        if shot is not self._shot:
            self._shot = shot
            self._display.still(develop(shot))

    def _save(self) -> None:
        if self._saving is not None:
            return
        try:
            path = stamped(self._folder, SUFFIX)
            self._saving = path, self._session.save(path)
        except ValueError as error:
            self._tell(str(error))

    def _collect(self) -> None:
        if self._saving is not None and self._saving[1].done():
            (path, future), self._saving = self._saving, None
            error = future.exception()
            if error is None:
                self._tell(f"Saved {path.name}: explorer fly {path}")
            elif isinstance(error, ValueError):
                self._tell(str(error))
            else:
                raise error

    def _hear(self) -> None:
        """What became of another prompt."""
        teller = self._session.teller
        if teller.news:
            self._tell(teller.news)
            teller.news = ""

    def _reseed(self) -> None:
        """The same picture, another dream."""
        scene = self._session.scene
        if scene is not None and self._session.stage != "failed":
            self._session.begin(replace(scene, seed=(scene.seed + 1) % (1 << 63), past=None))
            self._tell(f"Seed {scene.seed + 1}")

    # --- words --------------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        reads = self._session.reads
        self._words = Wording(line=self._session.teller.setup.prompt if reads else "", free=reads)
        self._window.typing = True
        self._window.fresh_hands()

    def _type(self, action: Action, now: float) -> bool:
        """While words are typed nothing else is done with keys, but to leave."""
        assert self._words is not None
        if action.name in ("quit", "resized", "fullscreen"):
            return False
        self._words = self._words.after(action.name, action.text)
        if self._words.done:
            if self._words.words is not None:
                self._session.reword(self._words.words)
                self._tell(self._words.line or "No words")
            if self._words.text is not None:
                self._session.retell(self._words.text)
            self._words, self._window.typing = None, False
        return True

    # --- panels -------------------------------------------------------------------------------------------------

    def _draw_strip(self, brush: Brush, timeline: Timeline, now: float, *, left: int) -> None:
        gap = brush.px(GAP)
        room = self._window.size[0] - left - 2 * gap
        fresh = self._strip is None or (timeline, brush, room) != self._drawn
        if self._strip is None or fresh:
            self._strip = strip.draw(brush, room, timeline, self._session.history.reel)
            self._drawn = timeline, brush, room
        top = self._window.size[1] - self._strip.surface.get_height() - gap
        if fresh:
            self._display.put("strip", self._strip.surface, left=left + gap, top=top)
            self._marked = -1
        here = self._rewind.at(now).landing if self._rewind is not None else timeline.here
        assert here is not None
        place = self._strip.nearest(here)
        if place != self._marked:
            self._marked = place
            x, y = strip.cursor_place(brush, place)
            self._display.put("cursor", strip.cursor(brush), left=left + gap + x, top=top + y)

    def _drop_strip(self) -> None:
        if self._strip is not None:
            self._strip = self._drawn = None
            self._display.drop("strip")
            self._display.drop("cursor")

    def _draw_words(self, brush: Brush) -> None:
        if self._words is None:
            self._display.drop("words")
            return
        card = self._words.draw(brush)
        width, height = self._window.size
        top = height - card.get_height() - brush.px(GAP)
        self._display.put("words", card, left=(width - card.get_width()) // 2, top=top)

    def _draw_mode(self, brush: Brush, now: float) -> None:
        """At the upper left, when time does not simply pass."""
        line = ""
        if self._session.stage == "recovering":
            line = "The engine starts again, your flight goes on in a moment"
        elif self._rewind is not None:
            line = self._back(self._rewind, now)
        elif self._session.paused:
            line = "Paused     {pause} goes on     {single} one frame".format(**self._keys)
        elif self._session.teller.step:
            line = f"Another prompt: {self._session.teller.step}"
        if not line:
            self._display.drop("mode")
            self._said = None
        elif self._said != (brush, line):
            self._said = brush, line
            card = hud.chip(brush, line, dot=ACCENT)
            self._display.put("mode", card, left=brush.px(GAP), top=brush.px(GAP))

    def _back(self, rewind: Rewind, now: float) -> str:
        """How far back, and from where one would fly on: moments of large states lie apart."""
        line = f"{rewind.seconds(now):.1f} s back     let go to fly on from "
        timeline = self._session.history.timeline
        apart = rewind.at(now).shot.index - timeline.moments[rewind.at(now).landing].index
        return line + ("here" if apart < rewind.fps else f"{apart / rewind.fps:.1f} s before")

    def _hide(self) -> None:
        self._drop_strip()
        self._said = None
        for name in PANELS:
            self._display.drop(name)
