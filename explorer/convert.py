"""`explorer convert`: trajectories between action dialects, axis conventions and the files of other programs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from engine.camera import Intrinsics
from engine.config import FPS
from explorer.actions import as_actions
from explorer.axes import NAMES
from explorer.colmap import write_colmap
from explorer.dialect import DIALECTS, MAX_TEXT, Motion, roll_out
from explorer.path import (
    read_colmap,
    read_nerfstudio,
    read_npy,
    readable,
    whole_file,
    write_nerfstudio,
    write_npy,
)
from explorer.trajectory import Trajectory

FORMATS = (*DIALECTS, *NAMES, "nerfstudio", "colmap")
_CHOICES = f"action strings: {', '.join(DIALECTS)}; .npy: {', '.join(NAMES)}; also nerfstudio, colmap"


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Convert a camera path, both sides named: nothing about axes or keys is guessed.

    Action strings, in the dialect of the program that reads them: sana, sglang, diffusers, flashdreams.
    Poses [N, 4, 4] in a .npy file, by their axes: opencv (ours, camera-to-world), opengl, blender, unity; each with
    -w2c for world-to-camera. Also nerfstudio (transforms.json) and colmap (folder of the text model or images.txt).

    An action string in another dialect is written only where its keys make the same poses.
    Example: explorer convert w-48,dw-32 path.npy --from sana --to opengl
    """

    source: Annotated[str, Positional, arg(metavar="IN")]
    """a file, or an action string such as w-48,dw-32"""
    target: Annotated[str, Positional, arg(metavar="OUT")]
    """the file (for colmap: folder) to write; - prints an action string"""
    read_as: Annotated[str, arg(name="from", metavar="NAME")]
    """what IN is"""
    write_as: Annotated[str, arg(name="to", metavar="NAME")]
    """what OUT is to be"""
    step: Annotated[float | None, arg(metavar="UNITS", help_behavior_hint="")] = None
    """of an action string read: distance per frame; default: the dialect's own"""
    turn: Annotated[float | None, arg(metavar="DEGREES", help_behavior_hint="")] = None
    """of an action string read: turn per frame; default: the dialect's own"""
    to_step: Annotated[float | None, arg(metavar="UNITS", help_behavior_hint="")] = None
    """of an action string written: distance per frame; default: the dialect's own"""
    to_turn: Annotated[float | None, arg(metavar="DEGREES", help_behavior_hint="")] = None
    """of an action string written: turn per frame; default: the dialect's own"""
    fov: Annotated[float | None, arg(metavar="DEGREES", help_behavior_hint="")] = None
    """horizontal field of view, where IN knows none and OUT wants one"""
    size: Annotated[str | None, arg(metavar="WxH", help_behavior_hint="")] = None
    """pixels of the pictures, with --fov"""

    def __post_init__(self) -> None:
        for flag, name in (("--from", self.read_as), ("--to", self.write_as)):
            if name not in FORMATS:
                raise ValueError(f"{flag} {name} is unknown: use one of {_CHOICES}")
        if (self.fov is None) != (self.size is None):
            raise ValueError("--fov and --size describe one camera: give both")
        if self.fov is not None and not (math.isfinite(self.fov) and 1 <= self.fov <= 170):
            raise ValueError(f"--fov {self.fov:g}° is out of range: use 1 to 170")
        for flag, used in (("step", self.read_as), ("turn", self.read_as), ("to-step", self.write_as), ("to-turn", self.write_as)):  # fmt: skip
            if getattr(self, flag.replace("-", "_")) is not None and used not in DIALECTS:
                raise ValueError(f"--{flag} is for action strings and {used} is none: leave it out")

    def run(self) -> str:
        """Read, convert, write. Returns a sentence about what was done, or the action string for OUT -."""
        trajectory = self._with_camera(self._read())
        if self.write_as in DIALECTS:
            motion = _motion(self.write_as, self.to_step, self.to_turn)
            text = as_actions(trajectory, dialect=self.write_as, motion=motion)
            if self.target == "-":
                return text
            _write(
                Path(self.target),
                lambda path: whole_file(path, lambda part: part.write_text(text + "\n", encoding="utf-8")),
            )
        elif self.target == "-":
            raise ValueError(f"OUT - prints action strings and {self.write_as} is a file: name one")
        else:
            _write(Path(self.target), lambda path: self._save(path, trajectory))
        return f"{len(trajectory)} poses from {self.read_as} to {self.write_as}: {self.target}"

    def _read(self) -> Trajectory:
        if self.read_as in DIALECTS:
            motion = _motion(self.read_as, self.step, self.turn)
            return Trajectory(poses=roll_out(_text(self.source), dialect=self.read_as, motion=motion))
        path = Path(self.source)
        if self.read_as == "colmap" and path.is_dir():
            path = path / "images.txt"
        path = readable(path)
        if self.read_as == "colmap":
            return read_colmap(path)
        return read_nerfstudio(path) if self.read_as == "nerfstudio" else read_npy(path, axes=self.read_as)

    def _with_camera(self, trajectory: Trajectory) -> Trajectory:
        if self.fov is None or self.size is None or trajectory.intrinsics is not None:
            return trajectory
        from explorer.fly import parse_size

        width, height = parse_size(self.size)
        k = Intrinsics.from_fov(math.radians(self.fov), width=width, height=height)
        return replace(trajectory, intrinsics=(k,) * len(trajectory))

    def _save(self, path: Path, trajectory: Trajectory) -> None:
        if self.write_as == "colmap":
            write_colmap(path, trajectory)
        elif self.write_as == "nerfstudio":
            write_nerfstudio(_ending(path, ".json"), trajectory, images="images/{:05d}.png")
        else:
            write_npy(_ending(path, ".npy"), trajectory, axes=self.write_as)


def _motion(dialect: str, step: float | None, turn: float | None) -> Motion:
    """The dialect's own, with what was asked for per frame."""
    own = DIALECTS[dialect].motion
    return replace(
        own, speed=own.speed if step is None else step * FPS, turn=own.turn if turn is None else turn * FPS
    )


def _text(source: str) -> str:
    """An action string as it stands, or that of a text file."""
    if not source.lower().endswith(".txt"):
        return source
    path = readable(Path(source))
    with path.open("rb") as file:
        data = file.read(4 * MAX_TEXT + 1)
    try:
        return data.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text: give a file that holds one action string") from None


def _ending(path: Path, suffix: str) -> Path:
    if path.suffix.lower() != suffix:
        raise ValueError(f"{path} does not end in {suffix}: name the file something{suffix}")
    return path


def _write(path: Path, write: Callable[[Path], None]) -> None:
    try:
        write(path)
    except OSError as error:
        raise ValueError(f"cannot write {path} ({error.strerror}): choose another place") from None
