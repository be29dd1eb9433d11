"""Backspace held: back through the pictures of the flight, faster the longer it is held. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from explorer.reel import Reel, Shot
from explorer.timeline import Timeline

FASTEST = 16.0  # times the speed at which it was flown


def frames_back(seconds: float, *, fps: float) -> float:
    """At first as fast as it was flown, a second later twice as fast, and so on up to FASTEST."""
    rising = min(seconds, FASTEST - 1.0)
    return fps * (rising + rising * rising / 2 + (seconds - rising) * FASTEST)


@dataclass(frozen=True, slots=True)
class Step:
    """A picture on the way back, and the moment at which the flight lands if one stops there."""

    shot: Shot
    landing: int


@dataclass(frozen=True, slots=True)
class Rewind:
    """One press of the key."""

    steps: Sequence[Step]  # oldest first
    begun: float  # perf_counter seconds
    fps: float

    def at(self, now: float) -> Step:
        """Where one is now. Even the shortest press leaves the newest moment."""
        back = 1 + int(frames_back(now - self.begun, fps=self.fps))
        return self.steps[max(len(self.steps) - 1 - back, 0)]

    def seconds(self, now: float) -> float:
        """How far back that is, in seconds of flight."""
        return (self.steps[-1].shot.index - self.at(now).shot.index) / self.fps


def rewind(timeline: Timeline, reel: Reel, *, now: float, fps: float) -> Rewind | None:
    """None where there is nothing to go back to."""
    steps: list[Step] = []
    before: int | None = None
    for id in timeline.line():
        shots = reel.shots(id)
        steps += (Step(shot, id if before is None else before) for shot in shots[:-1])
        steps += (Step(shot, id) for shot in shots[-1:])
        before = id
    return Rewind(tuple(steps), now, fps) if steps else None
