"""What lies over the world: figures, hints, progress, help. Draws surfaces; knows no GL and no clock."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pygame

from engine.camera import Pose
from explorer.controls import SPEED_MAX, SPEED_MIN
from explorer.latency import Latency
from explorer.paint import ACCENT, ALERT, INK, QUIET, Brush, Color, premultiplied
from explorer.pilot import angles

HELP = (
    ("W A S D", "fly forward, left, back, right"),
    ("Space  C", "up, down"),
    ("Mouse", "click to look around, Esc to let go"),
    ("Arrows", "turn and look up or down"),
    ("Q  E   L", "roll, level the horizon"),
    ("F", "walk upright, or fly"),
    ("Wheel   Z X", "speed, field of view"),
    ("R   N", "start this scene again, choose another"),
    ("F9   F12", "record, take a picture"),
    ("Tab   F11", "figures, full screen"),
    ("V", "frames as they are generated"),
    ("Esc  Esc", "leave"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What the figures panel tells."""

    fps: float  # refreshes of the window
    generated: float  # frames per second
    chunk: float  # seconds
    chunk_length: float  # seconds of flight in a chunk
    drawn: str  # how finely views are drawn
    latency: Latency
    pose: Pose
    speed: float  # m/s
    walking: bool = False
    resting: bool = False
    discarded: int = 0


def figures(brush: Brush, f: Figures) -> pygame.Surface:
    """The panel at the lower left: speed large, then the figures in two columns."""
    pad, line = brush.px(18), brush.px(25)
    rows = _rows(f)
    width = brush.px(268)
    top = brush.px(92)
    card = brush.card(width, top + line * len(rows) + brush.px(12))
    number = brush.text(f"{f.speed:.1f}" if f.speed < 10 else f"{f.speed:.0f}", size="large")
    card.blit(number, (pad, brush.px(14)))
    unit = brush.text("m/s  on foot" if f.walking else "m/s", size="body", color=QUIET)
    card.blit(unit, (pad + number.get_width() + brush.px(8), brush.px(14) + number.get_height() - line))
    _speed_bar(brush, card, f.speed, top=brush.px(68), left=pad, width=width - 2 * pad)
    for i, (label, value, color) in enumerate(rows):
        y = top + i * line
        card.blit(brush.text(label, size="small", color=QUIET), (pad, y))
        text = brush.text(value, size="small", color=color)
        card.blit(text, (width - pad - text.get_width(), y))
    return premultiplied(card)


def _rows(f: Figures) -> list[tuple[str, str, Color]]:
    yaw, pitch, roll = (math.degrees(a) for a in angles(f.pose))
    x, y, z = f.pose.t
    slow = f.chunk > f.chunk_length
    rows = [
        ("Generated", "resting" if f.resting else f"{f.generated:.1f} fps", INK),
        ("Window", f"{f.fps:.0f} fps, {f.drawn}", INK),
        ("Chunk", f"{f.chunk * 1e3:.0f} of {f.chunk_length * 1e3:.0f} ms", ACCENT if slow else INK),
        ("Input to view", spread(f.latency, generated=False), INK),
        ("Input to generated", spread(f.latency, generated=True), INK),
        ("Position", f"{x:.1f}  {-y:.1f}  {z:.1f} m", INK),
        ("Heading", f"{yaw % 360:.0f}°  pitch {pitch:.0f}°  roll {roll:.0f}°", INK),
    ]
    if f.discarded:
        rows.append(("Discarded", f"{f.discarded} chunks", ALERT))
    return rows


def spread(latency: Latency, *, generated: bool) -> str:
    """Median, and what 95 of 100 stay below."""
    p50, p95 = (latency.percentile(p, generated=generated) * 1e3 for p in (50, 95))
    return f"{p50:.0f} / {p95:.0f} ms" if p95 else "-"


def _speed_bar(brush: Brush, card: pygame.Surface, speed: float, *, top: int, left: int, width: int) -> None:
    """Logarithmic, like the wheel."""
    share = math.log(speed / SPEED_MIN) / math.log(SPEED_MAX / SPEED_MIN)
    track = pygame.Rect(left, top, width, brush.px(4))
    pygame.draw.rect(card, (255, 255, 255, 40), track, border_radius=brush.px(2))
    track.width = max(round(width * share), brush.px(4))
    pygame.draw.rect(card, (*ACCENT, 255), track, border_radius=brush.px(2))


def chip(brush: Brush, words: str, *, color: Color = INK, dot: Color | None = None) -> pygame.Surface:
    """One line in a small rounded panel, with a dot before it if wanted."""
    text = brush.text(words, color=color)
    pad, room = brush.px(16), brush.px(20) if dot else 0
    card = brush.card(text.get_width() + 2 * pad + room, text.get_height() + brush.px(18))
    middle = card.get_height() // 2
    if dot:
        pygame.draw.circle(card, dot, (pad + brush.px(5), middle), brush.px(6))
    card.blit(text, (pad + room, middle - text.get_height() // 2))
    return premultiplied(card)


def progress(brush: Brush, title: str, step: str, *, seconds: float) -> pygame.Surface:
    """The scene's name, what start-up is doing, and a bar that moves while it does."""
    width, pad = brush.px(420), brush.px(22)
    card = brush.card(width, brush.px(112))
    card.blit(brush.clipped(title, width - 2 * pad, size="title"), (pad, brush.px(16)))
    card.blit(
        brush.clipped(step, width - 2 * pad - brush.px(60), size="small", color=QUIET), (pad, brush.px(56))
    )
    clock = brush.text(f"{seconds:.1f} s", size="small", color=QUIET)
    card.blit(clock, (width - pad - clock.get_width(), brush.px(56)))
    track = pygame.Rect(pad, brush.px(86), width - 2 * pad, brush.px(4))
    pygame.draw.rect(card, (255, 255, 255, 40), track, border_radius=brush.px(2))
    run = track.width // 4
    at = (0.5 - 0.5 * math.cos(seconds * 2.0)) * (track.width - run)
    bar = pygame.Rect(track.left + round(at), track.top, run, track.height)
    pygame.draw.rect(card, (*ACCENT, 255), bar, border_radius=brush.px(2))
    return premultiplied(card)


def notice(brush: Brush, title: str, sentence: str) -> pygame.Surface:
    """Something went wrong: what, and what to do."""
    width, pad, line = brush.px(560), brush.px(24), brush.px(25)
    lines = brush.wrapped(sentence, width - 2 * pad)
    card = brush.card(width, brush.px(84) + line * len(lines))
    card.blit(brush.text(title, size="title", color=ALERT), (pad, brush.px(20)))
    for i, words in enumerate(lines):
        card.blit(brush.text(words), (pad, brush.px(62) + i * line))
    return premultiplied(card)


def help_card(brush: Brush) -> pygame.Surface:
    """All keys."""
    pad, line = brush.px(28), brush.px(32)
    key_width = max(brush.font("body").size(key)[0] for key, _ in HELP) + brush.px(28)
    width = pad * 2 + key_width + max(brush.font("body").size(what)[0] for _, what in HELP)
    card = brush.card(width, brush.px(92) + line * len(HELP))
    card.blit(brush.text("Fly", size="title"), (pad, brush.px(24)))
    for i, (key, what) in enumerate(HELP):
        y = brush.px(70) + i * line
        card.blit(brush.text(key, color=ACCENT), (pad, y))
        card.blit(brush.text(what), (pad + key_width, y))
    return premultiplied(card)
