"""A flight as files for other programs: pictures, depth, poses in their formats, a point cloud.

DIR/poses.jsonl             poses and intrinsics, a line a frame, written while flying
DIR/images/00000.png        frames
DIR/depth/00000.npz         inverse_depth: float16 [Y, X], 1/m along the optical axis; 0 is sky, below 0 unknown
DIR/trajectory.npy          float64 [N, 4, 4] camera-to-world, OpenCV axes
DIR/transforms.json         nerfstudio
DIR/colmap/*.txt            COLMAP's text model
DIR/points.ply              point cloud, z up
DIR/actions.txt             the action string, where the path is one
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engine.camera import Intrinsics, Pose
from engine.frame import Frame
from explorer.actions import as_actions
from explorer.colmap import write_colmap
from explorer.dialect import Motion
from explorer.flightlog import FlightLog, Header
from explorer.path import whole_file, write_nerfstudio, write_npy
from explorer.pointcloud import VOXEL, PointCloud, write_ply
from explorer.recorder import Picture, save_png
from explorer.trajectory import Trajectory

IMAGES, DEPTH = "images/{:05d}.png", "depth/{:05d}.npz"
STRIDE = 4  # frames between two that give points: neighbours see the same
IN_COLMAP = 200_000  # points in points3D.txt, which is text


def refuse_taken(folder: Path) -> None:
    """Raises ValueError where something is already."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: name a folder for the export")
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: name another folder for the export")


def require_empty(folder: Path) -> None:
    """Refuse a folder that cannot take an export, before any work is done; makes it. Raises ValueError."""
    try:
        refuse_taken(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".part").touch()
        (folder / ".part").unlink()
    except OSError as error:
        raise ValueError(f"cannot write to {folder} ({error.strerror}): choose another place") from None


class Export:
    """Takes frames in order; `finish` writes what needs them all. OSError when the disk does not take them."""

    def __init__(self, folder: Path, *, header: Header, voxel: float = VOXEL) -> None:
        """folder: empty, as `require_empty` leaves it."""
        self.folder = folder
        self.frames = 0
        self._cloud = PointCloud(voxel)
        (folder / "images").mkdir(parents=True, exist_ok=True)
        self._log = FlightLog(folder / "poses.jsonl", header)
        self._poses: list[Pose] = []
        self._intrinsics: list[Intrinsics] = []
        self._depth = False

    def add(self, frame: Frame) -> None:
        """Append a frame; its place in the files is the count of those before."""
        save_png(self.folder / IMAGES.format(self.frames), frame.pixels)
        if frame.inverse_depth is not None:
            self._add_depth(frame)
        self._log.add(frame)
        self._poses.append(frame.pose)
        self._intrinsics.append(frame.intrinsics)
        self.frames += 1

    def _add_depth(self, frame: Frame) -> None:
        assert frame.inverse_depth is not None
        self._depth = True
        path = self.folder / DEPTH.format(self.frames)
        path.parent.mkdir(exist_ok=True)
        np.savez_compressed(path, inverse_depth=frame.inverse_depth.astype(np.float16))
        if self.frames % STRIDE == 0:
            self._cloud.add(frame)

    def abandon(self) -> None:
        """Let go of the files: what reached the disk can be completed later."""
        self._log.close()

    def finish(self, motion: Motion | None = None) -> str:
        """Write poses and points; motion: of the keys that flew it, where keys may have. Returns what there is."""
        self._log.close()
        if not self.frames:
            return f"nothing to export: {self.folder} has no frames"
        trajectory = Trajectory(
            poses=np.stack([pose.matrix for pose in self._poses]), intrinsics=tuple(self._intrinsics)
        )
        points = self._cloud.points() if self._depth else None
        write_poses(self.folder, trajectory, cloud=points is not None, motion=motion)
        some = None
        if points is not None:
            whole_file(self.folder / "points.ply", lambda part: write_ply(part, *points))
            every = -(-len(points[0]) // IN_COLMAP) or 1
            some = points[0][::every], points[1][::every]
        write_colmap(self.folder / "colmap", trajectory, points=some)
        told = f", {len(points[0])} points ({self._cloud.voxel:g} m apart)" if points else ", no depth"
        return f"exported {self.frames} frames{told}: {self.folder}"


def write_poses(folder: Path, trajectory: Trajectory, *, cloud: bool, motion: Motion | None) -> None:
    """trajectory.npy, transforms.json and, where the path is one, actions.txt."""
    write_npy(folder / "trajectory.npy", trajectory)
    write_nerfstudio(
        folder / "transforms.json", trajectory, images=IMAGES, points="points.ply" if cloud else None
    )
    try:
        text = as_actions(trajectory, motion=motion)
    except ValueError:
        return  # hands flew it, not keys of the dialect
    whole_file(folder / "actions.txt", lambda part: part.write_text(f"{text}\n", encoding="utf-8"))


def film_frame(pixels: Picture, pose: Pose, intrinsics: Intrinsics, *, index: int, world: str) -> Frame:
    """A frame of a film that `recorder.fitted` may have scaled and letter-boxed: its intrinsics follow."""
    height, width = pixels.shape[:2]
    scale = min(width / intrinsics.width, height / intrinsics.height)
    w = max(round(intrinsics.width * scale), 1)
    h = max(round(intrinsics.height * scale), 1)
    k = intrinsics.scaled(w, h)
    left, top = (width - w) // 2, (height - h) // 2
    shifted = Intrinsics(fx=k.fx, fy=k.fy, cx=k.cx + left, cy=k.cy + top, width=width, height=height)
    return Frame(pixels=pixels, pose=pose, intrinsics=shifted, index=index, world=world)
