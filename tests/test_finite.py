"""Answers that are given later: the same as at once, on the clock of whoever waits, and before nobody waited."""

from __future__ import annotations

import time

import pytest
import torch

from engine.finite import Finite, NotFinite
from engine.laps import Laps
from engine.sent import sent

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def finite(*numbers: float) -> Finite:
    return Finite(sent(torch.tensor(numbers), DEVICE).isfinite().all(), otherwise="chunk 7 is not finite")


def test_the_answer_may_be_asked_for_late_and_again() -> None:
    good, bad = finite(1.0, -3e38), finite(1.0, float("nan"))
    assert good.require() is good.require()
    for _ in range(2):
        with pytest.raises(NotFinite, match="chunk 7 is not finite"):
            bad.require()


def test_a_stage_ends_when_its_answer_is_there() -> None:
    """However late it is asked for, and before the host had launched what comes next."""
    laps = Laps(DEVICE)
    time.sleep(0.02)
    first = finite(1.0)
    time.sleep(0.03)
    second = finite(1.0)
    time.sleep(0.01)
    laps.lap("first", at=first.require())
    laps.lap("second", at=second.require())
    laps.lap("third")
    assert laps.seconds["first"] >= 0.019
    assert laps.seconds["second"] >= 0.029
    assert laps.seconds["third"] >= 0.009


@pytest.mark.gpu
def test_nobody_waits_before_the_answer_is_required() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    x, numbers = torch.zeros(8, device="cuda"), torch.ones(8)

    def asked() -> Finite:
        return Finite((x + sent(numbers, DEVICE)).isfinite().all(), otherwise="")

    asked().require()  # loads kernels and takes pinned memory, and waits for both
    torch.cuda.synchronize()
    torch.cuda._sleep(2_000_000_000)  # a second or so
    done = torch.cuda.Event()
    done.record()
    flag = asked()
    assert not done.query()
    flag.require()
    assert done.query()


def test_sent_it_is_the_same_where_it_is_asked_for() -> None:
    x = torch.arange(12, dtype=torch.float64).view(3, 4)
    there = sent(x.mT, DEVICE)
    assert there.device.type == DEVICE.type
    assert torch.equal(there.cpu(), x.mT)
    assert sent(there, there.device) is there
