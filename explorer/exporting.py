"""`explorer export`: a recorded flight, or an export that was cut short, as files for other programs."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
from tyro.conf import Positional, arg

from engine.frame import Frame
from explorer.export import DEPTH, IMAGES, Export, film_frame, refuse_taken, require_empty
from explorer.flightlog import Header, log_path, read_log
from explorer.pointcloud import VOXEL, check_voxel
from explorer.recorder import decoded
from explorer.trajectory import Trajectory

Told = Callable[[int, int], None]  # frames done, frames in all


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Write a recorded flight as files for other programs.

    Frames (png), camera path (trajectory.npy, nerfstudio's transforms.json, COLMAP's text model, the action string
    where keys flew it), and where depth was exported, inverse depth and a point cloud (points.ply). A film has no
    depth: fly with --export to get it. An export that was cut short is completed from its own folder.
    """

    source: Annotated[Path, Positional, arg(metavar="FILM|DIR")]
    """a film with its .poses.jsonl beside it, or the folder of an export"""
    target: Annotated[Path, Positional, arg(metavar="DIR")]
    """new folder to write"""
    voxel: Annotated[float, arg(metavar="METRES")] = VOXEL
    """distance of the points of the cloud"""

    def __post_init__(self) -> None:
        check_voxel(self.voxel)

    def run(self, told: Told = lambda done, total: None) -> str:
        """Write everything. Returns a sentence about it; a user's mistake raises ValueError."""
        refuse_taken(self.target)
        folder = self.source.is_dir()
        header, trajectory = read_log(self.source / "poses.jsonl" if folder else log_path(self.source))
        if not folder and not self.source.is_file():
            raise ValueError(f"there is no film {self.source}: check the name")
        if not folder and not header.clean:
            raise ValueError(
                f"{self.source} shows the window with its panels: export a film recorded without --hud"
            )
        frames = (_of_folder if folder else _of_film)(self.source, header, trajectory)
        first = next(frames, None)
        if first is None:
            raise ValueError(f"{self.source} has no frames: record it again")
        require_empty(self.target)
        return self._write(chain((first,), frames), header, total=len(trajectory), told=told)

    def _write(self, frames: Iterator[Frame], header: Header, *, total: int, told: Told) -> str:
        try:
            export = Export(self.target, header=header, voxel=self.voxel)
            try:
                for frame in frames:
                    export.add(frame)
                    told(export.frames, total)
                return export.finish()
            finally:
                export.abandon()
        except OSError as error:
            raise ValueError(
                f"cannot write to {self.target} ({error.strerror}): free some space or choose another place"
            ) from None


def _of_film(film: Path, header: Header, trajectory: Trajectory) -> Iterator[Frame]:
    """As many frames as the film and its poses both have."""
    for index, pixels in enumerate(decoded(film)):
        if index == len(trajectory):
            return
        assert trajectory.intrinsics is not None
        yield film_frame(
            pixels, trajectory.pose(index), trajectory.intrinsics[index], index=index, world=header.world
        )


def _of_folder(folder: Path, header: Header, trajectory: Trajectory) -> Iterator[Frame]:
    """As many frames as have pictures."""
    assert trajectory.intrinsics is not None
    for index, k in enumerate(trajectory.intrinsics):
        bgr = cv2.imread(str(folder / IMAGES.format(index)), cv2.IMREAD_COLOR)
        if bgr is None or bgr.shape[:2] != (k.height, k.width):
            return
        yield Frame(
            pixels=np.ascontiguousarray(bgr[..., ::-1], dtype=np.uint8),
            pose=trajectory.pose(index),
            intrinsics=k,
            index=index,
            world=header.world,
            inverse_depth=_depth(folder / DEPTH.format(index)),
        )


def _depth(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float16]] | None:
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            depth = file["inverse_depth"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None  # the one that was being written
    return depth.astype(np.float16) if depth.ndim == 2 and depth.dtype.kind == "f" else None
