"""A line of words being typed for the world. A value, and how it looks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pygame

from engine.words import parse
from explorer.paint import Brush, premultiplied
from explorer.theme import ALERT, INK, QUIET

LONGEST, LONGEST_TEXT = 80, 1000  # characters: of words from a vocabulary, and of a text
WIDTH = 660  # pixels, in a window 800 pixels high
ROWS = 6  # lines of a text that are seen; of a longer one the last
HINT = "describe the world, such as  snowy pines at dusk     Enter: do it     Esc: leave it"
HINT_TEXT = "describe the world in a sentence or more     Enter: do it     Esc: leave it"


@dataclass(frozen=True, slots=True)
class Wording:
    """What is typed so far; `after` returns the line after a key."""

    line: str = ""
    complaint: str = ""
    done: bool = False
    words: tuple[int, ...] | None = None  # once done; None: nothing is to change
    free: bool = False  # any text will do
    text: str | None = None  # of such, once done; None: nothing is to change

    def after(self, name: str, text: str = "") -> Wording:
        """name: of the action; "text" brings what was typed."""
        match name:
            case "text":
                line = self.line + "".join(c for c in text if c.isprintable())
                return replace(self, line=line[: LONGEST_TEXT if self.free else LONGEST], complaint="")
            case "rewind":  # the key that deletes
                return replace(self, line=self.line[:-1], complaint="")
            case "escape":
                return replace(self, done=True)
            case "accept":
                return self._read()
        return self

    def _read(self) -> Wording:
        if self.free:
            return replace(self, done=True, text=self.line.strip())
        try:
            ids = tuple(int(word) for word in parse(self.line))
        except ValueError as error:
            return replace(self, complaint=str(error))
        return replace(self, done=True, words=ids)

    def draw(self, brush: Brush) -> pygame.Surface:
        return self._page(brush) if self.free else self._row(brush)

    def _row(self, brush: Brush) -> pygame.Surface:
        """One line, of which the end is seen, under what is wrong with it."""
        width, pad, row = brush.px(WIDTH), brush.px(20), brush.px(24)
        lines = brush.wrapped(self.complaint, width - 2 * pad) if self.complaint else []
        card = brush.card(width, brush.px(84) + row * len(lines))
        for i, words in enumerate(lines):
            card.blit(brush.text(words, color=ALERT), (pad, brush.px(16) + i * row))
        top = brush.px(16) + row * len(lines)
        text = brush.text(self.line + "|", size="title", color=INK)
        card.blit(
            text,
            (pad, top),
            pygame.Rect(max(text.get_width() - width + 2 * pad, 0), 0, width - 2 * pad, text.get_height()),
        )
        card.blit(brush.text(HINT, size="small", color=QUIET), (pad, top + brush.px(36)))
        return premultiplied(card)

    def _page(self, brush: Brush) -> pygame.Surface:
        """As many lines as the text takes."""
        width, pad, row = brush.px(WIDTH), brush.px(20), brush.px(26)
        lines = brush.wrapped(self.line + "|", width - 2 * pad)[-ROWS:]
        card = brush.card(width, brush.px(58) + row * len(lines))
        for i, words in enumerate(lines):
            card.blit(brush.clipped(words, width - 2 * pad, color=INK), (pad, brush.px(18) + i * row))
        hint = brush.text(HINT_TEXT, size="small", color=QUIET)
        card.blit(hint, (pad, brush.px(24) + row * len(lines)))
        return premultiplied(card)
