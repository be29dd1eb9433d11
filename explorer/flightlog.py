"""The poses of a film, beside it: one JSON line a frame, so that a cut flight has all its lines but the last."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from engine.camera import Array, Intrinsics
from engine.frame import Frame
from explorer.trajectory import MAX_FRAMES, Trajectory

KIND, VERSION = "world-explorer flight", 1
MAX_LINE = 4096  # characters


def log_path(film: Path) -> Path:
    """Where the poses of a film are: flight.mp4 → flight.poses.jsonl."""
    return film.with_suffix(".poses.jsonl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What all frames share."""

    fps: float
    world: str  # name of the model
    clean: bool = True  # the film shows the world's own frames, not the window with its panels


class FlightLog:
    """Written line by line."""

    def __init__(self, path: Path, header: Header) -> None:
        self._file: TextIO = path.open("w", encoding="utf-8")
        self._say(dict(kind=KIND, version=VERSION, fps=header.fps, world=header.world, clean=header.clean))

    def add(self, frame: Frame) -> None:
        k = frame.intrinsics
        pose = [float(v) for v in frame.pose.matrix[:3].ravel()]
        self._say(dict(index=frame.index, pose=pose, k=[k.fx, k.fy, k.cx, k.cy, k.width, k.height]))

    def _say(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line, separators=(",", ":")) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def abandon(self) -> None:
        """As `close`: each line is on its way to the disk already."""
        self._file.close()


def read_log(path: Path) -> tuple[Header, Trajectory]:
    """The header and the path of a film. A last line cut short is left out. Raises ValueError naming the line."""
    if not path.is_file():
        raise ValueError(f"there is no {path.name} beside the film: only flights recorded with it have poses")
    lines: list[tuple[Array, Intrinsics]] = []
    header = None
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE), ""), start=1):
            if not line.endswith("\n") and len(line) < MAX_LINE:
                break
            try:
                if header is None:
                    header = _header(json.loads(line))
                else:
                    lines.append(_frame(json.loads(line)))
            except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
                raise ValueError(f"{path}, line {number} is not from a flight: record it again") from None
            if len(lines) > MAX_FRAMES:
                raise ValueError(f"{path} has more than {MAX_FRAMES} frames: cut it")
    if header is None or not lines:
        raise ValueError(f"{path} holds no frames: the flight ended before its first")
    poses = np.stack([pose for pose, _ in lines])
    try:
        return header, Trajectory(poses=poses, intrinsics=tuple(k for _, k in lines))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _header(data: Any) -> Header:
    if data["kind"] != KIND or data["version"] != VERSION:
        raise ValueError(data["kind"])
    fps, world = float(data["fps"]), str(data["world"])[:100]
    if not 1 <= fps <= 240:
        raise ValueError(fps)
    return Header(fps=fps, world=world, clean=bool(data["clean"]))


def _frame(data: Any) -> tuple[Array, Intrinsics]:
    pose = np.eye(4)
    pose[:3] = np.array(data["pose"], np.float64).reshape(3, 4)
    fx, fy, cx, cy, width, height = (float(v) for v in data["k"])
    k = Intrinsics(fx=fx, fy=fy, cx=cx, cy=cy, width=int(width), height=int(height))
    if not (np.isfinite(pose).all() and fx > 0 and fy > 0 and 0 < width < 2**16 and 0 < height < 2**16):
        raise ValueError("out of range")
    return pose, k
