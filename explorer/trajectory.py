"""A camera path as a value: rigid poses, checked once, with intrinsics where they are known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.camera import Array, Intrinsics, Pose

MAX_FRAMES = 100_000  # of a path: 104 minutes
MAX_METRES = 1e7  # from the origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """Camera-to-world poses, OpenCV axes, world down is +y, metres; checked when built."""

    poses: Array  # [N, 4, 4] float64, rigid
    intrinsics: tuple[Intrinsics, ...] | None = None  # one per pose, where the file knows them

    def __post_init__(self) -> None:
        object.__setattr__(self, "poses", checked_poses(self.poses))
        if self.intrinsics is not None and len(self.intrinsics) != len(self.poses):
            raise ValueError(f"{len(self.intrinsics)} intrinsics for {len(self.poses)} poses: give one each")

    def __len__(self) -> int:
        return len(self.poses)

    def pose(self, i: int) -> Pose:
        return Pose.from_matrix(self.poses[i])

    def from_start(self, start: Pose) -> Trajectory:
        """The same motion, beginning at `start`: pose i becomes start · pose_0⁻¹ · pose_i."""
        first = np.linalg.inv(self.poses[0])
        return Trajectory(poses=start.matrix @ first @ self.poses, intrinsics=self.intrinsics)


def checked_poses(poses: Any) -> Array:
    """Camera-to-world [N, 4, 4], every one finite, rigid within 1e-3 and near enough; projected onto SO(3)."""
    if np.ndim(poses) != 3 or np.shape(poses)[1:] != (4, 4) or not 1 <= len(poses) <= MAX_FRAMES:
        raise ValueError(
            f"a path of shape {np.shape(poses)}: poses are [N, 4, 4] with N from 1 to {MAX_FRAMES}"
        )
    m = np.array(poses, dtype=np.float64)
    refuse(~np.isfinite(m).all(axis=(1, 2)), "is not finite: repair or remove it")
    R = m[:, :3, :3]
    skew = np.abs(R @ R.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2)) > 1e-3
    last = np.abs(m[:, 3] - [0, 0, 0, 1]).max(axis=1) > 1e-6
    refuse(
        skew | last | (np.linalg.det(R) < 0),
        "is not rigid: give camera-to-world rotations without scale or mirror",
    )
    refuse(
        np.abs(m[:, :3, 3]).max(axis=1) > MAX_METRES,
        f"is over {MAX_METRES:g} m from the origin: bring it nearer",
    )
    u, _, vt = np.linalg.svd(R)
    m[:, :3, :3] = u @ vt
    return m


def refuse(bad: Any, why: str) -> None:
    """Raise ValueError naming the first pose that is bad; bad: [N] bool."""
    if bad.any():
        raise ValueError(f"pose {int(bad.argmax())} of the path {why}")
