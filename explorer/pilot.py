"""Controls become poses: smoothed six-degrees-of-freedom flight. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from pyquaternion import Quaternion

from engine.camera import Pose
from explorer.controls import Controls, Steering

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class PilotConfig:
    """How the camera answers. The defaults stay inside what the world was trained on."""

    turn_rate: tuple[float, float, float] = (0.8, 0.6, 0.6)  # yaw, pitch, roll at full deflection, rad/s
    lag: float = 5.5  # 1/s: rate at which velocity follows the controls
    pitch_limit: float = math.radians(60)
    roll_limit: float = math.radians(30)
    level: float = 0.0  # 1/s: rate at which an untouched roll returns to 0; 0: it stays
    look_rate: float = (
        1.2  # rad/s: fastest turn that mouse travel may ask for; the rest waits for the next chunk
    )
    pulse: float = 0.25  # seconds that the shortest tap counts for

    def __post_init__(self) -> None:
        if not 0 < self.pitch_limit < math.pi / 2 or not 0 < self.roll_limit < math.pi / 2:
            raise ValueError(
                f"pitch_limit={self.pitch_limit} and roll_limit={self.roll_limit} must lie in 0…π/2"
            )
        if self.lag <= 0:
            raise ValueError(f"lag={self.lag} 1/s must be positive")


PILOT = PilotConfig()


def _zero() -> Array:
    return np.zeros(3)


@dataclass(frozen=True, slots=True)
class PilotState:
    """A pose in motion."""

    pose: Pose = field(default_factory=Pose)
    velocity: Array = field(default_factory=_zero)  # [3] m/s, camera axes
    rate: Array = field(default_factory=_zero)  # [3] rad/s: yaw, pitch, roll


def angles(pose: Pose) -> tuple[float, float, float]:
    """Yaw, pitch, roll in radians, with q = Ry(yaw) Rx(pitch) Rz(roll); pitch is positive looking up."""
    R = pose.R
    pitch = math.asin(min(max(-R[1, 2], -1.0), 1.0))
    return pose.yaw, pitch, math.atan2(R[1, 0], R[1, 1])


def oriented(yaw: float, pitch: float, roll: float) -> Quaternion:
    """The orientation with these angles: yaw about the world's down axis, pitch and roll about the camera's."""
    q = Quaternion(axis=(0, 1, 0), angle=yaw) * Quaternion(axis=(1, 0, 0), angle=pitch)
    return (q * Quaternion(axis=(0, 0, 1), angle=roll)).normalised


def turned(pose: Pose, by: Sequence[float] | Array, config: PilotConfig = PILOT) -> Pose:
    """`pose` after a turn of (yaw, pitch, roll) radians, within the limits.

    A pose that starts outside a limit is not thrown back inside it, but can only come closer.
    """
    yaw, pitch, roll = angles(pose)
    new_pitch = _limited(pitch, by[1], config.pitch_limit)
    new_roll = _limited(roll, by[2], config.roll_limit)
    return replace(pose, q=oriented(yaw + by[0], new_pitch, new_roll))


def _limited(angle: float, by: float, limit: float) -> float:
    limit = max(limit, abs(angle))
    return min(max(angle + by, -limit), limit)


def fly(pose: Pose, controls: Controls, dt: float, config: PilotConfig = PILOT) -> Pose:
    """Advance `pose` by `dt` seconds without inertia. Turning first, so 'forward' is where the camera now looks."""
    pose = turned(pose, np.asarray(controls.turn) * config.turn_rate * dt, config)
    return replace(pose, t=pose.t + pose.R @ (np.asarray(controls.move) * (controls.speed * dt)))


def advance(state: PilotState, controls: Controls, dt: float, config: PilotConfig = PILOT) -> PilotState:
    """Advance a pose in motion: velocity and turn rate follow the controls with a first-order lag, exactly."""
    keep = math.exp(-config.lag * dt)
    velocity, moved = _lagged(
        state.velocity, np.asarray(controls.move) * controls.speed, keep, dt, config.lag
    )
    rate, turn = _lagged(state.rate, np.asarray(controls.turn) * config.turn_rate, keep, dt, config.lag)
    if config.level and not controls.turn[2]:
        turn[2] -= angles(state.pose)[2] * -math.expm1(-config.level * dt)
    middle = turned(state.pose, turn / 2, config)
    pose = replace(turned(state.pose, turn, config), t=state.pose.t + middle.R @ moved)
    return PilotState(pose, velocity, rate)


def _lagged(now: Array, goal: Array, keep: float, dt: float, lag: float) -> tuple[Array, Array]:
    """Value and integral after `dt` of x' = lag·(goal - x)."""
    return goal + (now - goal) * keep, goal * dt + (now - goal) * ((1.0 - keep) / lag)


def roll_forward(
    state: PilotState,
    steering: Steering,
    used: Steering,
    *,
    frames: int,
    fps: float,
    config: PilotConfig = PILOT,
) -> tuple[tuple[Pose, ...], PilotState, Steering]:
    """Fly the held controls over one chunk.

    `used` is the steering that the chunk before returned. Keys pressed and released since then count for one pulse;
    mouse travel since then is eased in over the chunk. Returns the poses, the state at the last of them,
    and the steering used up: mouse travel faster than the limit is left for the next chunk.
    """
    held = steering.controls
    pulse = _pulse(steering, used)
    turn, look = _look(steering, used, seconds=frames / fps, config=config)
    poses, eased = [], 0.0
    for i in range(1, frames + 1):
        controls = pulse if (i - 1) / fps < config.pulse else held
        state = advance(state, controls, 1.0 / fps, config)
        share = _ease(i / frames)
        extra = (turn[0] * (share - eased), turn[1] * (share - eased), 0.0)
        state, eased = replace(state, pose=turned(state.pose, extra, config)), share
        poses.append(state.pose)
    return tuple(poses), state, replace(steering, look=look)


def _pulse(steering: Steering, used: Steering) -> Controls:
    """What is held, plus what was tapped since: an axis held now needs no pulse."""
    taps = np.subtract(steering.presses, used.presses)
    axes = (a or float(np.sign(t)) for a, t in zip(steering.controls.axes, taps, strict=True))
    x, y, z, yaw, pitch, roll = axes
    return replace(steering.controls, move=(x, y, z), turn=(yaw, pitch, roll))


def _look(
    steering: Steering, used: Steering, *, seconds: float, config: PilotConfig
) -> tuple[tuple[float, float], tuple[float, float]]:
    """The mouse turn (yaw, pitch) to make in this chunk, and the running total used up by it.

    At most one more chunk's worth is left over: a wild swing does not turn the camera for seconds.
    """
    most = config.look_rate * seconds
    asked_yaw, asked_pitch = (min(max(steering.look[i] - used.look[i], -2 * most), 2 * most) for i in (0, 1))
    yaw, pitch = (min(max(a, -most), most) for a in (asked_yaw, asked_pitch))
    return (yaw, pitch), (steering.look[0] - asked_yaw + yaw, steering.look[1] - asked_pitch + pitch)


def _ease(x: float) -> float:
    """Half a straight line, half a smooth step: starts at once, never jerks."""
    return 0.5 * x + 0.5 * x * x * (3.0 - 2.0 * x)


def at_rest(before: PilotState, after: PilotState) -> bool:
    """Whether nothing one could see moved in between: under a millimetre and a hundredth of a degree."""
    turn = float(np.linalg.norm(before.pose.R - after.pose.R))
    return float(np.linalg.norm(before.pose.t - after.pose.t)) < 1e-3 and turn < 2e-4
