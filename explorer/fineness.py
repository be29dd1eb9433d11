"""How finely views are drawn: the finest way that the machine has time for, by measured seconds. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Way:
    """How finely views are drawn."""

    name: str
    scale: float  # of the generated picture; 0: at the window's own size
    sharp: bool = True  # enlarged by a spline, else linearly
    fade: bool = True  # a newer frame fades in
    moved: bool = True  # by depth, too; else frames are only turned, and movement comes with the next frame


WAYS = (
    Way("full", 0),
    Way("fine", 2),
    Way("plain", 1),
    Way("light", 1, sharp=False, fade=False, moved=False),
)
PATIENCE = 64  # refreshes between two changes of the way


@dataclass(slots=True)
class Fineness:
    """Chooses the finest way that leaves time: by the seconds that drawing took, smoothed."""

    budget: float  # seconds for one refresh
    way: int  # index in WAYS
    took: float = 0.0
    wait: int = PATIENCE
    barred: int = 0  # refreshes for which no finer way is tried: it was too slow

    def drew(self, seconds: float) -> None:
        self.took += 0.1 * (seconds - self.took)
        self.wait, self.barred = self.wait - 1, self.barred - 1
        if self.wait > 0:
            return
        if self.took > self.budget and self.way < len(WAYS) - 1:
            self._choose(self.way + 1)
            self.barred = 30 * PATIENCE
        elif self.took < 0.3 * self.budget and self.way > 0 and self.barred < 0:
            self._choose(self.way - 1)

    def _choose(self, way: int) -> None:
        self.way, self.wait, self.took = way, PATIENCE, 0.5 * self.budget
