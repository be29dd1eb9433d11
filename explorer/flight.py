"""One flight between two chunks, as a value and as a file. Imports torch only when a file is written or read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pyquaternion import Quaternion

from engine import container
from engine.camera import Intrinsics, Pose
from engine.clearance import Surroundings
from explorer.controls import Steering
from explorer.pilot import PilotState
from explorer.timeline import pose_row

if TYPE_CHECKING:
    from engine.opening import World
    from engine.state import StreamState

LONGEST_PROMPT = 20_000  # characters
FARTHEST = 1e9  # metres and metres per second: numbers beyond are no flight


@dataclass(frozen=True, kw_only=True)
class Flight:
    """Everything that the next chunk depends on, besides what the hands do."""

    id: int  # counts up within a session
    intrinsics: Intrinsics
    state: StreamState
    pilot: PilotState
    used: Steering
    index: int  # of the next frame
    prompt: str = ""  # of worlds that read one
    rested: int = 0  # chunks without motion
    discarded: int = 0
    around: Surroundings = field(
        default_factory=Surroundings
    )  # not kept in files: the next chunk shows it again


def save_flight(path: Path, flight: Flight, engine: World) -> int:
    """Write what is needed to go on from here. Returns the bytes. Raises OSError."""
    from engine.snapshot import flatten

    arrays, state = flatten(flight.state)
    pilot = flight.pilot
    arrays["pilot"] = np.array([*pose_row(pilot.pose), *pilot.velocity, *pilot.rate])
    k = flight.intrinsics
    record = {
        "world": engine.spec.name,
        "weights": engine.weights,
        "index": flight.index,
        "prompt": flight.prompt,
        "intrinsics": [k.fx, k.fy, k.cx, k.cy, k.width, k.height],
        "state": state,
    }
    return container.write(path, arrays, record)


def open_flight(path: Path, engine: World, *, id: int, used: Steering) -> Flight:
    """The flight in a file that `save_flight` wrote, or a .world file. Raises ValueError, one sentence."""
    from engine.restore import restore

    arrays, record = container.read(path)
    container.require_same_world(path, record, world=engine.spec.name, weights=engine.weights)
    try:
        state = record.get("state")
        restored = restore(
            arrays,
            state if isinstance(state, dict) else {},
            like=engine.pattern,
            config=engine.generator.config,
            device=engine.device,
        )
        intrinsics = read_intrinsics(record)
        if (intrinsics.width, intrinsics.height) != (engine.spec.width, engine.spec.height):
            raise ValueError(f"its pictures are {intrinsics.width}x{intrinsics.height}")
        index, prompt = record.get("index"), read_prompt(record)
        if index != engine.next_frame(restored):
            raise ValueError(f"frame {index!r} does not follow from latent frame {restored.frame}")
        pilot = read_pilot(arrays)
    except ValueError as error:
        raise ValueError(f"{path} cannot be continued: {error}") from None
    return Flight(
        id=id,
        intrinsics=intrinsics,
        state=restored,
        pilot=pilot,
        used=used,
        index=engine.next_frame(restored),
        prompt=prompt,
    )


def read_prompt(record: Mapping[str, Any]) -> str:
    """Raises ValueError."""
    prompt = record.get("prompt", "")
    if not isinstance(prompt, str) or len(prompt) > LONGEST_PROMPT:
        raise ValueError("its prompt is no text")
    return prompt


def read_intrinsics(record: Mapping[str, Any]) -> Intrinsics:
    """Raises ValueError."""
    row = record.get("intrinsics")
    if not isinstance(row, list) or len(row) != 6 or not all(type(x) in (int, float) for x in row):
        raise ValueError(f"its intrinsics are {row!r}")
    fx, fy, cx, cy, width, height = row
    if not (0 < fx < 1e6 and 0 < fy < 1e6 and abs(cx) < 1e6 and abs(cy) < 1e6):
        raise ValueError(f"its intrinsics are {row!r}")
    return Intrinsics(fx=fx, fy=fy, cx=cx, cy=cy, width=int(width), height=int(height))


def read_pilot(arrays: Mapping[str, NDArray[Any]]) -> PilotState:
    """Raises ValueError."""
    row = arrays.get("pilot")
    if row is None or row.shape != (13,) or row.dtype != np.float64 or not (np.abs(row) < FARTHEST).all():
        raise ValueError("the motion of its camera is damaged")
    return PilotState(read_pose(row[:7]), row[7:10].copy(), row[10:].copy())


def read_pose(row: NDArray[np.float64]) -> Pose:
    """From x, y, z, qw, qx, qy, qz. Raises ValueError where that is no orientation."""
    if not abs(float(np.linalg.norm(row[3:])) - 1.0) < 1e-3:
        raise ValueError("a pose of it is no orientation")
    return Pose(Quaternion(row[3:]), row[:3].copy())
