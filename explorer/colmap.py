"""COLMAP's text model, written: cameras.txt, images.txt, points3D.txt.

Format: colmap.github.io/format.html. Poses are world-to-camera, axes OpenCV's, pixel centres at .5: all as ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.camera import Intrinsics, Pose
from explorer.path import whole_file
from explorer.trajectory import Trajectory

Points = tuple[NDArray[np.float32], NDArray[np.uint8]]  # [N, 3] world metres, [N, 3] RGB


def write_colmap(
    folder: Path, trajectory: Trajectory, *, images: str = "{:05d}.png", points: Points | None = None
) -> None:
    """Write the three files into `folder`, made if missing; `images` names the picture of pose i.

    Raises ValueError where the trajectory has no intrinsics: a model has none without cameras.
    """
    if trajectory.intrinsics is None:
        raise ValueError(
            "a COLMAP model needs a camera and this path has none: add --fov DEGREES and --size WxH"
        )
    folder.mkdir(parents=True, exist_ok=True)
    cameras = {k: i for i, k in enumerate(dict.fromkeys(trajectory.intrinsics), start=1)}
    texts = {
        "cameras.txt": _cameras(cameras),
        "images.txt": _images(trajectory, cameras, images),
        "points3D.txt": _points(points),
    }
    for name, lines in texts.items():
        text = "".join(f"{line}\n" for line in lines)
        whole_file(folder / name, lambda part, text=text: part.write_text(text, encoding="utf-8"))  # type: ignore[misc]


def _cameras(cameras: dict[Intrinsics, int]) -> Iterator[str]:
    yield "# CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]"
    for k, i in cameras.items():
        yield f"{i} PINHOLE {k.width} {k.height} {k.fx!r} {k.fy!r} {k.cx!r} {k.cy!r}"


def _images(trajectory: Trajectory, cameras: dict[Intrinsics, int], images: str) -> Iterator[str]:
    yield "# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME"
    yield "# POINTS2D[] as (X, Y, POINT3D_ID): none"
    assert trajectory.intrinsics is not None
    for i, (matrix, k) in enumerate(zip(trajectory.poses, trajectory.intrinsics, strict=True)):
        view = Pose.from_matrix(np.linalg.inv(matrix))
        numbers = " ".join(repr(float(v)) for v in (*view.q.elements, *view.t))
        yield f"{i + 1} {numbers} {cameras[k]} {images.format(i)}"
        yield ""


def _points(points: Points | None) -> Iterator[str]:
    yield "# POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[] as (IMAGE_ID, POINT2D_IDX)"
    if points is not None:
        for i, (xyz, rgb) in enumerate(zip(*points, strict=True), start=1):
            yield f"{i} {xyz[0]:.9g} {xyz[1]:.9g} {xyz[2]:.9g} {rgb[0]} {rgb[1]} {rgb[2]} 0"
