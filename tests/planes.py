"""Frames of worlds made of planes, whose every distance is known."""

from __future__ import annotations

import numpy as np

from engine.camera import Intrinsics, Pose
from engine.frame import Frame

LENS = Intrinsics.from_fov(1.2, width=256, height=160)


def frame(pose: Pose, depth_of) -> Frame:  # type: ignore[no-untyped-def]
    """A frame whose pixels see surfaces at the distances `depth_of(origin, directions)`, infinite for the sky."""
    y, x = np.mgrid[: LENS.height, : LENS.width] + 0.5
    rays = np.stack(((x - LENS.cx) / LENS.fx, (y - LENS.cy) / LENS.fy, np.ones_like(x)), axis=-1) @ pose.R.T
    depth = depth_of(pose.t, rays)
    return Frame(
        pixels=np.zeros((LENS.height, LENS.width, 3), np.uint8),
        pose=pose,
        intrinsics=LENS,
        index=0,
        world="0",
        inverse_depth=np.where(np.isfinite(depth), 1 / depth, 0).astype(np.float16),
    )


def plane(normal: tuple[float, float, float], through: tuple[float, float, float]):  # type: ignore[no-untyped-def]
    n, p = np.array(normal), np.array(through)

    def depth(origin: np.ndarray, rays: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            t = ((p - origin) @ n) / (rays @ n)
        return np.where(t > 0.01, t, np.inf)

    return depth


def nearest(*surfaces_):  # type: ignore[no-untyped-def]
    return lambda o, r: np.minimum.reduce([s(o, r) for s in surfaces_])


FLAT = plane((0, 1, 0), (0, 2.0, 0))  # two metres below the origin
