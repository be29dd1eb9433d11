"""Trajectories in and out: action strings, .npy, nerfstudio and COLMAP files, each converted by name at the door."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from pyquaternion import Quaternion

from engine.camera import Array, Intrinsics
from explorer.axes import from_axes, to_axes
from explorer.dialect import Motion, roll_out
from explorer.trajectory import MAX_FRAMES, Trajectory, refuse

MAX_BYTES = 256 * 2**20  # of a trajectory file


def load_path(spec: str, *, dialect: str = "sana", motion: Motion | None = None) -> Trajectory:
    """A trajectory from a file (.npy, transforms.json, COLMAP images.txt) or from an action string."""
    suffix = _suffix(spec)
    if suffix in READERS:
        return READERS[suffix](readable(Path(spec.strip())))
    if suffix[1:].isalnum() and not suffix[1:].isdigit():  # `w-1.5` is a mistyped action
        raise ValueError(
            f"'{spec[:80]}' is no path file: use {', '.join(READERS)} or an action string such as w-16,dw-32"
        )
    return Trajectory(poses=roll_out(spec, dialect=dialect, motion=motion))


def names_file(spec: str) -> bool:
    """Whether that is a path file, and no action string."""
    return _suffix(spec) in READERS


def _suffix(spec: str) -> str:
    return Path(spec.strip()).suffix.lower() if len(spec) < 4096 else ""


def readable(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"there is no path file {path}: check the name")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(
            f"{path} has {path.stat().st_size / 2**20:.0f} MB: a path file has at most {MAX_BYTES >> 20}"
        )
    return path


def read_npy(path: Path, *, axes: str = "opencv") -> Trajectory:
    """[N, 4, 4] in the named convention (see `axes`), any float dtype."""
    try:
        m = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as e:
        raise ValueError(f"{path} is not a numpy array file: {_first_line(e)}") from e
    if not isinstance(m, np.ndarray) or m.dtype.kind != "f":
        raise ValueError(f"{path} holds {getattr(m, 'dtype', 'an archive')}: save one float array [N, 4, 4]")
    if np.ndim(m) != 3 or m.shape[1:] != (4, 4) or axes == "opencv":
        return _named(path, lambda: Trajectory(poses=m))
    return _named(path, lambda: Trajectory(poses=from_axes(_finite(m), axes)))


def _finite(m: Array) -> Array:
    """Before the inverse of what may not have one."""
    finite = np.all(np.isfinite(m), axis=(1, 2), keepdims=True)
    poses = np.where(finite, m, 0.0).astype(np.float64)
    refuse(np.abs(np.linalg.det(poses)) < 0.5, "is not rigid: repair or remove it")
    return poses


def read_nerfstudio(path: Path) -> Trajectory:
    """transforms.json: OpenGL camera axes, world +z up; intrinsics per frame or for all of them."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as e:
        raise ValueError(f"{path} is not JSON: {_first_line(e)}") from e
    frames = data.get("frames") if isinstance(data, dict) else None
    if not isinstance(frames, list) or not 1 <= len(frames) <= MAX_FRAMES:
        raise ValueError(
            f"{path} has no list 'frames' of 1 to {MAX_FRAMES}: give a nerfstudio transforms.json"
        )
    try:
        poses = np.stack([np.array(f["transform_matrix"], dtype=np.float64) for f in frames])
        rows = [_nerfstudio_intrinsics({**data, **f}) for f in frames]
    except (KeyError, TypeError, ValueError, OverflowError) as e:
        raise ValueError(
            f"{path}: a frame's transform_matrix or intrinsics are malformed: {_first_line(e)}"
        ) from e
    if poses.shape[1:] != (4, 4):
        raise ValueError(f"{path}: transform_matrix is {poses.shape[1:]}: give 4 rows of 4")
    known = tuple(r for r in rows if r is not None)
    return _named(
        path,
        lambda: Trajectory(
            poses=from_axes(poses, "blender"), intrinsics=known if len(known) == len(rows) else None
        ),
    )


def _nerfstudio_intrinsics(f: dict[str, Any]) -> Intrinsics | None:
    if not {"w", "h"} <= f.keys() or not {"fl_x", "camera_angle_x"} & f.keys():
        return None
    w, h = int(f["w"]), int(f["h"])
    fx = float(f["fl_x"]) if "fl_x" in f else 0.5 * w / math.tan(0.5 * float(f["camera_angle_x"]))
    cx, cy = float(f.get("cx", w / 2)), float(f.get("cy", h / 2))
    return _checked_intrinsics(fx, float(f.get("fl_y", fx)), cx, cy, w, h)


def _checked_intrinsics(fx: float, fy: float, cx: float, cy: float, w: int, h: int) -> Intrinsics:
    good = (
        0 < w < 2**16 and 0 < h < 2**16 and 0 < fx < 1e6 and 0 < fy < 1e6 and abs(cx) < 1e6 and abs(cy) < 1e6
    )
    if not good:
        raise ValueError(f"intrinsics fx={fx} fy={fy} cx={cx} cy={cy} of {w}x{h} are out of range")
    return Intrinsics(fx=fx, fy=fy, cx=cx, cy=cy, width=w, height=h)


def read_colmap(path: Path) -> Trajectory:
    """COLMAP images.txt (world-to-camera quaternions), in the order of the image names.

    Intrinsics come from a cameras.txt beside it. COLMAP's world has no known up: its axes are kept.
    """
    try:
        with path.open(encoding="utf-8") as file:
            images = sorted(islice(_colmap_images(path, file), MAX_FRAMES + 1))
    except UnicodeDecodeError as e:
        raise ValueError(f"{path} is not text: give COLMAP's images.txt, not images.bin") from e
    if not images:
        raise ValueError(f"{path} holds no images: give COLMAP's images.txt")
    poses = np.stack([np.eye(4)] * len(images))
    for pose, (_, numbers, _) in zip(poses, images, strict=True):
        R = Quaternion(numbers[:4]).normalised.rotation_matrix.T
        pose[:3, :3], pose[:3, 3] = R, -R @ numbers[4:]
    cameras = _colmap_cameras(path.with_name("cameras.txt"))
    known = all(camera in cameras for _, _, camera in images)
    intrinsics = tuple(cameras[camera] for _, _, camera in images) if known else None
    return _named(path, lambda: Trajectory(poses=poses, intrinsics=intrinsics))


def _colmap_images(path: Path, lines: Iterator[str]) -> Iterator[tuple[str, list[float], int]]:
    """Name, [qw, qx, qy, qz, tx, ty, tz] and camera of each image; the line after each holds its points."""
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        words = line.split(maxsplit=9)
        try:
            numbers, camera, name = [float(w) for w in words[1:8]], int(words[8]), words[9].strip()
        except (ValueError, IndexError) as e:
            raise ValueError(
                f"{path}: '{line.strip()[:40]}' is not an image line of COLMAP's images.txt"
            ) from e
        if not all(map(math.isfinite, numbers)) or not any(numbers[:4]):
            raise ValueError(f"{path}: image {name[:40]} has no valid rotation: repair or remove it")
        yield name, numbers, camera
        next(lines, None)


def _colmap_cameras(path: Path) -> dict[int, Intrinsics]:
    """Pinholes of cameras.txt by id, distortion left out. Unknown models are left out too."""
    cameras: dict[int, Intrinsics] = {}
    if not path.is_file() or path.stat().st_size > MAX_BYTES:
        return cameras
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        words = line.split()
        if len(words) < 7 or words[0].startswith("#"):
            continue
        try:
            (w, h), p = map(int, words[2:4]), [float(x) for x in words[4:]]
            shared = words[1] in ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL")
            if shared or words[1] in ("PINHOLE", "OPENCV", "FULL_OPENCV"):
                fx, fy, cx, cy = (p[0], p[0], p[1], p[2]) if shared else p[:4]
                cameras[int(words[0])] = _checked_intrinsics(fx, fy, cx, cy, w, h)
        except ValueError as e:
            raise ValueError(f"{path}: '{line[:60]}' is not a camera line: repair or remove the file") from e
    return cameras


READERS: dict[str, Callable[[Path], Trajectory]] = {
    ".npy": read_npy,
    ".json": read_nerfstudio,
    ".txt": read_colmap,
}


def write_npy(path: Path, trajectory: Trajectory, *, axes: str = "opencv") -> None:
    """[N, 4, 4] float64 in the named convention."""

    def save(part: Path) -> None:
        with part.open("wb") as file:
            np.save(file, to_axes(trajectory.poses, axes), allow_pickle=False)

    whole_file(path, save)


def write_nerfstudio(
    path: Path, trajectory: Trajectory, *, images: str = "images/{:05d}.jpg", points: str | None = None
) -> None:
    """transforms.json that nerfstudio reads; `images` names the picture of frame i, `points` a cloud in its axes."""
    frames: list[dict[str, Any]] = []
    for i, m in enumerate(to_axes(trajectory.poses, "blender")):
        frames.append({"file_path": images.format(i), "transform_matrix": m.tolist()})
        if trajectory.intrinsics is not None:
            k = trajectory.intrinsics[i]
            frames[-1] |= {"fl_x": k.fx, "fl_y": k.fy, "cx": k.cx, "cy": k.cy, "w": k.width, "h": k.height}
    cloud = {"ply_file_path": points} if points else {}
    text = json.dumps({"camera_model": "OPENCV", **cloud, "frames": frames}, indent=1)
    whole_file(path, lambda part: part.write_text(text, encoding="utf-8"))


def whole_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside `path` and rename, so that nothing is ever half-written."""
    part = path.with_name(path.name + ".part")
    try:
        write(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _named(path: Path, build: Callable[[], Trajectory]) -> Trajectory:
    try:
        return build()
    except ValueError as e:
        raise ValueError(f"{path}: {e}") from e


def _first_line(e: Exception) -> str:
    return str(e).strip().splitlines()[0][:120] if str(e).strip() else type(e).__name__
