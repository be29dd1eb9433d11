"""When frames are shown, on a clock passed in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine.camera import Intrinsics, Pose
from engine.frame import Frame
from explorer.pacer import Pacer

K = Intrinsics.from_fov(1.0, width=2, height=2)


def chunk(first: int, count: int = 8) -> tuple[Frame, ...]:
    pixels = np.zeros((2, 2, 3), np.uint8)
    return tuple(
        Frame(pixels=pixels, pose=Pose(), intrinsics=K, index=first + i, world="a") for i in range(count)
    )


def test_frames_of_a_chunk_are_spread_evenly() -> None:
    pacer = Pacer(fps=16)
    assert pacer.add(chunk(1), input=3, seconds=0.4, now=10.0) == pytest.approx(10.5)
    assert [s.due for s in pacer.due(99.0)] == pytest.approx([10.0 + i / 16 for i in range(8)])


def test_a_chunk_in_time_follows_without_a_gap() -> None:
    pacer = Pacer(fps=16)
    pacer.add(chunk(1), input=0, seconds=0.4, now=10.0)
    assert pacer.add(chunk(9), input=0, seconds=0.4, now=10.44) == pytest.approx(11.0)
    assert pacer.late == 0.0


def test_only_what_is_due_comes_and_only_once() -> None:
    pacer = Pacer(fps=16)
    pacer.add(chunk(1), input=0, seconds=0.4, now=0.0)
    assert [s.frame.index for s in pacer.due(0.1)] == [1, 2]
    assert pacer.due(0.1) == []
    assert [s.frame.index for s in pacer.due(0.126)] == [3]


def test_a_slow_engine_stretches_the_pace_instead_of_stalling() -> None:
    pacer = Pacer(fps=16)
    end, now = 0.0, 10.0
    for i in range(20):  # each chunk takes 0.8 s and they run back to back
        end = pacer.add(chunk(1 + 8 * i), input=0, seconds=0.8, now=now)
        now += 0.8
    assert end == pytest.approx(now, abs=1e-6)
    assert pacer.late == pytest.approx(0.0, abs=1e-6)


def test_clear_forgets() -> None:
    pacer = Pacer(fps=16)
    pacer.add(chunk(1), input=0, seconds=0.4, now=0.0)
    pacer.clear()
    assert pacer.due(99.0) == []
    assert pacer.end == 0.0


def test_between_two_frames_the_camera_is_between_them() -> None:
    pacer = Pacer(fps=16)
    assert pacer.between(0.0) is None
    frames = tuple(replace(f, pose=Pose(t=np.array([0.0, 0.0, float(i)]))) for i, f in enumerate(chunk(1)))
    pacer.add(frames, input=0, seconds=0.4, now=0.0)
    pacer.due(2.2 / 16)
    at = lambda now: pacer.between(now).t[2]  # type: ignore[union-attr]
    assert at(2.5 / 16) == pytest.approx(2.5)
    assert at(9.0) == pytest.approx(3.0)  # no further than the next frame
    pacer.due(99.0)
    assert at(99.0) == pytest.approx(7.0)
