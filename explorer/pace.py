"""Whether there is time for the refiner: dropped when chunks come late, taken up again when there is room. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from engine.setup import Refining

LATE = 2  # chunks in a row that took longer than they play: then it is dropped
ROOM = 8  # chunks in a row with time for it: then it comes back
SPARE = 0.9  # of a chunk's length may be used up when it comes back


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What the pilot wants, and what the last chunks have shown."""

    mode: Refining = "auto"
    dropped: bool = False
    streak: int = 0  # chunks in a row that speak for a change
    cost: float = 0.0  # seconds of the last refining

    @property
    def refining(self) -> bool:
        return self.mode == "on" or (self.mode == "auto" and not self.dropped)

    def chosen(self, mode: Refining) -> Pace:
        """The pilot has spoken; what was measured before counts no longer, but for the cost."""
        return Pace(mode=mode, cost=self.cost)

    def after(self, timing: Mapping[str, float], *, seconds: float, length: float) -> Pace:
        """One chunk later. seconds: it took.  length: it plays."""
        cost = timing.get("refine", self.cost)
        if self.dropped:
            change, wanted = seconds + cost < SPARE * length, ROOM
        else:
            change, wanted = "refine" in timing and seconds > length, LATE
        streak = self.streak + 1 if change else 0
        if self.mode == "auto" and streak >= wanted:
            return replace(self, dropped=not self.dropped, streak=0, cost=cost)
        return replace(self, streak=streak, cost=cost)
