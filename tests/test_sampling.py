"""What each pass is told: the ladder against published numbers and the scheduler it comes from, chunks that start late."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from engine.config import SANA_WM
from engine.sampling import ARRIVED, Sampling, clip_chunks, ladder, passes

WHOLE = replace(SANA_WM, causal=False)
TEACHER = replace(SANA_WM, window=-1)


def test_the_ladder_of_the_release() -> None:
    """Published timesteps of 60 steps with a shift of 9.8."""
    told = [rung.timestep for rung in ladder(Sampling())]
    assert len(told) == 60
    assert told[:5] == pytest.approx([1000, 998.2611, 996.4681, 994.6185, 992.7097], abs=1e-4)
    assert told[-5:] == pytest.approx([449.2953, 385.1021, 307.1765, 210.5840, 87.7046], abs=1e-4)


@pytest.mark.parametrize(
    ("steps", "shift"), [(60, 9.8), (1, 9.8), (2, 1.0), (20, 9.95), (50, 3.0), (1000, 8.0)]
)
def test_the_ladder_is_the_schedulers_bit_for_bit(steps: int, shift: float) -> None:
    schedulers = pytest.importorskip(
        "diffusers.schedulers", reason="diffusers is not installed: pip install '.[oracle]'"
    )
    theirs = schedulers.FlowMatchEulerDiscreteScheduler(shift=shift)
    theirs.set_timesteps(steps)
    ours = ladder(Sampling(steps=steps, shift=shift))
    assert [rung.timestep for rung in ours] == theirs.timesteps.tolist()
    assert [rung.level for rung in ours] == (theirs.timesteps / 1000).tolist()
    assert [rung.target for rung in ours] == theirs.sigmas[1:].tolist()


def test_the_last_chunk_takes_the_remainder() -> None:
    assert clip_chunks(31, TEACHER) == (4, *[3] * 9)
    assert clip_chunks(9, TEACHER) == (4, 5)
    assert clip_chunks(5, TEACHER) == (5,)
    assert clip_chunks(8, TEACHER) == (4, 4)
    assert clip_chunks(4, TEACHER) == (4,)
    assert clip_chunks(1, TEACHER) == (1,)
    assert clip_chunks(31, WHOLE) == (31,)
    assert all(sum(clip_chunks(n, TEACHER)) == n for n in range(1, 40))


def test_a_bidirectional_clip_goes_down_the_ladder_once() -> None:
    sampling = Sampling(steps=7)
    plan = passes(21, config=WHOLE, sampling=sampling)
    assert [p.chunks for p in plan] == [(21,)] * 7
    assert tuple(p.rungs[0] for p in plan) == ladder(sampling)


def test_chunks_start_one_after_the_other_before_the_first_has_arrived() -> None:
    """Four chunks, eight steps: one more every second pass."""
    sampling = Sampling(steps=8)
    rungs = ladder(sampling)
    plan = passes(13, config=TEACHER, sampling=sampling)
    assert len(plan) == 6 + 8
    assert [len(p.chunks) for p in plan] == [1, 1, 2, 2, 3, 3, *[4] * 8]
    assert plan[5].rungs == (rungs[5], rungs[3], rungs[1])
    assert plan[8].rungs == (ARRIVED, rungs[6], rungs[4], rungs[2])
    assert [p.finished for p in plan] == [0] * 8 + [1, 1, 2, 2, 3, 3]
    for i in range(4):
        assert tuple(p.rungs[i] for p in plan if len(p.rungs) > i and p.rungs[i] is not ARRIVED) == rungs


@pytest.mark.parametrize(("lag", "total"), [(0.0, 5), (0.5, 10), (1.0, 15)])
def test_the_lag_can_be_chosen(lag: float, total: int) -> None:
    plan = passes(10, config=TEACHER, sampling=Sampling(steps=5, lag=lag))
    assert len(plan) == total
    assert all(a.finished <= b.finished for a, b in pairwise(plan))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"steps": 0}, "steps=0: use 1 to 1000"),
        ({"shift": 0.0}, "shift=0.0: use 0.01 to 100"),
        ({"guidance": float("nan")}, "guidance=nan"),
        ({"lag": 2.0}, "lag=2.0: use 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Sampling(**change)
