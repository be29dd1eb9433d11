"""Axis conventions by name: what other programs call right, up and forward, and the way to ours and back. Pure.

Ours is `opencv`: camera-to-world, camera +x right, +y down, +z forward, world down +y.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from engine.camera import Array

INVERSE = "-w2c"  # ending of a name: the file holds world-to-camera matrices


@dataclass(frozen=True)
class Axes:
    """Columns say where another program's x, y and z point in ours."""

    camera: Array  # [4, 4]
    world: Array  # [4, 4]
    words: str


def _axes(x: tuple[int, int, int], y: tuple[int, int, int], z: tuple[int, int, int]) -> Array:
    m = np.eye(4)
    m[:3, :3] = np.array([x, y, z]).T
    return m


_RIGHT, _UP, _DOWN, _FORWARD, _BACKWARD = (1, 0, 0), (0, -1, 0), (0, 1, 0), (0, 0, 1), (0, 0, -1)
_GL = _axes(_RIGHT, _UP, _BACKWARD)
_LEFT_HANDED = _axes(_RIGHT, _UP, _FORWARD)
Z_UP = _axes(_RIGHT, _FORWARD, _UP)  # of nerfstudio, Blender and the point clouds we write

AXES: Mapping[str, Axes] = {
    "opencv": Axes(np.eye(4), np.eye(4), "camera x right, y down, z forward; world y down"),
    "opengl": Axes(_GL, _GL, "camera x right, y up, z backward; world y up"),
    "blender": Axes(_GL, Z_UP, "camera x right, y up, z backward; world z up"),
    "unity": Axes(_LEFT_HANDED, _LEFT_HANDED, "left-handed: camera and world x right, y up, z forward"),
}
NAMES = tuple(name + ending for name in AXES for ending in ("", INVERSE))


def from_axes(poses: Array, name: str) -> Array:
    """[N, 4, 4] of the named convention → camera-to-world in ours."""
    axes = AXES[name.removesuffix(INVERSE)]
    c2w = np.linalg.inv(poses) if name.endswith(INVERSE) else poses
    return axes.world @ c2w @ axes.camera.T


def to_axes(poses: Array, name: str) -> Array:
    """The inverse of `from_axes`."""
    axes = AXES[name.removesuffix(INVERSE)]
    c2w = axes.world.T @ poses @ axes.camera
    if name.endswith(INVERSE):
        return np.linalg.inv(c2w).astype(np.float64)
    return c2w
