"""Poses and intrinsics: camera-to-world, OpenCV axes (+x right, +y down, +z forward), metres, radians."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pyquaternion import Quaternion

Array = NDArray[np.float64]


def _origin() -> Array:
    return np.zeros(3)


@dataclass(frozen=True, slots=True)
class Pose:
    """Camera-to-world: `q` turns camera axes into world axes, `t` is the camera centre."""

    q: Quaternion = field(default_factory=Quaternion)
    t: Array = field(default_factory=_origin)  # [3] metres

    @property
    def R(self) -> Array:
        return self.q.rotation_matrix

    @property
    def matrix(self) -> Array:
        """[4, 4] float64."""
        m = np.eye(4)
        m[:3, :3] = self.R
        m[:3, 3] = self.t
        return m

    @staticmethod
    def from_matrix(m: NDArray[np.floating]) -> Pose:
        """From a rigid [4, 4] matrix; the rotation is projected onto SO(3) so that float32 input is welcome."""
        u, _, vt = np.linalg.svd(np.asarray(m[:3, :3], dtype=np.float64))
        R = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
        return Pose(Quaternion(matrix=R, rtol=1e-6, atol=1e-6), np.array(m[:3, 3], dtype=np.float64))

    @property
    def yaw(self) -> float:
        """Heading about the world's down axis: 0 looks along +z, positive turns right."""
        forward = self.R[:, 2]
        return math.atan2(forward[0], forward[2])


@dataclass(frozen=True, slots=True, kw_only=True)
class Intrinsics:
    """A pinhole in pixels of a picture of `width` × `height`."""

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int

    @staticmethod
    def from_fov(horizontal: float, *, width: int, height: int) -> Intrinsics:
        """Square pixels, centred; `horizontal` field of view in radians."""
        if not 0.0 < horizontal < math.pi:
            raise ValueError(f"field of view {math.degrees(horizontal):.1f}° must lie between 0° and 180°")
        f = 0.5 * width / math.tan(0.5 * horizontal)
        return Intrinsics(fx=f, fy=f, cx=width / 2, cy=height / 2, width=width, height=height)

    def scaled(self, width: int, height: int) -> Intrinsics:
        sx, sy = width / self.width, height / self.height
        return Intrinsics(
            fx=self.fx * sx, fy=self.fy * sy, cx=self.cx * sx, cy=self.cy * sy, width=width, height=height
        )

    @property
    def row(self) -> Array:
        """fx, fy, cx, cy."""
        return np.array([self.fx, self.fy, self.cx, self.cy])
