"""The tree of a flight: moments one can return to, branches that left them, bookmarks. A value; knows no files."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from engine.camera import Pose

MARKS = range(1, 10)  # the number keys
Rows = NDArray[np.float64]


def pose_row(pose: Pose) -> tuple[float, ...]:
    """x, y, z, qw, qx, qy, qz."""
    return (*map(float, pose.t), *map(float, pose.q.elements))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Moment:
    """The end of a chunk: what was generated up to here can be continued from here."""

    id: int  # counts up: a larger one was flown later
    parent: int | None
    index: int  # of its last frame
    poses: Rows  # [n, 7] as `pose_row`, of the frames since the parent, its own the last


def _nothing() -> Mapping[int, int]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Timeline:
    """All moments, and the one where the flight is now. Methods return the timeline after something happened."""

    moments: Mapping[int, Moment] = field(default_factory=lambda: MappingProxyType({}))
    here: int | None = None
    marks: Mapping[int, int] = field(default_factory=_nothing)  # number key → moment
    next: int = 0

    def grow(self, *, index: int, poses: Rows) -> Timeline:
        """A chunk was flown from here: its end is a new moment, and now here."""
        moment = Moment(id=self.next, parent=self.here, index=index, poses=poses)
        return replace(self, moments={**self.moments, moment.id: moment}, here=moment.id, next=self.next + 1)

    def at(self, id: int) -> Timeline:
        """Return to a moment: what is flown from there is a branch. Raises KeyError."""
        return replace(self, here=self.moments[id].id)

    def line(self, id: int | None = None) -> tuple[int, ...]:
        """The way to a moment (default: here), the root first."""
        at = self.here if id is None else id
        out: list[int] = []
        while at is not None:
            out.append(at)
            at = self.moments[at].parent
        return tuple(reversed(out))

    def trajectory(self, id: int | None = None) -> Rows:
        """[n, 7] the pose of every frame on the way to a moment."""
        rows = [self.moments[i].poses for i in self.line(id)]
        return np.concatenate(rows) if rows else np.zeros((0, 7))

    def children(self, id: int) -> tuple[int, ...]:
        return tuple(m.id for m in self.moments.values() if m.parent == id)

    @property
    def tips(self) -> tuple[int, ...]:
        """The end of every branch, oldest first."""
        parents = {m.parent for m in self.moments.values()}
        return tuple(sorted(set(self.moments) - parents))

    def marked(self, id: int) -> Timeline:
        """Bookmark a moment under the lowest free number, or free it if it has one. With all taken the oldest goes."""
        marks = {key: at for key, at in self.marks.items() if at != id}
        if len(marks) == len(self.marks):
            free = [key for key in MARKS if key not in marks]
            marks[free[0] if free else min(marks, key=lambda key: marks[key])] = id
        return replace(self, marks=marks)

    def without(self, id: int) -> Timeline:
        """Forget that one can return to a moment; what led through it now leads past it. Not the one that is here."""
        gone = self.moments[id]
        if id == self.here:
            raise ValueError(f"moment {id} is where the flight is: it cannot be forgotten")
        moments = {
            m.id: replace(m, parent=gone.parent, poses=np.concatenate([gone.poses, m.poses]))
            if m.parent == id
            else m
            for m in self.moments.values()
            if m.id != id
        }
        marks = {key: at for key, at in self.marks.items() if at != id}
        return replace(self, moments=moments, marks=marks)

    def expendable(self, *, but: Collection[int] = ()) -> int | None:
        """The moment that would be missed least: close to the next one, and long ago. None where all are needed.

        Roots, bookmarks and the moment that is here stay, and those of `but`. So moments of old lie far apart, and
        recent ones close.
        """
        after: dict[int, int] = {}
        for m in self.moments.values():
            if m.parent is not None:
                after[m.parent] = min(after.get(m.parent, len(m.poses)), len(m.poses))
        kept = {self.here, *self.marks.values(), *but}
        free = [m for m in self.moments.values() if m.parent is not None and m.id not in kept]
        if not free:
            return None

        def missed(m: Moment) -> float:
            return (len(m.poses) + after.get(m.id, 4 * len(m.poses))) / (self.next - m.id)

        return min(free, key=lambda m: (missed(m), m.id)).id
