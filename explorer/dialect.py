"""Scripted flights: action strings such as `w-16,dw-32,none-8`, in the dialects of public world models."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from engine.camera import Array
from engine.config import FPS
from explorer.trajectory import MAX_FRAMES

MAX_TEXT = 20_000  # characters of an action string

Control = tuple[int, float]  # axis of (forward, strafe, yaw, pitch), sign
Held = frozenset[Control]
_COMMAS = str.maketrans({"，": ","})


@dataclass(frozen=True, kw_only=True)
class Motion:
    """What a held key does. The defaults are those of the `sana` dialect: 0.025 units and 0.6° per frame."""

    speed: float = 0.4  # metres (model units in sana-wm) per second
    turn: float = 9.6  # degrees per second
    pitch_limit: float = 60.0  # degrees
    smooth: bool = True  # ease in and out between held keys

    def __post_init__(self) -> None:
        for name, value, most in (("speed", self.speed, 1e3), ("turn", self.turn, 3600.0)):
            if not 0.0 <= value <= most:
                raise ValueError(f"{name}={value} per second is out of range: use 0 to {most:g}")
        if not 0.0 <= self.pitch_limit < 90.0:
            raise ValueError(f"pitch_limit={self.pitch_limit}° is out of range: use 0 to below 90")


SANA_MOTION = Motion()
POCKET_MOTION = Motion(speed=4.0)

_STRAFE_BY_JL: Mapping[str, Control] = {
    "w": (0, 1.0), "s": (0, -1.0), "d": (2, 1.0), "a": (2, -1.0),
    "l": (1, 1.0), "j": (1, -1.0), "i": (3, 1.0), "k": (3, -1.0),
}  # fmt: skip
_STRAFE_BY_AD: Mapping[str, Control] = {
    "w": (0, 1.0), "s": (0, -1.0), "d": (1, 1.0), "a": (1, -1.0),
    "l": (2, 1.0), "j": (2, -1.0), "i": (3, 1.0), "k": (3, -1.0),
}  # fmt: skip
_STRAFE_BY_QE: Mapping[str, Control] = {
    "w": (0, 1.0), "s": (0, -1.0), "d": (2, 1.0), "a": (2, -1.0), "l": (2, 1.0), "j": (2, -1.0),
    "e": (1, 1.0), "q": (1, -1.0), "i": (3, 1.0), "k": (3, -1.0),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """What keys mean to one program, and how its camera follows them."""

    source: str
    keys: Mapping[str, Control]
    motion: Motion = SANA_MOTION  # its own defaults
    saturates: bool = True  # a step over the pitch limit ends at it; else the step is not made
    epsilon: float = 1e-6  # added to the length of a levelled axis before dividing by it
    coupling: float = 0.0  # yaw that comes with strafing, as a share of the turn


DIALECTS: Mapping[str, Dialect] = {
    "sana": Dialect(source="NVlabs/Sana 5b5cc40", keys=_STRAFE_BY_JL),
    "sglang": Dialect(
        source="sglang 0.5.23, realtime defaults",
        keys=_STRAFE_BY_AD,
        motion=Motion(speed=0.04 * FPS, turn=1.2 * FPS, pitch_limit=85.0, smooth=False),
        saturates=False,
        coupling=0.4,
    ),
    "diffusers": Dialect(
        source="diffusers 0.42.1, pipelines/sana_wm",
        keys=_STRAFE_BY_AD,
        motion=Motion(speed=0.05 * FPS, turn=1.2 * FPS, pitch_limit=85.0, smooth=False),
        saturates=False,
        epsilon=0.0,
    ),
    "flashdreams": Dialect(source="NVIDIA/flashdreams c8496f9, integrations_v2/sana_wm", keys=_STRAFE_BY_QE),
}


def named(dialect: str) -> Dialect:
    """Raises ValueError for a name that is none."""
    if dialect not in DIALECTS:
        raise ValueError(f"no dialect '{dialect}' for action strings: use {', '.join(DIALECTS)}")
    return DIALECTS[dialect]


def roll_out(text: str, *, dialect: str = "sana", motion: Motion | None = None) -> Array:
    """Fly an action string. Returns [frames + 1, 4, 4] camera-to-world float64, the first one the identity.

    motion: how fast; None: the dialect's own defaults.
    """
    rule = named(dialect)
    motion = motion or rule.motion
    state, poses = Rolling(), [np.eye(4)]
    for keys in parse(text, dialect=dialect):
        state = advance(state, frozenset(rule.keys[key] for key in keys), rule, motion)
        poses.append(state.pose)
    return np.stack(poses)


def parse(text: str, *, dialect: str = "sana") -> list[frozenset[str]]:
    """The keys held in each frame of an action string: comma-separated `<keys>-<frames>`."""
    allowed = "".join(named(dialect).keys)
    if len(text) > MAX_TEXT:
        raise ValueError(f"the action string has {len(text)} characters: use at most {MAX_TEXT}")
    held: list[frozenset[str]] = []
    for part in text.translate(_COMMAS).split(","):
        match = re.fullmatch(rf"(none|[{allowed}]*)\s*-\s*([0-9]{{1,9}})", part.strip().lower())
        count = int(match[2]) if match else 0
        if match is None or count < 1:
            raise ValueError(
                f"'{part.strip()[:40]}' is not an action (in '{text[:40]}'): "
                f"write <keys>-<frames> with keys of {allowed} or none, such as dw-16"
            )
        if len(held) + count > MAX_FRAMES:
            raise ValueError(
                f"the action string is longer than {MAX_FRAMES} frames: shorten it at '{part.strip()[:40]}'"
            )
        held += [frozenset() if match[1] == "none" else frozenset(match[1])] * count
    return held


@dataclass(frozen=True, slots=True)
class Rolling:
    """A camera between two frames of a roll-out."""

    R: Array = field(default_factory=lambda: np.eye(3))
    t: Array = field(default_factory=lambda: np.zeros(3))
    pitch: float = 0.0
    velocity: Array = field(default_factory=lambda: np.zeros(4))  # forward, strafe, yaw, pitch per frame
    held: Held = frozenset()

    @property
    def pose(self) -> Array:
        """[4, 4] camera-to-world."""
        m = np.eye(4)
        m[:3, :3], m[:3, 3] = self.R, self.t
        return m


def advance(state: Rolling, held: Held, rule: Dialect, motion: Motion) -> Rolling:
    """One frame on: turn first, then move level."""
    velocity = _velocity(state, held, motion)
    forward, strafe, yaw, nod = velocity
    limit = math.radians(motion.pitch_limit)
    pitch = min(max(state.pitch + nod, -limit), limit)
    if not rule.saturates and pitch != state.pitch + nod:
        pitch = state.pitch
    if rule.coupling:
        yaw += rule.coupling * math.radians(motion.turn / FPS) * _target(held)[1]
    R = _yaw(yaw) @ state.R @ _pitch(pitch - state.pitch)
    t = state.t + _level(R[:, 2], rule.epsilon) * forward + _level(R[:, 0], rule.epsilon) * strafe
    return Rolling(R, t, pitch, velocity, held)


def _velocity(state: Rolling, held: Held, motion: Motion) -> Array:
    """Forward, strafe, yaw and pitch per frame. A newly pressed key acts at once, a release dies away."""
    dt, rise, fall = 1.0 / FPS, 0.45, 1.0  # seconds; NVlabs' smoother
    gain = np.array([motion.speed / FPS] * 2 + [math.radians(motion.turn / FPS)] * 2)
    target = gain * _target(held)
    if held - state.held or not motion.smooth:
        return target
    tau = np.where(target != 0.0, rise, fall)
    eased: Array = state.velocity + (1.0 - np.exp(-dt / tau)) * (target - state.velocity)
    return eased


def _target(held: Held) -> Array:
    axes = np.zeros(4)
    for axis, sign in held:
        axes[axis] += sign
    return axes


def _level(axis: Array, epsilon: float) -> Array:
    flat: Array = axis * np.array([1.0, 0.0, 1.0])
    return flat / (np.linalg.norm(flat) + epsilon)


def _yaw(angle: float) -> NDArray[np.float64]:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def _pitch(angle: float) -> NDArray[np.float64]:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
