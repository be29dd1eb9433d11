"""What the hands do: keys, mouse and gamepad (or a remote message) become `Controls` and `Steering`. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from explorer import bindings
from explorer.bindings import key_axes

SPEED_MIN, SPEED_MAX, SPEED_DEFAULT = 0.1, 30.0, 4.0  # metres per second: the range the world was trained on
SPEED_STEP = 10 ** (1 / 12)  # one notch of the wheel: twelve notches are a factor of ten
MOUSE_TURN = math.radians(0.12)  # radians per pixel of mouse travel
DEAD_ZONE = 0.15  # of a gamepad stick
ZOOM_STEP, ZOOM_MIN, ZOOM_MAX = 1.1, 0.5, 2.0  # of the scene's lens; the engine keeps to lenses it knows

Three = tuple[float, float, float]
Six = tuple[float, float, float, float, float, float]


@dataclass(frozen=True, slots=True)
class Controls:
    """What is held at one moment. Each axis is a fraction in [-1, 1]; units come from the pilot's config."""

    move: Three = (0.0, 0.0, 0.0)  # camera axes: right, down, forward
    turn: Three = (0.0, 0.0, 0.0)  # yaw right, pitch up, roll clockwise
    speed: float = SPEED_DEFAULT  # metres per second at full deflection

    def __post_init__(self) -> None:
        if not all(-1.0 <= a <= 1.0 for a in self.axes):
            raise ValueError(f"controls {self.axes} must lie within -1…1")
        if not SPEED_MIN <= self.speed <= SPEED_MAX:
            raise ValueError(f"speed {self.speed} m/s must lie within {SPEED_MIN}…{SPEED_MAX}")

    @property
    def axes(self) -> Six:
        """Move, then turn."""
        return (*self.move, *self.turn)

    @property
    def idle(self) -> bool:
        return not any(self.axes)


@dataclass(frozen=True, slots=True)
class Steering:
    """All that hands have done so far: what is held now, and running totals of what came and went.

    Totals are never reset, so whoever reads only the newest one misses nothing: it subtracts what it used last.
    """

    controls: Controls = Controls()
    presses: Six = (0.0,) * 6  # signed key presses so far, per axis: a tap between two chunks still counts
    look: tuple[float, float] = (0.0, 0.0)  # yaw and pitch by mouse so far, radians
    input: int = 0  # id of the newest input; ids count up
    time: float = 0.0  # perf_counter seconds of that input
    walk: bool = False  # upright at constant height, instead of flying where the camera looks
    level: bool = False  # the horizon is brought back to level
    zoom: float = 1.0  # focal length over that of the scene


KEYS: Mapping[str, tuple[int, float]] = key_axes(bindings.KEYS)  # key name → axis, sign


@dataclass(frozen=True, slots=True, kw_only=True)
class Grip:
    """How hands are read: the pilot's settings."""

    keys: Mapping[str, tuple[int, float]] = field(default_factory=lambda: KEYS)  # key name → axis, sign
    mouse_turn: tuple[float, float] = (
        MOUSE_TURN,
        MOUSE_TURN,
    )  # yaw, pitch: radians per pixel; inverted below 0
    dead_zone: float = DEAD_ZONE


def dead_zone(value: float, zone: float = DEAD_ZONE) -> float:
    """A trigger without its sloppy middle: 0 inside `zone`, then continuous up to ±1."""
    size = min(abs(value), 1.0)
    return math.copysign((size - zone) / (1.0 - zone), value) if size > zone else 0.0


def dead_disc(x: float, y: float, zone: float = DEAD_ZONE) -> tuple[float, float]:
    """A stick without its sloppy middle: 0 inside a disc, then rescaled along its own direction up to the rim."""
    size = math.hypot(x, y)
    scale = dead_zone(size, zone) / size if size else 0.0
    return x * scale, y * scale


@dataclass(frozen=True, slots=True)
class Hands:
    """Everything currently pressed. Each method returns the hands after one event."""

    held: frozenset[str] = frozenset()
    stick: Six = (0.0,) * 6  # gamepad, dead zone already removed
    speed: float = SPEED_DEFAULT
    presses: Six = (0.0,) * 6
    look: tuple[float, float] = (0.0, 0.0)
    input: int = 0
    time: float = 0.0
    grip: Grip = Grip()
    walk: bool = False
    level: bool = False
    zoom: float = 1.0

    def press(self, key: str, *, now: float) -> Hands:
        """A key that flies goes down; others and auto-repeat change nothing."""
        if key not in self.grip.keys or key in self.held:
            return self
        axis, sign = self.grip.keys[key]
        x, y, z, yaw, pitch, roll = (p + sign * (i == axis) for i, p in enumerate(self.presses))
        presses = (x, y, z, yaw, pitch, roll)
        return replace(
            self,
            held=self.held | {key},
            presses=presses,
            level=self.level and axis != 5,  # who rolls by hand wants that roll
            input=self.input + 1,
            time=now,
        )

    def release(self, key: str, *, now: float) -> Hands:
        if key not in self.held:
            return self
        return replace(self, held=self.held - {key}, input=self.input + 1, time=now)

    def mouse(self, dx: float, dy: float, *, now: float) -> Hands:
        """Mouse travel in pixels, +y down: right turns right, away looks up."""
        if not dx and not dy:
            return self
        yaw, pitch = self.grip.mouse_turn
        look = (self.look[0] + dx * yaw, self.look[1] - dy * pitch)
        return replace(self, look=look, input=self.input + 1, time=now)

    def wheel(self, notches: float, *, now: float) -> Hands:
        speed = min(max(self.speed * SPEED_STEP**notches, SPEED_MIN), SPEED_MAX)
        return replace(self, speed=speed, input=self.input + 1, time=now) if speed != self.speed else self

    def toggle_walk(self, *, now: float) -> Hands:
        """Fly or walk."""
        return replace(self, walk=not self.walk, input=self.input + 1, time=now)

    def level_out(self, *, now: float) -> Hands:
        """Bring the horizon back to level, until somebody rolls."""
        return replace(self, level=True, input=self.input + 1, time=now)

    def zoomed(self, notches: float, *, now: float) -> Hands:
        """A longer lens for positive notches, a wider view for negative ones."""
        zoom = min(max(self.zoom * ZOOM_STEP**notches, ZOOM_MIN), ZOOM_MAX)
        return replace(self, zoom=zoom, input=self.input + 1, time=now) if zoom != self.zoom else self

    def pad(self, axes: Six, *, now: float) -> Hands:
        """Raw gamepad axes in the order of `Controls.axes`, each in [-1, 1]."""
        zone = self.grip.dead_zone
        (x, z), (yaw, pitch) = dead_disc(axes[0], axes[2], zone), dead_disc(axes[3], axes[4], zone)
        stick = (x, dead_zone(axes[1], zone), z, yaw, pitch, dead_zone(axes[5], zone))
        return replace(self, stick=stick, input=self.input + 1, time=now) if stick != self.stick else self

    def let_go(self, *, now: float) -> Hands:
        """Release everything: the window lost the keyboard."""
        if not self.held and not any(self.stick):
            return self
        return replace(self, held=frozenset(), stick=(0.0,) * 6, input=self.input + 1, time=now)

    @property
    def controls(self) -> Controls:
        axes = list(self.stick)
        for key in self.held:
            axis, sign = self.grip.keys[key]
            axes[axis] += sign
        x, y, z, yaw, pitch, roll = (min(max(a, -1.0), 1.0) for a in axes)
        return Controls(_within_unit(x, y, z), (yaw, pitch, roll), self.speed)

    @property
    def steering(self) -> Steering:
        return Steering(
            self.controls,
            self.presses,
            self.look,
            self.input,
            self.time,
            walk=self.walk,
            level=self.level,
            zoom=self.zoom,
        )


def _within_unit(x: float, y: float, z: float) -> Three:
    """Two keys at once do not fly faster than one."""
    size = max(math.sqrt(x * x + y * y + z * z), 1.0)
    return (x / size, y / size, z / size)
