"""When the refiner is dropped and when it comes back: a plain simulation, and what must hold for any timings."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from explorer.pace import LATE, ROOM, Pace

LENGTH = 1.5


def run(pace: Pace, *, plain: float, cost: float, chunks: int) -> list[bool]:
    """Whether each chunk was refined, on a machine of these speeds."""
    out = []
    for _ in range(chunks):
        on = pace.refining
        timing = {"denoise": plain, **({"refine": cost} if on else {})}
        pace = pace.after(timing, seconds=plain + cost * on, length=LENGTH)
        out.append(on)
    return out


def test_a_fast_machine_keeps_it_and_a_slow_one_drops_it() -> None:
    assert all(run(Pace(), plain=0.3, cost=0.8, chunks=50))
    assert run(Pace(), plain=0.8, cost=0.9, chunks=50) == [True] * LATE + [False] * (50 - LATE)


def test_it_comes_back_when_there_is_room_again() -> None:
    dropped = Pace(dropped=True, cost=0.8)
    assert run(dropped, plain=0.3, cost=0.8, chunks=ROOM + 2) == [False] * ROOM + [True] * 2


def test_one_late_chunk_is_no_reason() -> None:
    pace = Pace()
    for k in range(20):
        pace = pace.after({"refine": 1.0}, seconds=2.0 if k % 2 else 1.0, length=LENGTH)
    assert pace.refining


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 5))), st.sampled_from(["on", "off"]))
def test_what_the_pilot_orders_is_done(times: list[tuple[float, float]], mode: str) -> None:
    pace = Pace().chosen(mode)
    for plain, cost in times:
        pace = pace.after({"refine": cost}, seconds=plain + cost, length=LENGTH)
        assert pace.refining == (mode == "on")
    assert pace.chosen("auto").refining


@given(st.lists(st.floats(0, 5), min_size=2))
def test_it_never_changes_twice_within_a_streak(times: list[float]) -> None:
    pace, changes = Pace(), []
    for k, seconds in enumerate(times):
        after = pace.after({"refine": 0.5} if pace.refining else {}, seconds=seconds, length=LENGTH)
        if after.refining != pace.refining:
            changes.append(k)
        pace = after
    assert all(b - a >= LATE for a, b in pairwise(changes))
