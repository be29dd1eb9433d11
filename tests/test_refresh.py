"""The pace of the window, on simulated displays."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from explorer.refresh import AGAIN, HASTY, RATE, RATE_SOFTWARE, Beat, Refreshes


def begun(
    beat: Beat, *, draw: float, seconds: float, display: float | None, hidden: float = 0.0
) -> list[float]:
    """When refreshes begin. draw: seconds each takes.  display: rate that flips wait for.  hidden: until then none do."""
    now, times = 0.0, []
    while now < seconds:
        times.append(now)
        drawn = now + draw
        waits = display is not None and drawn >= hidden
        flipped = (math.floor(drawn * display) + 1) / display if waits and display else drawn + 1e-5
        now = flipped + beat.rest(flipped, flip=flipped - drawn)
    return times


@pytest.mark.parametrize("rate", [60.0, 75.0, 144.0, 165.0])
def test_every_refresh_of_the_display_is_drawn(rate: float) -> None:
    beat = Beat(software=False)
    times = begun(beat, draw=0.003, seconds=5.0, display=rate)
    assert beat.by_display
    assert len(times) == pytest.approx(5.0 * rate, abs=2)
    assert np.diff(times)[1:] == pytest.approx(1 / rate)


def test_a_display_that_is_missed_is_met_at_every_second_beat() -> None:
    times = begun(Beat(software=False), draw=0.012, seconds=5.0, display=100.0)
    assert np.diff(times)[1:] == pytest.approx(0.02)


@given(draw=st.floats(1e-5, 0.012))
def test_where_nothing_waits_the_clock_keeps_the_rate(draw: float) -> None:
    """Bursts of unpaced refreshes, by which the display is looked for, stay under one in thirty."""
    times = begun(Beat(software=False), draw=draw, seconds=20.0, display=None)
    assert 20 * RATE - 2 <= len(times) <= 20 * RATE * (1 + HASTY / AGAIN) + 2 * HASTY


def test_a_window_that_comes_back_is_paced_by_its_display_again() -> None:
    beat = Beat(software=False)
    times = begun(beat, draw=0.002, seconds=20.0, display=144.0, hidden=3.0)
    late = [b - a for a, b in pairwise(times) if a > 3.0 + AGAIN / RATE + 0.5]
    assert beat.by_display
    assert late == pytest.approx([1 / 144] * len(late))


@pytest.mark.parametrize("display", [None, 60.0])
def test_the_cpu_draws_by_the_clock(display: float | None) -> None:
    beat = Beat(software=True)
    times = begun(beat, draw=0.005, seconds=10.0, display=display)
    assert not beat.by_display
    assert 10 * 30 <= len(times) <= 10 * RATE_SOFTWARE + 2


def test_a_long_refresh_is_not_made_up_for_by_a_burst() -> None:
    beat = Beat(software=True)
    now, rests = 0.0, []
    for draw in [0.005] * 5 + [0.5] + [0.005] * 5:
        now += draw
        rests.append(beat.rest(now, flip=1e-5))
        now += rests[-1]
    assert rests[5] == 0.001
    assert sum(rest == 0.001 for rest in rests[6:]) <= 1


def test_figures_are_of_the_flight_only() -> None:
    refreshes = Refreshes()
    assert refreshes.rate == 0.0
    assert refreshes.report()["window_fps"] == 0.0
    gaps = [0.5] * 3 + [0.02] * 99 + [0.1]
    times = np.cumsum([0.0, *gaps])
    for i, now in enumerate(times):
        refreshes.add(float(now), flying=i > 3)
    flight = np.array(gaps[3:])
    report = refreshes.report()
    assert report["window_fps"] == pytest.approx(len(flight) / flight.sum(), abs=0.01)
    assert report["longest_refresh_ms"] == pytest.approx(100.0)
    assert report["refresh_ms"] == {
        "p50_ms": 20.0,
        "p95_ms": pytest.approx(1e3 * float(np.percentile(flight, 95)), abs=0.01),
        "count": 100,
    }
    assert refreshes.rate == pytest.approx(89 / np.diff(times)[-89:].sum())
