"""Line plots as SVG text: no plotting library for a few lines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 720, 360, 56, 24, 168, 44
LINE = 15.0  # height of a label
COLOURS = ("#c2571a", "#2b6cb0", "#6b7280", "#2f855a", "#805ad5")


def curve(
    lines: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x: str,
    y: str,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    x_step: float,
    y_step: float,
) -> str:
    """An SVG document of named lines of (x, y) points, with a grid and its labels."""
    if len(lines) > len(COLOURS):
        raise ValueError(f"{len(lines)} lines: a plot has {len(COLOURS)} colours")

    def across(v: float) -> float:
        return LEFT + (v - x_range[0]) / (x_range[1] - x_range[0]) * (WIDTH - LEFT - RIGHT)

    def up(v: float) -> float:
        return HEIGHT - BOTTOM - (v - y_range[0]) / (y_range[1] - y_range[0]) * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
    ]
    for v in _ticks(y_range, y_step):
        parts.append(
            f'<path d="M{LEFT} {up(v):.1f}H{WIDTH - RIGHT}" stroke="#e5e7eb"/>'
            f'<text x="{LEFT - 8}" y="{up(v) + 4:.1f}" text-anchor="end" fill="#4b5563">{v:g}</text>'
        )
    for v in _ticks(x_range, x_step):
        parts.append(
            f'<text x="{across(v):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle" fill="#4b5563">{v:g}</text>'
        )
    places = _apart([up(points[-1][1]) for points in lines.values()])
    for colour, place, (name, points) in zip(COLOURS, places, lines.items(), strict=False):
        d = "L".join(f"{across(a):.1f} {up(b):.1f}" for a, b in points)
        end = points[-1]
        parts.append(
            f'<path d="M{d}" fill="none" stroke="{colour}" stroke-width="2.5"/>'
            f'<text x="{across(end[0]) + 8:.1f}" y="{place + 4:.1f}" fill="{colour}">{escape(name)}</text>'
        )
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 8}" text-anchor="middle" fill="#111827">{escape(x)}</text>'
        f'<text x="{LEFT}" y="14" text-anchor="middle" fill="#111827">{escape(y)}</text></svg>\n'
    )
    return "\n".join(parts)


def _apart(places: Sequence[float]) -> list[float]:
    """Heights of labels, moved down where two would lie on each other."""
    out = list(places)
    last = -math.inf
    for i in sorted(range(len(out)), key=out.__getitem__):
        last = out[i] = max(out[i], last + LINE)
    return out


def _ticks(span: tuple[float, float], step: float) -> list[float]:
    count = int((span[1] - span[0]) / step + 1e-9)
    return [span[0] + i * step for i in range(count + 1)]
