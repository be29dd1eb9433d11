"""What a station's two processes say to each other. Frozen values, pickled through their own pipe."""

from __future__ import annotations

from dataclasses import dataclass

# from the program on the screen to its supervisor


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How the station is; sent every second, which also says that it is alive."""

    phase: str
    stage: str  # of the engine
    note: str  # what the engine is doing, or why it failed
    scene: str  # name
    language: str
    visits: int  # since the program began
    seconds_left: float | None  # of the visit
    frames_per_second: float  # generated
    engine_restarts: int
    viewers: int
    watch: str  # address for phones, or ""


@dataclass(frozen=True, slots=True)
class Event:
    """Something worth a line in the log."""

    words: str
    trouble: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """The program cannot begin, and why in one sentence: the owner can mend it."""

    why: str


@dataclass(frozen=True, slots=True)
class Left:
    """The operator's keys were pressed: the station is to close."""


# from the supervisor to the program


@dataclass(frozen=True, slots=True)
class Fly:
    """Begin in this scene, whoever flies."""

    scene: str  # name


@dataclass(frozen=True, slots=True)
class Reset:
    """Back to the start."""


@dataclass(frozen=True, slots=True)
class Close:
    """End."""
