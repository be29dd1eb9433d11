"""The timeline drawn along the lower edge: small pictures of the way, bookmarks, branches. Knows no GL and no clock."""

from __future__ import annotations

from dataclasses import dataclass

import pygame

from engine.config import FPS
from explorer.paint import Brush, premultiplied
from explorer.recorder import pick_evenly
from explorer.reel import Reel
from explorer.theme import ACCENT, INK, QUIET
from explorer.timeline import Timeline

WIDTH, HEIGHT, SPACE, PAD = 76, 48, 6, 12  # pixels of a picture and around it, in a window 800 pixels high
TOP = 26  # above the pictures: numbers of bookmarks, marks of branches


@dataclass(frozen=True, slots=True)
class Strip:
    """A drawn strip, and which moment each picture of it shows."""

    surface: pygame.Surface
    ids: tuple[int, ...]

    def nearest(self, id: int) -> int:
        """Position of the picture of the last moment not after this one."""
        earlier = [i for i, shown in enumerate(self.ids) if shown <= id]
        return earlier[-1] if earlier else 0


def pick(timeline: Timeline, room: int) -> tuple[int, ...]:
    """Up to `room` moments of the way to here: spread evenly, bookmarks in place of their neighbours."""
    line = timeline.line()
    places = pick_evenly(len(line), room)
    marked = set(timeline.marks.values())
    for place in (i for i, id in enumerate(line) if id in marked and i not in places):
        inner = [p for p in places[1:-1] if line[p] not in marked]
        if inner:
            places[places.index(min(inner, key=lambda p: abs(p - place)))] = place
    return tuple(line[p] for p in sorted(places))


def draw(brush: Brush, width: int, timeline: Timeline, reel: Reel) -> Strip:
    """A card at most `width` pixels wide."""
    w, h, space, pad, top = (brush.px(x) for x in (WIDTH, HEIGHT, SPACE, PAD, TOP))
    ids = pick(timeline, max((width - 2 * pad + space) // (w + space), 1))
    card = brush.card(2 * pad + len(ids) * (w + space) - space, top + h + pad)
    for i, id in enumerate(ids):
        left = pad + i * (w + space)
        _picture(brush, card, pygame.Rect(left, top, w, h), reel, id)
        _badges(brush, card, left, ids[i - 1] if i else None, id, timeline)
    return Strip(premultiplied(card), ids)


def _picture(brush: Brush, card: pygame.Surface, box: pygame.Rect, reel: Reel, id: int) -> None:
    pixels = reel.thumbnail(id)
    if pixels is None:
        pygame.draw.rect(card, (255, 255, 255, 30), box)
        return
    small = pygame.image.frombuffer(pixels.tobytes(), (pixels.shape[1], pixels.shape[0]), "RGB")
    card.blit(pygame.transform.smoothscale(small, box.size), box)


def _badges(
    brush: Brush, card: pygame.Surface, left: int, before: int | None, id: int, timeline: Timeline
) -> None:
    """Above a picture: its time, the number of its bookmark, a fork where other branches left since the one before."""
    x, middle = left, brush.px(TOP) // 2
    seconds = timeline.moments[id].index // FPS
    clock = brush.text(f"{seconds // 60}:{seconds % 60:02d}", size="small", color=QUIET)
    card.blit(clock, (left + brush.px(WIDTH) - clock.get_width(), middle - clock.get_height() // 2))
    for key, at in timeline.marks.items():
        if at == id:
            number = brush.text(str(key), size="small", color=ACCENT)
            card.blit(number, (x, middle - number.get_height() // 2))
            x += number.get_width() + brush.px(8)
    line = timeline.line(id)
    since = line[line.index(before) + 1 :] if before in line else line
    forks = sum(len(timeline.children(i)) - 1 for i in since if timeline.children(i))
    if forks > 0:
        _fork(brush, card, x, middle, forks)


def _fork(brush: Brush, card: pygame.Surface, x: int, middle: int, count: int) -> None:
    a, line = brush.px(7), max(brush.px(2), 1)
    pygame.draw.line(card, (*QUIET, 255), (x, middle + a // 2), (x + 2 * a, middle + a // 2), line)
    pygame.draw.line(card, (*QUIET, 255), (x + a // 2, middle + a // 2), (x + 2 * a, middle - a // 2), line)
    if count > 1:
        card.blit(
            brush.text(str(count + 1), size="small", color=QUIET), (x + 2 * a + brush.px(4), middle - a)
        )


def cursor(brush: Brush) -> pygame.Surface:
    """A frame for the picture where one is."""
    grow = brush.px(3)
    size = brush.px(WIDTH) + 2 * grow, brush.px(HEIGHT) + 2 * grow
    card = pygame.Surface(size, pygame.SRCALPHA)
    pygame.draw.rect(card, (*INK, 255), card.get_rect(), width=grow, border_radius=grow)
    return premultiplied(card)


def cursor_place(brush: Brush, position: int) -> tuple[int, int]:
    """Left and top of the cursor in the strip."""
    grow = brush.px(3)
    left = brush.px(PAD) + position * (brush.px(WIDTH) + brush.px(SPACE))
    return left - grow, brush.px(TOP) - grow
