"""When the window draws again, and how regularly it did. Pure; time comes in as an argument.

Where a flip waits for the display, the display sets the pace, be it 60 or 144 times a second. Where it does not, because
the driver was told so, or the window is hidden, or there is no screen, the clock does, and nothing spins.
"""

from __future__ import annotations

from collections import deque

from explorer.latency import summary

RATE, RATE_SOFTWARE = 60.0, 32.0  # per second by the clock; where the CPU draws, it has the world to make too
WAITED = 5e-4  # seconds: a flip that took less waited for nothing
HASTY = 8  # flips in a row that waited for nothing: then the clock sets the pace
AGAIN = 300  # refreshes by the clock, then the display is asked again: a hidden window may be back
SHORT = 90  # newest refreshes that the rate on the screen is of
KEPT = 4_000  # newest refreshes that percentiles are of


class Beat:
    """Says after each refresh how long to rest."""

    def __init__(self, *, software: bool) -> None:
        """software: the CPU draws, so that the clock always sets the pace."""
        self._period = 1.0 / (RATE_SOFTWARE if software else RATE)
        self._software = software
        self._hasty = 0  # flips in a row that did not wait
        self._clocked = 0  # refreshes that the clock still paces
        self._deadline = 0.0  # of the next refresh by the clock

    @property
    def by_display(self) -> bool:
        """Whether the display sets the pace."""
        return not self._software and self._clocked == 0

    def rest(self, now: float, *, flip: float) -> float:
        """Seconds until the next refresh should begin. now: after the flip, which took `flip` seconds."""
        if self.by_display:
            self._hasty = self._hasty + 1 if flip < WAITED else 0
            if self._hasty < HASTY:
                self._deadline = now
                return 0.0
            self._hasty, self._clocked = 0, AGAIN
        elif not self._software:
            self._clocked -= 1
        self._deadline = max(self._deadline + self._period, now - self._period)
        return max(self._deadline - now, 0.001)


class Refreshes:
    """Seconds between refreshes: of the last ones for the screen, of the whole flight for the report."""

    def __init__(self) -> None:
        self._newest: deque[float] = deque(maxlen=SHORT)  # when they were
        self._gaps: deque[float] = deque(maxlen=KEPT)  # seconds, in flight
        self._count, self._seconds, self._longest = 0, 0.0, 0.0  # in flight

    def add(self, now: float, *, flying: bool) -> None:
        """A refresh begins; flying: generated frames are on the screen."""
        if flying and self._newest:
            gap = now - self._newest[-1]
            self._gaps.append(gap)
            self._count, self._seconds = self._count + 1, self._seconds + gap
            self._longest = max(self._longest, gap)
        self._newest.append(now)

    @property
    def rate(self) -> float:
        """Per second, of the last ones; 0 before the second."""
        if len(self._newest) < 2:
            return 0.0
        return (len(self._newest) - 1) / max(self._newest[-1] - self._newest[0], 1e-9)

    def report(self) -> dict[str, object]:
        """The rate over the whole flight, and milliseconds from one refresh to the next."""
        return {
            "window_fps": round(self._count / self._seconds, 2) if self._count else 0.0,
            "refresh_ms": summary(list(self._gaps)) if self._gaps else {},
            "longest_refresh_ms": round(self._longest * 1e3, 1),
        }
