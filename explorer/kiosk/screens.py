"""Which panels a station shows at a moment, and how they come and go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pygame

from explorer.assets import Scene
from explorer.display import Display
from explorer.gallery import GalleryPainter, Grid
from explorer.kiosk import cards
from explorer.kiosk.board import Board
from explorer.kiosk.settings import Station
from explorer.kiosk.texts import Texts
from explorer.kiosk.visit import Countdown, Phase, Rules
from explorer.paint import Brush
from explorer.theme import GOOD

BAR = 20  # steps a second of a moving bar


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What there is to see at one moment."""

    now: float
    phase: Phase
    texts: int  # which language
    scene: Scene
    grid: Grid
    since: float  # when the flight began
    curtain: float  # 0 to 1
    helping: bool
    padded: bool  # a gamepad was used last
    loading: bool  # the program's first engine is not there yet
    trouble: bool  # an engine failed, and the next one is on its way
    countdown: Countdown | None
    left: float  # seconds of the visit
    code: tuple[tuple[bool, ...], ...]  # QR


class Screens:
    """Owned by the main thread."""

    def __init__(self, display: Display, scenes: Sequence[Scene], station: Station, rules: Rules) -> None:
        self._display, self._scenes, self._station, self._rules = display, scenes, station, rules
        self._board = Board(display)
        self._galleries = [GalleryPainter(_titled(scenes, texts)) for texts in station.texts]
        self._brushes: list[Brush] = []

    def draw(self, view: View) -> None:
        """Put up what belongs there, take down the rest."""
        texts, brush = self._station.texts[view.texts], self._brush(view.texts)
        self._veil(view, brush)
        if view.phase == "choosing" and not view.trouble:
            self._choice(view, texts, brush)
        else:
            self._board.drop("gallery")
        self._invitation(view, texts, brush)
        self._phone(view, texts, brush)
        self._flight(view, texts, brush)
        self._middle(view, texts, brush)

    def _brush(self, language: int) -> Brush:
        height = self._display.size[1]
        if not self._brushes or self._brushes[0].height != height:
            face = self._station.screen.font
            self._brushes = [Brush(height, texts.code, face) for texts in self._station.texts]
        return self._brushes[language]

    def _veil(self, view: View, brush: Brush) -> None:
        """Dark over the world while scenes change, and half of that behind a calm message; the lowest panel."""
        covered = max(view.curtain, 0.55 * (view.trouble or view.phase == "goodbye"))
        size = self._display.size
        self._board.show("veil", brush, draw=lambda: cards.veil(size), place="all", alpha=covered)

    def _invitation(self, view: View, texts: Texts, brush: Brush) -> None:
        if view.phase != "attract" or view.trouble:
            self._board.drop("shade", "invitation")
            return
        width, height = self._display.size
        self._board.show("shade", brush, draw=lambda: cards.shade((width, round(0.62 * height))), place="all")
        start = texts.loading if view.loading else texts.start
        draw = lambda: cards.invitation(brush, texts, start=start)
        self._board.show("invitation", brush, start, draw=draw, place="start")

    def _phone(self, view: View, texts: Texts, brush: Brush) -> None:
        if view.code and view.phase in ("attract", "flying") and not view.trouble:
            draw = lambda: cards.phone(brush, texts.watch, view.code)
            self._board.show("phone", brush, view.code, draw=draw, place="corner")
        else:
            self._board.drop("phone")

    def _choice(self, view: View, texts: Texts, brush: Brush) -> None:
        painter = self._galleries[view.texts]
        hint = texts.choose_hint_pad if view.padded else texts.choose_hint

        def draw() -> pygame.Surface:
            return painter.draw(brush, view.grid, status="", title=texts.choose, hint=hint)

        self._board.show("gallery", brush, view.grid, hint, draw=draw, place="all")

    def _flight(self, view: View, texts: Texts, brush: Brush) -> None:
        flying = view.phase == "flying" and not view.trouble
        if flying and view.helping:
            rows = cards.help_rows(
                texts,
                padded=view.padded,
                scenes=len(self._scenes) > 1,
                languages=len(self._station.texts) > 1,
            )
            draw = lambda: cards.help_card(brush, texts.help_title, rows)
            self._board.show("help", brush, rows, draw=draw, place="middle")
        else:
            self._board.drop("help")
        if flying and not view.helping and view.countdown is None:
            hint = texts.hint_pad if view.padded else texts.hint
            self._board.show("hint", brush, hint, draw=lambda: cards.whisper(brush, hint), place="bottom")
        else:
            self._board.drop("hint")

    def _middle(self, view: View, texts: Texts, brush: Brush) -> None:
        self._countdown(view, texts, brush)
        moving = round((view.now - view.since) * BAR) / BAR
        if view.trouble:
            draw = lambda: cards.message(brush, texts.trouble, texts.trouble_hint, phase=moving)
            self._board.show("message", brush, "trouble", moving, draw=draw, place="middle")
        elif view.phase == "goodbye":
            draw = lambda: cards.message(brush, texts.goodbye, texts.goodbye_hint, color=GOOD)
            self._board.show("message", brush, "goodbye", draw=draw, place="middle")
        else:
            self._board.drop("message")

    def _countdown(self, view: View, texts: Texts, brush: Brush) -> None:
        count = view.countdown
        if count is None or view.trouble:
            self._board.drop("countdown")
            return
        sentence = texts.countdown(texts.idle if count.why == "idle" else texts.limit, count.seconds)
        share = min(max(view.left / self._rules.countdown, 0.0), 1.0)
        step = round(share * 200)
        draw = lambda: cards.countdown(brush, sentence, share)
        self._board.show("countdown", brush, sentence, step, draw=draw, place="top")


def _titled(scenes: Sequence[Scene], texts: Texts) -> list[Scene]:
    """The scenes under this language's titles."""
    return [replace(scene, title=texts.titles.get(scene.name, scene.title)) for scene in scenes]
