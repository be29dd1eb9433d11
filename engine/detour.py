"""Paths flown off the ground: over what a model has invented in their way, and back to them.

A path is written before anybody knows what will stand in its way, and behind the surface of an invented hill there is
nothing to be seen. What is decided depends on the spatial memory alone: a flight that is gone on with flies on alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from engine.camera import Array, Intrinsics, Pose
from engine.clearance import cleared, surfaces
from engine.config import FPS
from engine.memory import SpatialMemory
from engine.warp import Sources

BACK = 2.0  # seconds in which most of a detour is made good again
FASTEST = 4.0  # m/s of that, beside the path's own: a camera that was held up for long does not rush


def detour(at: Pose, before: Pose, wanted: Pose, points: Array, dt: float) -> Pose:
    """Where a camera at `at` is `dt` seconds later: it moves and turns as the path does, and nears it, off `points` [n, 3].

    before, wanted: of the path, then and now. Who is on the path, with nothing in the way, comes to `wanted` exactly.
    """
    off = at.t - before.t
    share = dt * min(1 / BACK, FASTEST / max(float(np.linalg.norm(off)), 1e-9))
    return cleared(at, replace(wanted, t=wanted.t + off * (1 - share)), points, dt)


def detours(at: Pose, before: Pose, wanted: Sequence[Pose], points: Array) -> list[Pose]:
    """`detour` from frame to frame, for every pose of `wanted`."""
    flown = []
    for pose in wanted:
        at, before = detour(at, before, pose, points, 1 / FPS), pose
        flown.append(at)
    return flown


def detoured(memory: SpatialMemory, before: Pose, wanted: Sequence[Pose]) -> list[Pose]:
    """The poses of the coming frames of a flight, off all that it remembers.

    before: where the path was in the newest frame of the memory.  wanted: where it is in the frames to come.
    """
    at = Pose.from_matrix(memory.latest.poses[0, 0].cpu().numpy())
    return detours(at, before, wanted, remembered(memory))


def remembered(memory: SpatialMemory) -> Array:
    """Surfaces in all pictures, [n, 3] metres: the old ones too, for a path may lead back."""
    others = memory.kept.only(memory.kept.index != memory.latest.index)  # once each: single ones are errors
    return np.concatenate([*_surfaces(others), *_surfaces(memory.latest)])


def _surfaces(sources: Sources) -> list[Array]:
    """Of each picture there is, [n, 3]."""
    slots = sources.used[0].nonzero()[:, 0]
    depths, poses, lenses = (
        x[0, slots].cpu().numpy() for x in (sources.inverse_depth, sources.poses, sources.intrinsics)
    )
    height, width = depths.shape[1:]
    return [
        surfaces(d, Pose.from_matrix(m), Intrinsics(fx=fx, fy=fy, cx=cx, cy=cy, width=width, height=height))
        for d, m, (fx, fy, cx, cy) in zip(depths, poses, lenses, strict=True)
    ]
