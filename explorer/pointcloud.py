"""A coloured point cloud of a flight: depth unprojected, thinned to one point a voxel, written as PLY."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.frame import Frame
from explorer.axes import Z_UP

VOXEL = 0.1  # metres
FAR = 80.0  # metres: a few per cent of depth, which is what a decoder knows, are metres there
EDGE = 1.25  # ratio of inverse depths around a pixel above which it may hang between two things
MOST = 3_000_000  # points; then voxels grow to twice their size
BATCH = 500_000  # new points between two thinnings

_POINT = np.dtype([("xyz", "<f4", 3), ("rgb", "u1", 3), ("distance", "<f4")])
_PLY = np.dtype([("xyz", "<f4", 3), ("rgb", "u1", 3)])
Points = NDArray[np.void]  # of _POINT


def unproject(frame: Frame) -> Points:
    """Points of a frame in world metres, pixels' centres at .5: not the sky, the unknown, the far or edges."""
    if frame.inverse_depth is None:
        return np.empty(0, _POINT)
    inverse = frame.inverse_depth.astype(np.float32)
    near = np.ones((3, 3), np.uint8)
    flat = cv2.dilate(inverse, near) <= EDGE * cv2.erode(inverse, near)
    y, x = np.nonzero((inverse > 1 / FAR) & flat)
    z = 1.0 / inverse[y, x].astype(np.float64)
    k = frame.intrinsics.scaled(inverse.shape[1], inverse.shape[0])
    seen = np.stack(((x + 0.5 - k.cx) / k.fx * z, (y + 0.5 - k.cy) / k.fy * z, z), axis=1)
    points = np.empty(len(z), _POINT)
    points["xyz"] = seen @ frame.pose.R.T + frame.pose.t
    scale = np.array(frame.pixels.shape[:2]) / inverse.shape
    rows, columns = ((y + 0.5) * scale[0]).astype(int), ((x + 0.5) * scale[1]).astype(int)
    points["rgb"] = frame.pixels[rows, columns]
    points["distance"] = z
    return points


def thinned(points: Points, voxel: float) -> Points:
    """One point a voxel: the one seen from nearest, where depth is truest."""
    cells = np.floor(points["xyz"].astype(np.float64) / voxel).astype(np.int64)
    order = np.lexsort((points["distance"], cells[:, 2], cells[:, 1], cells[:, 0]))
    cells = cells[order]
    first = np.ones(len(order), bool)
    first[1:] = (cells[1:] != cells[:-1]).any(axis=1)
    return points[np.sort(order[first])]


def check_voxel(voxel: float) -> float:
    """The size, where it is one. Raises ValueError."""
    if not 1e-3 <= voxel <= 100:
        raise ValueError(f"voxels of {voxel:g} m are out of range: use 0.001 to 100")
    return voxel


class PointCloud:
    """Grows with a flight, in bounded memory."""

    def __init__(self, voxel: float = VOXEL) -> None:
        self.voxel = check_voxel(voxel)
        self._kept: Points = np.empty(0, _POINT)
        self._new: list[Points] = []

    def add(self, frame: Frame) -> None:
        self._new.append(unproject(frame))
        if sum(map(len, self._new)) > BATCH:
            self._thin()

    def _thin(self) -> None:
        self._kept = thinned(np.concatenate((self._kept, *self._new)), self.voxel)
        self._new = []
        while len(self._kept) > MOST:
            self.voxel *= 2
            self._kept = thinned(self._kept, self.voxel)

    def points(self) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """[N, 3] world metres, [N, 3] RGB."""
        self._thin()
        return self._kept["xyz"].copy(), self._kept["rgb"].copy()


def write_ply(path: Path, xyz: NDArray[np.float32], rgb: NDArray[np.uint8]) -> None:
    """Binary little endian, upright in every viewer: x right, y ahead, z up (Blender's and nerfstudio's world)."""
    vertices = np.empty(len(xyz), _PLY)
    vertices["xyz"], vertices["rgb"] = xyz @ Z_UP[:3, :3].astype(np.float32), rgb
    names = [f"property float {n}" for n in "xyz"] + [f"property uchar {n}" for n in ("red", "green", "blue")]
    header = ["ply", "format binary_little_endian 1.0", "comment x right, y ahead, z up, metres"]
    header += [f"element vertex {len(xyz)}", *names, "end_header", ""]
    path.write_bytes("\n".join(header).encode("ascii") + vertices.tobytes())
