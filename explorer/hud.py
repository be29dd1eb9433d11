"""What lies over the world: figures, hints, notices, help. Draws surfaces; knows no GL and no clock."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pygame

from engine.camera import Pose
from explorer.controls import SPEED_MAX, SPEED_MIN
from explorer.drift import Drift
from explorer.latency import Latency
from explorer.paint import Brush, premultiplied
from explorer.pilot import angles
from explorer.theme import ACCENT, ALERT, INK, QUIET, Color

WIDTH = 268  # of the figures, at a window 800 pixels high
HELP = (  # names in braces are actions, printed as the keys bound to them
    ("{forward} {left} {back} {right}", "fly forward, left, back, right"),
    ("{up}  {down}", "up, down"),
    ("Mouse", "click to look around, Esc to let go"),
    ("{turn_left} {turn_right} {look_up} {look_down}", "turn and look up or down"),
    ("{roll_left}  {roll_right}   {level}", "roll, level the horizon"),
    ("{walk}", "walk upright, or fly"),
    ("Wheel  {slower}  {faster}", "speed"),
    ("{zoom_in}  {zoom_out}", "field of view"),
    ("{rewind}", "hold to go back in time, let go to fly on from there"),
    ("{mark}   1 … 9", "bookmark, return to it"),
    ("{branch}   {timeline}", "other branch, show the timeline"),
    ("{pause}   {single}", "pause, one frame"),
    ("{words}   {seed}", "other words, another dream"),
    ("{restart}   {gallery}", "back to the beginning, choose another scene"),
    ("{save}", "save this world"),
    ("{refiner}", "sharpen on or off (sana-wm)"),
    ("{record}   {screenshot}", "record, take a picture"),
    ("{figures}   {fullscreen}", "figures, full screen"),
    ("{raw}", "frames as they are generated"),
    ("Esc  Esc", "leave"),
)
HINT = "{forward} {left} {back} {right} to fly     click to look around     {help} for help"


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
    refiner: str = ""  # what the second stage does; empty: there is none
    recoveries: int = 0  # of the engine
    drift: Drift | None = None  # from the first picture
    moments: int = 0  # that one can return to
    memory: int = 0  # bytes of their states
    disk: int = 0


def figures(brush: Brush, f: Figures) -> pygame.Surface:
    """The panel at the lower left: speed large, then the figures in two columns."""
    pad, line = brush.px(18), brush.px(25)
    rows = _rows(f)
    width = brush.px(WIDTH)
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
    if f.refiner:
        rows.append(("Refiner", f.refiner, INK))
    if f.drift is not None:
        rows.append(("Drift", f"detail {f.drift.detail:.0%}  color {f.drift.color:.0%}", INK))
    if f.moments:
        rows.append(("Moments", f"{f.moments}", INK))
        rows.append(("Kept", f"{_size(f.memory)} + {_size(f.disk)} disk", INK))
    if f.recoveries:
        rows.append(("Engine", f"{f.recoveries} recover{'y' if f.recoveries == 1 else 'ies'}", ALERT))
    if f.discarded:
        rows.append(("Discarded", f"{f.discarded} chunks", ALERT))
    return rows


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def spread(latency: Latency, *, generated: bool) -> str:
    """Median, and what 95 of 100 stay below."""
    p50, p95 = (latency.percentile(p, generated=generated) * 1e3 for p in (50, 95))
    return f"{p50:.0f} / {p95:.0f} ms" if p95 else "-"


def _speed_bar(brush: Brush, card: pygame.Surface, speed: float, *, top: int, left: int, width: int) -> None:
    """Logarithmic, like the wheel."""
    share = math.log(speed / SPEED_MIN) / math.log(SPEED_MAX / SPEED_MIN)
    brush.bar(card, pygame.Rect(left, top, width, brush.px(4)), share)


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


def toast(brush: Brush, words: str, *, width: int) -> pygame.Surface:
    """A sentence in as many lines as `width` asks for."""
    pad, line = brush.px(16), brush.px(25)
    if brush.font("body").size(words)[0] + 2 * pad <= width:
        return chip(brush, words)
    lines = brush.wrapped(words, width - 2 * pad)
    card = brush.card(width, line * len(lines) + brush.px(18))
    for i, part in enumerate(lines):
        card.blit(brush.clipped(part, width - 2 * pad), (pad, brush.px(12) + i * line))
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


def help_card(brush: Brush, keys: Mapping[str, str]) -> pygame.Surface:
    """All keys; keys: action → the label of its key."""
    rows = [(key.format_map(keys), what) for key, what in HELP]
    pad, line = brush.px(28), brush.px(32)
    key_width = max(brush.font("body").size(key)[0] for key, _ in rows) + brush.px(28)
    width = pad * 2 + key_width + max(brush.font("body").size(what)[0] for _, what in rows)
    card = brush.card(width, brush.px(92) + line * len(rows))
    card.blit(brush.text("Fly", size="title"), (pad, brush.px(24)))
    for i, (key, what) in enumerate(rows):
        y = brush.px(70) + i * line
        card.blit(brush.text(key, color=ACCENT), (pad, y))
        card.blit(brush.text(what), (pad + key_width, y))
    return premultiplied(card)
