"""What lies over the world at a station. Draws surfaces; knows no GL and no clock."""

from __future__ import annotations

from collections.abc import Sequence

import pygame

from explorer.kiosk.texts import Texts
from explorer.paint import Brush, premultiplied, rounded
from explorer.theme import ACCENT, GROUND, INK, QUIET, RADIUS, TRACK, Color

Rows = Sequence[tuple[str, str]]  # what to press, what it does


def veil(size: tuple[int, int]) -> pygame.Surface:
    """The ground colour over everything."""
    surface = pygame.Surface(size, pygame.SRCALPHA)
    surface.fill((*GROUND, 255))
    return surface


def shade(size: tuple[int, int]) -> pygame.Surface:
    """Dark towards the lower edge, so that words can be read over any world."""
    strip = pygame.Surface((1, 256), pygame.SRCALPHA)
    for y in range(256):
        strip.set_at((0, y), (*GROUND, round(225 * (y / 255) ** 1.6)))
    return premultiplied(pygame.transform.smoothscale(strip, size))


def invitation(brush: Brush, texts: Texts, *, start: str) -> pygame.Surface:
    """The station's name, what this is, and how to begin: three lines, no panel."""
    title = _fitted(brush, texts.title)
    lines = [title, brush.text(texts.subtitle, size="lead", color=INK), _pill(brush, start)]
    gaps = (brush.px(6), brush.px(30))
    width = max(line.get_width() for line in lines)
    surface = pygame.Surface((width, sum(line.get_height() for line in lines) + sum(gaps)), pygame.SRCALPHA)
    top = 0
    for line, gap in zip(lines, (*gaps, 0), strict=True):
        surface.blit(line, (0, top))
        top += line.get_height() + gap
    return premultiplied(surface)


def _fitted(brush: Brush, title: str) -> pygame.Surface:
    """As large as fits in a window of the usual shape."""
    size = "hero" if brush.width(title, size="hero") <= brush.px(1000) else "large"
    return brush.text(title, size=size)


def _pill(brush: Brush, words: str) -> pygame.Surface:
    text = brush.text(words, size="body", color=GROUND)
    pad, height = brush.px(26), brush.px(52)
    pill = rounded((text.get_width() + 2 * pad, height), ACCENT, radius=height // 2)
    pill.blit(text, (pad, (height - text.get_height()) // 2))
    return pill


def help_rows(texts: Texts, *, padded: bool, scenes: bool, languages: bool) -> Rows:
    """What a visitor can do, with a gamepad or with keys. scenes, languages: whether there are others."""
    if padded:
        rows = [
            (texts.left_stick, texts.move),
            (texts.right_stick, texts.look),
            (texts.triggers, texts.rise),
            (texts.shoulders, texts.roll),
            (texts.pad_up_down, texts.speed),
        ]
        keys = {"scenes": "B", "again": "Y", "language": "X", "help": "Start"}
    else:
        rows = [
            ("W A S D", texts.move),
            (f"{texts.mouse}, {texts.arrows}", texts.look),
            (f"{texts.space}, C", texts.rise),
            ("Q E", texts.roll),
            (texts.wheel, texts.speed),
        ]
        keys = {"scenes": "N", "again": "R", "language": "L", "help": "H"}
    wanted = [("scenes", scenes), ("again", True), ("language", languages), ("help", True)]
    return rows + [(keys[name], getattr(texts, name)) for name, there in wanted if there]


def help_card(brush: Brush, title: str, rows: Rows) -> pygame.Surface:
    """Title, then what to press beside what it does."""
    pad, line = brush.px(32), brush.px(34)
    keys = [_key(brush, key) for key, _ in rows]
    words = [brush.text(what) for _, what in rows]
    column = max(key.get_width() for key in keys) + brush.px(24)
    heading = brush.text(title, size="title")
    width = max(column + max(word.get_width() for word in words), heading.get_width()) + 2 * pad
    top = pad + heading.get_height() + brush.px(18)
    card = brush.card(width, top + line * len(rows) + pad - brush.px(8))
    card.blit(heading, (pad, pad - brush.px(4)))
    for i, (key, word) in enumerate(zip(keys, words, strict=True)):
        middle = top + i * line + line // 2
        card.blit(key, (pad, middle - key.get_height() // 2))
        card.blit(word, (pad + column, middle - word.get_height() // 2))
    return premultiplied(card)


def _key(brush: Brush, words: str) -> pygame.Surface:
    return brush.text(words, color=ACCENT)


def message(
    brush: Brush, title: str, sentence: str, *, phase: float | None = None, color: Color = INK
) -> pygame.Surface:
    """A calm word in the middle. phase: seconds, which move a bar while something is being done."""
    width, pad, line = brush.px(560), brush.px(34), brush.px(27)
    lines = brush.wrapped(sentence, width - 2 * pad)
    heading = brush.clipped(title, width - 2 * pad, size="title", color=color)
    top = pad + heading.get_height() + brush.px(12)
    card = brush.card(
        width, top + line * len(lines) + (brush.px(28) if phase is not None else 0) + pad - brush.px(6)
    )
    card.blit(heading, (pad, pad - brush.px(4)))
    for i, words in enumerate(lines):
        card.blit(brush.text(words, color=QUIET), (pad, top + i * line))
    if phase is not None:
        track = pygame.Rect(pad, card.get_height() - pad - brush.px(4), width - 2 * pad, brush.px(4))
        _runner(brush, card, track, phase)
    return premultiplied(card)


def _runner(brush: Brush, card: pygame.Surface, track: pygame.Rect, phase: float) -> None:
    """A short bar that goes to and fro every two seconds."""
    pygame.draw.rect(card, TRACK, track, border_radius=track.height // 2)
    run = track.width // 4
    share = abs((phase / 2.0) % 2.0 - 1.0)
    share = share * share * (3 - 2 * share)
    place = pygame.Rect(track.left + round(share * (track.width - run)), track.top, run, track.height)
    pygame.draw.rect(card, ACCENT, place, border_radius=track.height // 2)


def countdown(brush: Brush, sentence: str, share: float) -> pygame.Surface:
    """The end is near: a sentence over a bar that empties."""
    text = brush.text(sentence, size="body")
    pad = brush.px(22)
    card = brush.card(max(text.get_width(), brush.px(280)) + 2 * pad, text.get_height() + brush.px(48))
    card.blit(text, ((card.get_width() - text.get_width()) // 2, brush.px(14)))
    track = pygame.Rect(pad, card.get_height() - brush.px(20), card.get_width() - 2 * pad, brush.px(4))
    brush.bar(card, track, share)
    return premultiplied(card)


def phone(brush: Brush, words: str, code: Sequence[Sequence[bool]]) -> pygame.Surface:
    """A QR code with its sentence. code: rows of dark modules, without the quiet zone, which is added."""
    module = max(brush.px(150) // (len(code) + 8), 2)
    side = module * (len(code) + 8)
    text = brush.text(words, size="small")
    pad = brush.px(10)
    card = brush.card(max(side, text.get_width()) + 2 * pad, side + text.get_height() + brush.px(28))
    left = (card.get_width() - side) // 2
    card.blit(rounded((side, side), (255, 255, 255), radius=brush.px(RADIUS // 2)), (left, pad))
    for y, row in enumerate(code):
        for x, dark in enumerate(row):
            if dark:
                pygame.draw.rect(
                    card, (0, 0, 0), (left + (x + 4) * module, pad + (y + 4) * module, module, module)
                )
    card.blit(text, ((card.get_width() - text.get_width()) // 2, side + brush.px(18)))
    return premultiplied(card)


def whisper(brush: Brush, words: str) -> pygame.Surface:
    """A few words in a small panel."""
    text = brush.text(words, size="small", color=QUIET)
    pad = brush.px(14)
    card = brush.card(text.get_width() + 2 * pad, text.get_height() + brush.px(14))
    card.blit(text, (pad, brush.px(7)))
    return premultiplied(card)
