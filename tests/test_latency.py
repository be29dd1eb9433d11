"""Inputs are followed to the screen; their parts add up."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from explorer.controls import Steering
from explorer.latency import Journey, Latency, parts, summary

WAY = Journey(started=10.2, denoise=0.1, decode=0.05, sent=10.4, received=10.41)


def test_parts_add_up_to_the_whole() -> None:
    got = asdict(parts(10.0, WAY, drawn=10.5, presented=10.52))
    total = got.pop("total")
    assert total == pytest.approx(0.52)
    assert sum(got.values()) == pytest.approx(total)
    assert got["wait"] == pytest.approx(0.2)
    assert got["other"] == pytest.approx(0.05)


def test_an_input_is_counted_once_at_the_first_refresh_that_obeys_it() -> None:
    latency = Latency()
    latency.asked(Steering(input=1, time=1.0))
    latency.presented(1.005)  # drawn before it was known
    latency.drawn(obeyed=1)
    latency.presented(1.02)
    latency.presented(1.04)
    assert list(latency.reprojected) == pytest.approx([0.02])


def test_a_generated_frame_answers_all_inputs_it_obeys_and_no_later_ones() -> None:
    latency = Latency()
    for i in (1, 2, 3):
        latency.asked(Steering(input=i, time=10.0 + 0.01 * i))
    latency.shown(2, WAY, now=10.5)
    latency.presented(10.52)
    assert [p.total for p in latency.generated] == pytest.approx([0.51, 0.5])
    latency.shown(3, WAY, now=11.0)
    latency.presented(11.02)
    assert len(latency.generated) == 3
    assert latency.report()["input to generated"]["count"] == 3


def test_pictures_come_by_no_way_and_nothing_measured_reports_nothing() -> None:
    latency = Latency()
    latency.asked(Steering(input=1, time=0.0))
    latency.shown(5, None, now=1.0)
    latency.presented(1.0)
    assert latency.report() == {}
    assert latency.percentile(50, generated=True) == 0.0


def test_summary_is_in_milliseconds() -> None:
    assert summary([0.001 * i for i in range(101)]) == {"p50_ms": 50.0, "p95_ms": 95.0, "count": 101}
