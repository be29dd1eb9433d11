"""The tree of a flight, by property: whatever is done to it, the ways through it stay what was flown."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyquaternion import Quaternion

from engine.camera import Pose
from explorer.flight import read_pose
from explorer.timeline import MARKS, Rows, Timeline, pose_row


def rows(numbers: list[int]) -> Rows:
    """Poses that say which frame of which flight they are."""
    return np.array([[n, 0, 0, 1, 0, 0, 0] for n in numbers], float)


@dataclass
class Flown:
    """The same history as plain lists: each moment's whole way, kept apart from the tree."""

    tree: Timeline = field(default_factory=Timeline)
    ways: dict[int, list[int]] = field(default_factory=dict)
    frame: int = 0

    def grow(self, count: int) -> None:
        before = [] if self.tree.here is None else self.ways[self.tree.here]
        new = list(range(self.frame, self.frame + count))
        self.frame += count
        self.tree = self.tree.grow(index=len(before) + count - 1, poses=rows(new))
        assert self.tree.here is not None
        self.ways[self.tree.here] = before + new


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("grow"), st.integers(1, 8)),
        st.tuples(st.sampled_from(["at", "mark", "drop"]), st.integers(0, 40)),
        st.tuples(st.just("thin"), st.just(0)),
    ),
    min_size=1,
    max_size=60,
)


def play(steps: list[tuple[str, int]]) -> Flown:
    flown = Flown()
    flown.grow(1)
    for what, n in steps:
        ids = sorted(flown.tree.moments)
        id = ids[n % len(ids)]
        if what == "grow":
            flown.grow(n)
        elif what == "at":
            flown.tree = flown.tree.at(id)
        elif what == "mark":
            flown.tree = flown.tree.marked(id)
        elif what == "thin":
            spare = flown.tree.expendable()
            if spare is not None:
                flown.tree = flown.tree.without(spare)
        elif id not in (flown.tree.here, ids[0]):
            flown.tree = flown.tree.without(id)
    return flown


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_every_way_is_what_was_flown(steps: list[tuple[str, int]]) -> None:
    flown = play(steps)
    tree = flown.tree
    assert tree.here in tree.moments
    for id, moment in tree.moments.items():
        assert [int(row[0]) for row in tree.trajectory(id)] == flown.ways[id]
        assert moment.index == len(flown.ways[id]) - 1
        line = tree.line(id)
        assert line[0] == 0
        assert line[-1] == id
        assert list(line) == sorted(line)
        assert all(child in tree.moments for child in tree.children(id))
    assert {moment for tip in tree.tips for moment in tree.line(tip)} == set(tree.moments)
    assert set(tree.marks) <= set(MARKS)
    assert set(tree.marks.values()) <= set(tree.moments)
    assert len(set(tree.marks.values())) == len(tree.marks)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_old_timelines_stay_as_they_were(steps: list[tuple[str, int]]) -> None:
    flown = Flown()
    flown.grow(1)
    before, seen = flown.tree, dict(flown.tree.moments)
    tree = play(steps).tree
    assert dict(before.moments) == seen
    grown = tree.grow(index=tree.moments[tree.here or 0].index + 1, poses=rows([0]))
    assert grown.here not in tree.moments
    assert grown.at(tree.here or 0).here == tree.here


@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_what_is_needed_is_never_expendable(steps: list[tuple[str, int]]) -> None:
    tree = play(steps).tree
    while (spare := tree.expendable()) is not None:
        assert spare not in (0, tree.here, *tree.marks.values())
        tree = tree.without(spare)
    assert set(tree.moments) == {0, tree.here, *tree.marks.values()}


def test_a_long_flight_is_remembered_closely_where_it_is_recent() -> None:
    flown = Flown()
    flown.grow(1)
    for _ in range(2000):
        flown.grow(8)
        while len(flown.tree.moments) > 60 and (spare := flown.tree.expendable()) is not None:
            flown.tree = flown.tree.without(spare)
    frames = [flown.tree.moments[id].index for id in flown.tree.line()]
    gaps = np.diff(frames)
    assert len(frames) == 60
    assert (gaps[-8:] == 8).all()
    for share in (0.25, 0.5, 0.75):  # wherever one looks, moments lie closer than a fifth of the time since
        at = frames[-1] * share
        i = int(np.searchsorted(frames, at))
        assert gaps[i - 1] <= 0.2 * (frames[-1] - at)


def test_bookmarks() -> None:
    flown = Flown()
    for _ in range(12):
        flown.grow(1)
    tree = flown.tree
    for id in range(10):
        tree = tree.marked(id)
    assert tree.marks == {1: 9, **{key: key - 1 for key in range(2, 10)}}  # the tenth replaced the oldest
    assert 4 not in tree.marked(4).marks.values()
    assert tree.marked(4).marked(11).marks[5] == 11
    with pytest.raises(ValueError, match="cannot be forgotten"):
        tree.without(11)
    with pytest.raises(KeyError):
        tree.at(12)


def test_poses_survive_as_rows() -> None:
    pose = Pose(Quaternion(axis=(1, 2, 3), angle=0.7), np.array([1.5, -2.0, 3.25]))
    back = read_pose(np.array(pose_row(pose)))
    assert (back.t == pose.t).all()
    assert np.array_equal(back.q.elements, pose.q.elements)
    with pytest.raises(ValueError, match="no orientation"):
        read_pose(np.zeros(7))
