"""From where the coming chunk is seen: the pilot's flight foretold, and the way of the generated camera back to it. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from engine.camera import Array, Intrinsics, Pose
from engine.clearance import NOTHING
from explorer.clearance import guided
from explorer.controls import Steering
from explorer.pilot import PILOT, PilotConfig, PilotState, angles, oriented

STEP = 1 / 32  # seconds: longest step of a forecast
TURN_LIMIT = 1.5  # rad/s: mean over a chunk of what the generated camera turns, catching up included
SPEED_LIMIT = 45.0  # m/s: the same for its movement
TURN_LEAD = 1.2  # rad: how far the pilot may turn ahead of the generated camera
MOVE_LEAD, SLOWEST = 2.0, 2.0  # seconds of his speed that he may fly ahead, and m/s that count at least
NARROWEST, WIDEST = (
    math.radians(50),
    math.radians(95),
)  # horizontal fields of view that the worlds were learned with


@dataclass(frozen=True, slots=True, kw_only=True)
class Flown:
    """The pilot at one moment: the newest of these is all that the engine knows of the hands."""

    flight: int  # that it flies in
    steering: Steering
    pilot: PilotState
    time: float  # perf_counter seconds


def foretold(
    flown: Flown, times: Sequence[float], config: PilotConfig = PILOT, *, points: Array = NOTHING
) -> tuple[PilotState, ...]:
    """The pilot at ascending `times` (perf_counter seconds), if hands stay as they are.

    points: [n, 3] of what he keeps off, see `engine.clearance`.
    """
    state, now, states = flown.pilot, flown.time, []
    for time in times:
        count = max(math.ceil((time - now) / STEP), 1)
        moving = time > now and state.moving(flown.steering)
        for _ in range(count if moving else 0):
            state = guided(state, flown.steering, (time - now) / count, points, config)
        now = max(now, time)
        states.append(state)
    return tuple(states)


def reconciled(start: Pose, before: Pose, wanted: Sequence[Pose], *, seconds: float) -> tuple[Pose, ...]:
    """A chunk of generated poses that begins at `start` and eases to the pilot's.

    start: of the newest generated frame.  before: where the pilot is at the time of that frame.  wanted: where the
    pilot is at the time of each frame of the chunk, which lasts `seconds`.  What cannot be caught up within the
    limits is left for the next chunk.
    """
    error = _difference(start, before)
    ahead = _difference(wanted[-1], start)
    reach = np.concatenate(
        (_bounded(ahead[:3], TURN_LIMIT * seconds), _shortened(ahead[3:], SPEED_LIMIT * seconds))
    )
    left = reach - ahead
    shares = (_ease(i / len(wanted)) for i in range(1, len(wanted) + 1))
    return tuple(
        _moved(pose, (1 - share) * error + share * left) for pose, share in zip(wanted, shares, strict=True)
    )


def _difference(a: Pose, b: Pose) -> Array:
    """Yaw, pitch, roll and position of `a` less those of `b`: [6]."""
    turn = np.subtract(angles(a), angles(b))
    turn[0] = math.remainder(turn[0], math.tau)
    return np.concatenate((turn, a.t - b.t))


def _moved(pose: Pose, by: Array) -> Pose:
    yaw, pitch, roll = np.add(angles(pose), by[:3])
    return replace(pose, q=oriented(yaw, pitch, roll), t=pose.t + by[3:])


def _bounded(x: Array, limit: float) -> Array:
    return np.clip(x, -limit, limit)


def _shortened(x: Array, limit: float) -> Array:
    return x * min(limit / max(float(np.linalg.norm(x)), 1e-12), 1.0)


def _ease(x: float) -> float:
    """Half a straight line, half a smooth step: starts at once, never jerks."""
    return 0.5 * x + 0.5 * x * x * (3.0 - 2.0 * x)


def held_back(pilot: PilotState, generated: Pose) -> PilotState:
    """The pilot, no further ahead of the generated camera than a world that keeps up lets him be.

    Where it does not keep up he waits for it, instead of flying off, and never turns round to its other side.
    """
    lead = _difference(pilot.pose, generated)
    speed = max(float(np.linalg.norm(pilot.velocity)), SLOWEST)
    most = np.concatenate((_shortened(lead[:3], TURN_LEAD), _shortened(lead[3:], MOVE_LEAD * speed)))
    return pilot if np.array_equal(most, lead) else replace(pilot, pose=_moved(generated, most))


def zoomed(lens: Intrinsics, zoom: float) -> Intrinsics:
    """The scene's lens with `zoom` times its focal length, as far as the worlds know such lenses."""
    shortest, longest = (0.5 * lens.width / math.tan(0.5 * fov) for fov in (WIDEST, NARROWEST))
    low, high = min(shortest, lens.fx), max(longest, lens.fx)
    scale = min(max(lens.fx * zoom, low), high) / lens.fx
    return replace(lens, fx=lens.fx * scale, fy=lens.fy * scale)
