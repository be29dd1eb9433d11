"""Keeping off the ground: a camera that comes too close to what was generated is slowed down and lifted over it. Pure.

Nothing stops a camera from flying into a hill that the world has just invented. Inside of it there is nothing to be
seen or remembered, and a world that has seen nothing for a second has nothing to go on with.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from engine.camera import Array, Intrinsics, Pose
from engine.frame import Frame

STRIDE = 8  # pixels between the points that are looked at
FARTHEST = 40.0  # metres: surfaces beyond that do not matter yet
FRAMES = 6  # whose surfaces are kept: what has just left the picture is still below
NOTHING: Array = np.empty((0, 3))


@dataclass(frozen=True, kw_only=True)
class ClearanceConfig:
    """How closely one may fly. Metres and seconds."""

    height: float = 1.2  # of the camera above what is below and ahead
    radius: float = 0.6  # half the width of the way that must be free
    ahead: float = 1.0  # seconds of flight that are looked ahead
    distance: float = 1.5  # from what stands in the way
    stop: float = 0.7  # seconds in which that would be reached at the speed that is left
    creep: float = (
        0.15  # share of the speed that is left in any case: depth may be wrong, and nobody is stuck
    )
    soon: float = 0.4  # seconds in which what is missing of the height is climbed
    climb: float = 1.5  # m/s: fastest climb of a slow pilot, who sees little more; a fast one's is his speed
    several: int = 3  # surfaces that must agree: single ones are errors of depth


CLEARANCE = ClearanceConfig()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Surfaces that were seen last."""

    seen: tuple[Array, ...] = ()  # of each frame, newest last: [n, 3] metres

    def after(self, frame: Frame) -> Surroundings:
        """With those of another frame. Worlds without depth have none."""
        if frame.inverse_depth is None:
            return self
        return self.seeing(surfaces(frame.inverse_depth, frame.pose, frame.intrinsics))

    def seeing(self, points: Array) -> Surroundings:
        """With those [n, 3] of another frame."""
        return Surroundings((*self.seen[1 - FRAMES :], points))

    @property
    def points(self) -> Array:
        """All of them, [n, 3]."""
        return np.concatenate(self.seen) if self.seen else NOTHING


def surfaces(inverse_depth: NDArray[np.floating], pose: Pose, lens: Intrinsics) -> Array:
    """Points [n, 3] in metres on what a frame shows nearby. inverse_depth: [Y, X] in 1/m, sky 0."""
    half = STRIDE // 2
    d = inverse_depth[half::STRIDE, half::STRIDE].astype(np.float64)
    y, x = np.nonzero(d > 1 / FARTHEST)
    d = d[y, x]
    rays = ((x * STRIDE + half + 0.5 - lens.cx) / lens.fx, (y * STRIDE + half + 0.5 - lens.cy) / lens.fy)
    points = np.stack((*rays, np.ones(len(d))), axis=-1) / d[:, None]
    return points @ pose.R.T + pose.t


def cleared(before: Pose, after: Pose, points: Array, dt: float, config: ClearanceConfig = CLEARANCE) -> Pose:
    """`after`, reached from `before` in `dt` seconds, with as much of the way as is free and above the ground.

    points: [n, 3], see `Surroundings`. Who does not move is left alone.
    """
    way = after.t - before.t
    if not len(points) or dt <= 0 or np.linalg.norm(way) < 1e-6:
        return after
    level = float(np.hypot(way[0], way[2]))
    speed = level / dt
    forward = way[[0, 2]] / level if level > 1e-9 else np.array([0.0, 1.0])  # straight down any will do
    rel = points - after.t
    along = rel[:, 0] * forward[0] + rel[:, 2] * forward[1]
    across = rel[:, 0] * forward[1] - rel[:, 2] * forward[0]
    near = (np.abs(across) < config.radius) & (along > -config.radius)
    near &= along < config.radius + speed * config.ahead
    near &= rel[:, 1] > -config.height / 2  # what is higher hangs over the way; y points down
    if np.count_nonzero(near) < config.several:
        return after
    along, below = along[near], rel[near, 1]
    wall = np.maximum(along[below < config.height / 2] - config.distance, 0.0)
    free = 1.0
    if len(wall) >= config.several and speed > 0:
        free = min(max(-_nth_largest(-wall, config.several) / (speed * config.stop), config.creep), 1.0)
    until = np.maximum(along - config.radius, 0.0) / max(speed, 1e-9)
    rise = _nth_largest((config.height - below) / (until + config.soon), config.several)
    rise = min(rise, max(config.climb, speed * free))  # m/s; below 0 he may sink
    moved = np.array([way[0] * free, min(way[1], -rise * dt), way[2] * free])
    return replace(after, t=before.t + moved)


def _nth_largest(x: Array, n: int) -> float:
    return float(np.partition(x, len(x) - n)[len(x) - n])
