"""From an input to light: every input's way through pose, chunk and screen, timed. Pure; time comes in as an argument."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, fields

import numpy as np

from explorer.controls import Steering

KEPT = 500  # newest measurements of each kind
OPEN = 1000  # inputs whose end is waited for


@dataclass(frozen=True, slots=True, kw_only=True)
class Journey:
    """When a chunk passed each station, and how long it stayed: perf_counter seconds, and seconds."""

    started: float  # the engine read the hands
    denoise: float
    decode: float
    sent: float  # frames lay in shared memory
    received: float  # frames were copied out


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Seconds of one input's way to the first generated frame that obeys it. They add up to `total`."""

    wait: float  # until the engine reads the hands
    denoise: float
    decode: float
    other: float  # of the engine: conditioning, memory, copying
    transfer: float  # between processes
    queue: float  # until the frame is due
    present: float  # drawing and flipping
    total: float


def parts(asked: float, way: Journey, *, drawn: float, presented: float) -> Parts:
    """asked: of the input; drawn: when its frame was taken up for drawing; presented: when that was on the screen."""
    inside = way.sent - way.started
    return Parts(
        wait=way.started - asked,
        denoise=way.denoise,
        decode=way.decode,
        other=inside - way.denoise - way.decode,
        transfer=way.received - way.sent,
        queue=drawn - way.received,
        present=presented - drawn,
        total=presented - asked,
    )


class Latency:
    """Tell it what happens at each refresh; ask it for percentiles."""

    def __init__(self, newest: int = 0) -> None:
        """newest: id of the newest input that is not measured any more."""
        self.reprojected: deque[float] = deque(
            maxlen=KEPT
        )  # seconds from input to the first refresh that obeys it
        self.generated: deque[Parts] = deque(maxlen=KEPT)
        self._turning: OrderedDict[int, float] = (
            OrderedDict()
        )  # inputs that no refresh obeyed, and their times
        self._waiting: OrderedDict[int, float] = OrderedDict()  # inputs that no generated frame obeyed
        self._newest = newest
        self._obeyed = 0  # by the refresh being drawn
        self._frame: tuple[int, Journey, float] | None = None  # the frame being drawn: input, way, since when

    def asked(self, steering: Steering) -> None:
        """What hands did by now."""
        if steering.input <= self._newest:
            return
        self._newest = steering.input
        for open_ in (self._turning, self._waiting):
            open_[steering.input] = steering.time
            if len(open_) > OPEN:
                open_.popitem(last=False)

    def drawn(self, *, obeyed: int) -> None:
        """This refresh is drawn from a pose that obeys all inputs up to this one."""
        self._obeyed = obeyed

    def shown(self, input: int, way: Journey | None, *, now: float) -> None:
        """This refresh shows a new frame, which obeys all inputs up to `input`; a picture has no way."""
        if way is not None:
            self._frame = (input, way, now)

    def presented(self, now: float) -> None:
        """The refresh is on the screen."""
        while self._turning and next(iter(self._turning)) <= self._obeyed:
            self.reprojected.append(now - self._turning.popitem(last=False)[1])
        if self._frame is None:
            return
        input, way, drawn = self._frame
        self._frame = None
        while self._waiting and next(iter(self._waiting)) <= input:
            asked = self._waiting.popitem(last=False)[1]
            self.generated.append(parts(asked, way, drawn=drawn, presented=now))

    @property
    def unanswered(self) -> int:
        """Inputs that no generated frame on the screen obeys."""
        return len(self._waiting)

    def report(self) -> dict[str, dict[str, float]]:
        """p50 and p95 in milliseconds and the count, by name; a kind without measurements is left out."""
        kinds = {"input to reprojected": list(self.reprojected)}
        for part in fields(Parts):
            name = "input to generated" if part.name == "total" else part.name
            kinds[name] = [getattr(p, part.name) for p in self.generated]
        return {name: summary(seconds) for name, seconds in kinds.items() if seconds}

    def percentile(self, percent: float, *, generated: bool) -> float:
        """Seconds; 0 before the first measurement."""
        seconds = [p.total for p in self.generated] if generated else list(self.reprojected)
        return float(np.percentile(seconds, percent)) if seconds else 0.0


def summary(seconds: list[float]) -> dict[str, float]:
    """p50, p95 in milliseconds, and how many."""
    p50, p95 = (round(1e3 * float(p), 2) for p in np.percentile(seconds, (50, 95)))
    return {"p50_ms": p50, "p95_ms": p95, "count": len(seconds)}
