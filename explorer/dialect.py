"""Scripted flights: action strings such as `w-16,dw-32,none-8`, in the dialects of public world models."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.camera import Array
from engine.config import FPS
from explorer.trajectory import MAX_FRAMES

MAX_TEXT = 20_000  # characters of an action string

_KEYS = "wasdijkl"
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


def roll_out(text: str, *, dialect: str = "sana", motion: Motion = SANA_MOTION) -> Array:
    """Fly an action string. Returns [frames + 1, 4, 4] camera-to-world float64, the first one the identity."""
    if dialect not in _DIALECTS:
        raise ValueError(f"no dialect '{dialect}' for action strings: use {', '.join(_DIALECTS)}")
    return _DIALECTS[dialect](text, motion)


def parse(text: str) -> list[frozenset[str]]:
    """The keys held in each frame of a `sana` action string: comma-separated `<keys>-<frames>`."""
    if len(text) > MAX_TEXT:
        raise ValueError(f"the action string has {len(text)} characters: use at most {MAX_TEXT}")
    held: list[frozenset[str]] = []
    for part in text.translate(_COMMAS).split(","):
        match = re.fullmatch(rf"(none|[{_KEYS}]*)\s*-\s*([0-9]{{1,9}})", part.strip().lower())
        count = int(match[2]) if match else 0
        if match is None or count < 1:
            raise ValueError(
                f"'{part.strip()[:40]}' is not an action (in '{text[:40]}'): "
                f"write <keys>-<frames> with keys of {_KEYS} or none, such as dw-16"
            )
        if len(held) + count > MAX_FRAMES:
            raise ValueError(
                f"the action string is longer than {MAX_FRAMES} frames: shorten it at '{part.strip()[:40]}'"
            )
        held += [frozenset() if match[1] == "none" else frozenset(match[1])] * count
    return held


def _velocities(held: list[frozenset[str]], motion: Motion) -> Iterator[Array]:
    """Forward, strafe, yaw and pitch per frame. A newly pressed key acts at once, a release dies away."""
    dt, rise, fall = 1.0 / FPS, 0.45, 1.0  # seconds; NVlabs' smoother
    gain = np.array([motion.speed / FPS] * 2 + [math.radians(motion.turn / FPS)] * 2)
    velocity, before = np.zeros(4), frozenset[str]()
    for keys in held:
        axes = [("w" in keys) - ("s" in keys), ("l" in keys) - ("j" in keys)]
        axes += [("d" in keys) - ("a" in keys), ("i" in keys) - ("k" in keys)]
        target = gain * np.array(axes, dtype=np.float64)
        tau = np.where(target != 0.0, rise, fall)
        eased = velocity + (1.0 - np.exp(-dt / tau)) * (target - velocity)
        velocity = target if keys - before or not motion.smooth else eased
        before = keys
        yield velocity


def _sana(text: str, motion: Motion) -> Array:
    """The NVlabs rule: a/d yaw, j/l strafe, level walking, saturating pitch."""
    held = parse(text)
    limit = math.radians(motion.pitch_limit)
    poses = np.tile(np.eye(4), (len(held) + 1, 1, 1))
    R, t, pitch = np.eye(3), np.zeros(3), 0.0
    for pose, (forward, strafe, yaw, nod) in zip(poses[1:], _velocities(held, motion), strict=True):
        new = min(max(pitch + nod, -limit), limit)
        R = _yaw(yaw) @ R @ _pitch(new - pitch)
        pitch = new
        t = t + _level(R[:, 2]) * forward + _level(R[:, 0]) * strafe
        pose[:3, :3], pose[:3, 3] = R, t
    return poses


def _level(axis: Array) -> Array:
    flat: Array = axis * np.array([1.0, 0.0, 1.0])
    return flat / (np.linalg.norm(flat) + 1e-6)


def _yaw(angle: float) -> NDArray[np.float64]:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def _pitch(angle: float) -> NDArray[np.float64]:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


_DIALECTS: dict[str, Callable[[str, Motion], Array]] = {"sana": _sana}
