"""Chunk time and memory over a long flight, as a picture in which both should lie flat."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from engine.bench.report import Moment
from engine.curve import curve
from engine.setup import GB

POINTS = 60  # of each line


def over_time(moments: Sequence[Moment]) -> str:
    """An SVG of medians over time, in per cent of what each is over the whole flight."""
    width = max(1, len(moments) // POINTS)
    parts = [moments[i : i + width] for i in range(0, len(moments), width)]
    parts = parts if len(parts[-1]) == width or len(parts) == 1 else parts[:-1]
    time = statistics.median(m.seconds for m in moments)
    memory = statistics.median(m.memory for m in moments)
    lines = {
        f"chunk: {1e3 * time:.0f} ms": [
            (p[0].at / 60, 100 * statistics.median(m.seconds for m in p) / time) for p in parts
        ],
        f"memory: {memory / GB:.2f} GB": [
            (p[0].at / 60, 100 * max(m.memory for m in p) / memory if memory else 100.0) for p in parts
        ],
    }
    top = max(y for points in lines.values() for _, y in points)
    end = max(parts[-1][0].at / 60, 1e-3)
    y_step = 25.0 if top <= 200 else 100.0 * (1 + top // 800)
    return curve(
        lines,
        x="minutes of flight",
        y="% of median",
        x_range=(0.0, end),
        y_range=(0.0, y_step * (top // y_step + 1)),
        x_step=_step(end),
        y_step=y_step,
    )


def _step(end: float) -> float:
    """A round number of minutes, of which about five make the flight."""
    steps = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0)
    return min(steps, key=lambda s: abs(end / s - 5))
