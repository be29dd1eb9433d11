"""What start-up is doing, by named steps: those done, the one under way, and for how long. Draws; knows no clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pygame

from explorer.paint import Brush, premultiplied
from explorer.theme import ACCENT, FAINT, GOOD, INK, QUIET, TRACK


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps so far, the last of them under way."""

    names: tuple[str, ...] = ()

    def then(self, name: str) -> Steps:
        """The step under way is over when another one is named."""
        return self if not name or name in self.names[-1:] else replace(self, names=(*self.names, name))


def startup_card(brush: Brush, title: str, steps: Sequence[str], *, seconds: float) -> pygame.Surface:
    """The scene's name over its steps. seconds: since the start; they also turn the ring before the step under way."""
    width, pad, line = brush.px(380), brush.px(26), brush.px(28)
    top = brush.px(68)
    card = brush.card(width, top + line * max(len(steps), 1) + brush.px(16))
    clock = brush.text(f"{seconds:.1f} s", size="small", color=FAINT)
    card.blit(clock, (width - pad - clock.get_width(), brush.px(26)))
    card.blit(brush.clipped(title, width - 2 * pad - brush.px(60), size="title"), (pad, brush.px(19)))
    for i, name in enumerate(steps):
        middle = top + i * line + line // 2 - brush.px(4)
        under_way = i == len(steps) - 1
        _mark(brush, card, (pad + brush.px(7), middle), turning=seconds if under_way else None)
        color = INK if under_way else QUIET
        words = brush.clipped(
            name[:1].upper() + name[1:], width - 2 * pad - brush.px(26), size="small", color=color
        )
        card.blit(words, (pad + brush.px(26), middle - words.get_height() // 2))
    return premultiplied(card)


def _mark(brush: Brush, card: pygame.Surface, at: tuple[int, int], *, turning: float | None) -> None:
    """A tick, or a dot that goes round on a ring; drawn large and shrunk, so that it is smooth."""
    size = brush.px(14)
    big = pygame.Surface((4 * size, 4 * size), pygame.SRCALPHA)
    color = GOOD if turning is None else ACCENT
    big.fill((*color, 0))
    if turning is None:
        points = [(0.6 * size, 2.1 * size), (1.6 * size, 3.1 * size), (3.4 * size, 1.0 * size)]
        pygame.draw.lines(big, color, False, points, width=max(size // 2, 2))
    else:
        middle = pygame.Vector2(2 * size, 2 * size)
        pygame.draw.circle(big, TRACK, middle, 1.7 * size, width=max(size // 2, 2))
        pygame.draw.circle(
            big, color, middle + pygame.Vector2(0, -1.45 * size).rotate(300 * turning), 0.55 * size
        )
    small = pygame.transform.smoothscale(big, (size, size))
    card.blit(small, (at[0] - size // 2, at[1] - size // 2))
