"""What the window and the engine process say to each other. Frozen values, pickled through their own pipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.camera import Intrinsics, Pose
from engine.setup import Refining


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """To the engine: forget the flight, start one from this picture."""

    flight: int  # counts up; frames of an older flight are dropped
    picture: (
        NDArray[np.uint8] | None
    )  # [Y, X, 3] RGB at the world's own size; None: to be drawn from the words
    pose: Pose
    intrinsics: Intrinsics
    words: tuple[int, ...] | None = None
    seed: int = 0
    inverse_depth: NDArray[np.float16] | None = None  # [Y, X] of the picture, 1/m, sky 0


@dataclass(frozen=True, slots=True)
class Resume:
    """To the engine: forget the flight, go on from the state in this file."""

    flight: int
    path: Path


@dataclass(frozen=True, slots=True)
class Reword:
    """To the engine: other words for the world, from the next chunk on."""

    words: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Retell:
    """To the engine: another prompt, from the next chunk on and for all later flights."""

    prompt: str
    path: Path  # of its text, as `engine.prompt` keeps it


@dataclass(frozen=True, slots=True)
class Told:
    """From the engine: the flight has another prompt."""

    prompt: str
    why: str = ""  # it has not


@dataclass(frozen=True, slots=True)
class Pause:
    """To the engine: generate nothing, or go on."""

    on: bool


@dataclass(frozen=True, slots=True)
class Once:
    """To the engine: one chunk, paused or not."""


@dataclass(frozen=True, slots=True)
class Taken:
    """To the engine: the frames in this slot are copied out, and their time on screen ends then."""

    slot: int
    end: float  # perf_counter seconds
    period: float = 0.0  # seconds for which each frame is shown; 0: not known


@dataclass(frozen=True, slots=True)
class Spare:
    """The window draws with this many cores: leave them alone."""

    cores: int


@dataclass(frozen=True, slots=True)
class Refine:
    """To the engine: when the second stage of sana-wm is to work."""

    mode: Refining


@dataclass(frozen=True, slots=True)
class Stop:
    """To the engine: end now."""


@dataclass(frozen=True, slots=True)
class Progress:
    """From the engine: what start-up is doing."""

    step: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """From the engine: loaded; frames will come through this shared memory."""

    name: str
    width: int
    height: int
    fps: int
    chunk_frames: int
    memory: str
    refiner: bool = False  # whether there is a second stage


@dataclass(frozen=True, slots=True)
class Drawn:
    """From the engine: the first picture of this flight, made of its words."""

    flight: int
    picture: NDArray[np.uint8]  # [Y, X, 3]
    inverse_depth: NDArray[np.float16]  # [Y, X], 1/m, sky 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Frames:
    """From the engine: one chunk lies in `slot`."""

    flight: int
    slot: int
    first: int  # index of its first frame
    poses: tuple[Pose, ...]
    intrinsics: Intrinsics
    input: int  # id of the newest input used
    seconds: float  # the whole step
    started: float = 0.0  # perf_counter seconds at which the hands were read
    sent: float = 0.0  # perf_counter seconds at which the frames lay in the slot
    depth: bool = False  # whether their inverse depth lies there too
    timing: dict[str, float] = field(default_factory=dict)  # its parts
    discarded: int = 0  # chunks thrown away so far because they were not finite


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """From the engine: the state after the chunk that ends with frame `index` lies in a file."""

    flight: int
    index: int
    path: Path
    size: int  # bytes; 0: there was no room, and `path` does not exist
    seconds: float


@dataclass(frozen=True, slots=True)
class Refused:
    """From the engine: the state of this flight cannot be continued, and why in one sentence."""

    flight: int
    why: str


@dataclass(frozen=True, slots=True)
class Resting:
    """From the engine: nothing moves, so nothing is generated until somebody steers."""


@dataclass(frozen=True, slots=True)
class Failed:
    """From the engine: it cannot go on, and why in one sentence."""

    why: str
