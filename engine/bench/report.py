"""What a measurement found, as values that a table, a file and a plot are made from. Pure."""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one call cannot do without."""

    flops: float  # of the products alone
    bytes: float  # weights, state and results, each moved once per pass

    def __add__(self, other: Work) -> Work:
        return Work(flops=self.flops + other.flops, bytes=self.bytes + other.bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """What this device reached in the same run, per second."""

    flops: float  # of one large matrix product in the dtype of the models
    bytes: float  # read plus written by one large copy

    def floor(self, work: Work) -> float:
        """Seconds below which no program can do the work here, unless it uses a narrower dtype."""
        return max(work.flops / self.flops, work.bytes / self.bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One thing that was timed again and again."""

    name: str
    seconds: tuple[float, ...]  # of every call after the warm-up
    frames: int = 0  # pixel frames that a call makes; 0: it makes none
    work: Work | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def p90(self) -> float:
        """The smallest time that nine calls in ten do not exceed."""
        return sorted(self.seconds)[math.ceil(0.9 * len(self.seconds)) - 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A model in one format of its weights: bytes, and how far a pass is from bf16."""

    name: str
    weights: int
    loading: int  # at most, while it was loaded
    peak: int  # at most, afterwards
    error: float  # relative


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One chunk of a flight, warm or not."""

    at: float  # seconds of flight before it
    seconds: float
    memory: int  # bytes in use after it


@dataclass(frozen=True, kw_only=True)
class Report:
    """One part of `explorer bench`."""

    part: str
    device: str
    torch: str
    ceilings: Ceilings
    rows: tuple[Row, ...]
    peak: int  # bytes
    comparable: bool = False  # measured at true size on a GPU of the class of the published figures
    facts: dict[str, Any] = field(default_factory=dict)
    moments: tuple[Moment, ...] = ()
    stored: tuple[Stored, ...] = ()

    def record(self) -> dict[str, Any]:
        """Everything, for a JSON file."""
        rows = []
        for row in self.rows:
            floor = None if row.work is None else self.ceilings.floor(row.work)
            figures = {"median_ms": 1e3 * row.median, "p90_ms": 1e3 * row.p90}
            if floor is not None:
                figures |= {"floor_ms": 1e3 * floor, "floor_fraction": floor / row.median}
            rows.append({**asdict(row), **figures})
        return {"schema": SCHEMA, **asdict(self), "rows": rows}


def flat(memory: list[int]) -> bool:
    """Whether no chunk ends with 1 % more than another."""
    return max(memory) <= 1.01 * min(memory)
