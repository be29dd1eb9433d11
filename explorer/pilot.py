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
    level: float = 2.5  # 1/s: rate at which a roll returns to 0 where a level horizon is wanted
    look_rate: float = 1.5  # rad/s: fastest turn by mouse
    look_follow: float = 25.0  # 1/s: rate at which the camera follows the mouse below that
    look_backlog: float = 0.6  # rad: mouse travel further ahead is dropped: no swing turns for seconds
    pulse: float = 0.25  # seconds that the shortest tap counts for
    zoom_rate: float = 8.0  # 1/s: rate at which the lens follows its key

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
    walking: bool = False  # `velocity` is along heading, down and side instead of the camera's axes
    used: Steering = field(default_factory=Steering)  # presses and mouse travel already flown
    pulse: Array = field(default_factory=lambda: np.zeros(6))  # seconds left of the shortest pulse, signed
    zoom: float = 1.0  # focal length over that of the scene

    def moving(self, steering: Steering) -> bool:
        """Whether the pose still changes while hands stay as they are."""
        pending = steering.controls.axes, self.pulse, np.subtract(steering.look, self.used.look)
        return (
            any(np.any(a) for a in pending)
            or any(np.abs(a).max() > 1e-4 for a in (self.velocity, self.rate))
            or abs(steering.zoom - self.zoom) > 1e-4
            or ((steering.level or steering.walk) and abs(angles(self.pose)[2]) > 1e-4)
        )


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


def advance(
    state: PilotState,
    controls: Controls,
    dt: float,
    config: PilotConfig = PILOT,
    *,
    walk: bool = False,
    level: bool = False,
) -> PilotState:
    """Advance a pose in motion: velocity and turn rate follow the controls with a first-order lag, exactly.

    Who walks keeps height and horizon: movement is along the heading, wherever the camera looks up or down.
    """
    state = _on_foot(state) if walk and not state.walking else _in_the_air(state) if not walk else state
    keep = math.exp(-config.lag * dt)
    upright = np.array([1.0, 0.0, 1.0]) if walk else np.ones(3)
    velocity, moved = _lagged(
        state.velocity, np.asarray(controls.move) * controls.speed * upright, keep, dt, config.lag
    )
    rate, turn = _lagged(state.rate, np.asarray(controls.turn) * config.turn_rate, keep, dt, config.lag)
    if (level or walk) and (walk or not controls.turn[2]):
        turn[2] = angles(state.pose)[2] * math.expm1(-config.level * dt)
    middle = turned(state.pose, turn / 2, config)
    along = _heading(middle) if walk else middle.R
    pose = replace(turned(state.pose, turn, config), t=state.pose.t + along @ moved)
    return replace(state, pose=pose, velocity=velocity, rate=rate)


def _heading(pose: Pose) -> Array:
    """Axes of who stands upright and faces where the camera does."""
    return oriented(pose.yaw, 0.0, 0.0).rotation_matrix


def _on_foot(state: PilotState) -> PilotState:
    velocity = _heading(state.pose).T @ state.pose.R @ state.velocity
    return replace(state, velocity=velocity * (1.0, 0.0, 1.0), walking=True)


def _in_the_air(state: PilotState) -> PilotState:
    if not state.walking:
        return state
    return replace(state, velocity=state.pose.R.T @ _heading(state.pose) @ state.velocity, walking=False)


def _lagged(now: Array, goal: Array, keep: float, dt: float, lag: float) -> tuple[Array, Array]:
    """Value and integral after `dt` of x' = lag·(goal - x)."""
    return goal + (now - goal) * keep, goal * dt + (now - goal) * ((1.0 - keep) / lag)


def steered(state: PilotState, steering: Steering, dt: float, config: PilotConfig = PILOT) -> PilotState:
    """Advance by `dt` seconds under what hands do.

    An axis that was pressed counts for one pulse even if it is released already; mouse travel is followed closely,
    up to a turning rate.
    """
    taps = np.subtract(steering.presses, state.used.presses)
    pulse = np.where(taps, np.sign(taps) * config.pulse, state.pulse)
    state = replace(state, pulse=pulse, used=replace(state.used, presses=steering.presses))
    if (ends := np.abs(pulse[pulse != 0])).size and ends.min() < dt:  # exact, whatever the steps are
        first = float(ends.min())
        return steered(_steered(state, steering, first, config), steering, dt - first, config)
    return _steered(state, steering, dt, config)


def _steered(state: PilotState, steering: Steering, dt: float, config: PilotConfig) -> PilotState:
    """The same where no pulse ends in between."""
    turn, look = _look(steering, state.used, dt, config)
    held = _pulsed(steering.controls, state.pulse)
    state = advance(state, held, dt, config, walk=steering.walk, level=steering.level)
    left = np.abs(state.pulse) - dt
    return replace(
        state,
        pose=turned(state.pose, (*turn, 0.0), config),
        used=replace(steering, look=look),
        pulse=np.where(left > 1e-9, np.sign(state.pulse) * left, 0.0),
        zoom=steering.zoom * (state.zoom / steering.zoom) ** math.exp(-config.zoom_rate * dt),
    )


def _pulsed(held: Controls, pulse: Array) -> Controls:
    """What is held, and what was tapped: an axis held needs no pulse."""
    x, y, z, yaw, pitch, roll = (a or float(np.sign(p)) for a, p in zip(held.axes, pulse, strict=True))
    size = max(math.sqrt(x * x + y * y + z * z), 1.0)
    return replace(held, move=(x / size, y / size, z / size), turn=(yaw, pitch, roll))


def _look(
    steering: Steering, used: Steering, dt: float, config: PilotConfig
) -> tuple[tuple[float, float], tuple[float, float]]:
    """The mouse turn (yaw, pitch) to make now, and the running total used up by it."""
    follow, most = -math.expm1(-config.look_follow * dt), config.look_rate * dt
    turn, total = [], []
    for asked, done in zip(steering.look, used.look, strict=True):
        pending = _within(asked - done, config.look_backlog)
        now = pending if abs(pending) < 1e-5 else _within(pending * follow, most)
        turn.append(now)
        total.append(asked if now == pending else asked - pending + now)
    return (turn[0], turn[1]), (total[0], total[1])


def _within(x: float, limit: float) -> float:
    return min(max(x, -limit), limit)


def at_rest(before: Pose, after: Pose) -> bool:
    """Whether nothing one could see moved in between: under a millimetre and a hundredth of a degree."""
    turn = float(np.linalg.norm(before.R - after.R))
    return float(np.linalg.norm(before.t - after.t)) < 1e-3 and turn < 2e-4
