"""Files that come with the program: gallery scenes and weights, in a checkout as in an installed wheel."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from engine.camera import Intrinsics, Pose
from engine.config import WORLDS
from engine.depthfile import read_depth
from engine.picture import Picture, load_picture, prepare_depth, prepare_picture

if TYPE_CHECKING:
    from explorer.worldfile import Past

BLANK = (23, 26, 31)  # RGB, until there is a picture


def assets_folder() -> Path:
    """WORLD_EXPLORER_ASSETS if set, else the folder `assets` beside the packages. Raises ValueError if absent."""
    chosen = os.environ.get("WORLD_EXPLORER_ASSETS")
    folder = Path(chosen) if chosen else Path(__file__).resolve().parent.parent / "assets"
    if not folder.is_dir():
        raise ValueError(f"there is no assets folder at {folder}: reinstall, or set WORLD_EXPLORER_ASSETS")
    return folder


class Start(TypedDict):
    """What a flight is begun with: arguments of `start` of a world and of `begin` of its process."""

    picture: NDArray[np.uint8] | None  # [Y, X, 3] at the world's size; None: the world has yet to draw it
    pose: Pose
    intrinsics: Intrinsics
    words: tuple[int, ...] | None
    seed: int
    inverse_depth: NDArray[np.float16] | None  # [Y, X]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Where a flight can begin: a picture, seen from somewhere."""

    name: str
    title: str
    rgb: NDArray[np.uint8]  # [Y, X, 3]
    intrinsics: Intrinsics  # of rgb
    pose: Pose = field(default_factory=Pose)
    words: tuple[int, ...] | None = None  # None: the null word in every slot
    seed: int = 0
    inverse_depth: NDArray[np.float16] | None = None  # [Y, X] of rgb, 1/m, sky 0; None: nobody knows
    drawn: bool = True  # False: there are words only, and rgb is blank until the world has drawn it
    past: Past | None = None  # of an opened .world file: the flight goes on from there

    def picture(self, width: int, height: int) -> tuple[NDArray[np.uint8], Intrinsics]:
        """The first picture at a world's size, and its intrinsics there."""
        return prepare_picture(self.rgb, self.intrinsics, width=width, height=height)

    def depth(self, width: int, height: int) -> NDArray[np.float16] | None:
        """The inverse depth of `picture`, fp16 [height, width]; None where nobody knows it."""
        if self.inverse_depth is None:
            return None
        return prepare_depth(self.inverse_depth, width=width, height=height)

    def start(self, width: int, height: int) -> Start:
        """All of it at a world's size."""
        picture, intrinsics = self.picture(width, height)
        return Start(
            picture=picture if self.drawn else None,
            pose=self.pose,
            intrinsics=intrinsics,
            words=self.words,
            seed=self.seed,
            inverse_depth=self.depth(width, height),
        )

    def shown(self, picture: NDArray[np.uint8], inverse_depth: NDArray[np.float16]) -> Scene:
        """The scene once the world has drawn it, at its own size."""
        height, width = picture.shape[:2]
        lens = self.picture(width, height)[1]
        return replace(self, rgb=picture, intrinsics=lens, inverse_depth=inverse_depth, drawn=True)


def photograph(path: Path, *, fov: float | None = None, seed: int = 0) -> Scene:
    """Any picture file as a scene; it starts level. fov: horizontal, degrees. Raises ValueError."""
    picture = load_picture(path)
    title = path.stem.replace("_", " ").replace("-", " ")
    return Scene(name=path.stem, title=title, rgb=picture.rgb, intrinsics=picture.intrinsics(fov), seed=seed)


def imagined(prompt: str, *, fov: float | None = None, seed: int = 0) -> Scene:
    """A place of which there are only words; it starts level. fov: horizontal, degrees. Raises ValueError for unknown words."""
    from engine.words import parse

    spec = WORLDS["pocket"]
    rgb = np.full((spec.height, spec.width, 3), BLANK, np.uint8)
    words, title = tuple(int(word) for word in parse(prompt)), " ".join(prompt.split())
    return Scene(
        name="-".join(title.lower().split()) or "anywhere",
        title=title[:1].upper() + title[1:] or "Anywhere",
        rgb=rgb,
        intrinsics=Picture(rgb=rgb).intrinsics(fov),
        words=words,
        seed=seed,
        drawn=False,
    )


def load_gallery(folder: Path) -> tuple[Scene, ...]:
    """The scenes of `folder`/gallery.json, each with its picture. Raises ValueError naming what is wrong."""
    index = folder / "gallery.json"
    try:
        entries = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read the gallery {index} ({error}): reinstall the program") from None
    entries = entries.get("scenes", entries) if isinstance(entries, dict) else entries
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"the gallery {index} holds no scenes: reinstall the program")
    try:
        return tuple(_scene(folder, entry) for entry in entries)
    except (KeyError, TypeError, ValueError, AttributeError, np.linalg.LinAlgError) as error:
        raise ValueError(f"the gallery {index} is damaged ({error}): reinstall the program") from None


def _scene(folder: Path, entry: Mapping[str, Any]) -> Scene:
    name, picture = str(entry["name"]), str(entry["picture"])
    depth = None if entry.get("depth") is None else str(entry["depth"])
    for file in (picture, depth or picture):
        if Path(file).name != file:
            raise ValueError(f"'{file}' is no plain file name")
    rgb = load_picture(folder / picture).rgb
    fx, fy, cx, cy = (float(v) for v in entry["intrinsics"])
    height, width = rgb.shape[:2]
    words = entry.get("words")
    return Scene(
        name=name,
        title=str(entry["title"]),
        rgb=rgb,
        intrinsics=Intrinsics(fx=fx, fy=fy, cx=cx, cy=cy, width=width, height=height),
        pose=Pose.from_matrix(np.asarray(entry["pose"], dtype=np.float64).reshape(4, 4)),
        words=tuple(int(w) for w in words) if words else None,
        seed=int(entry.get("seed", 0)),
        inverse_depth=None if depth is None else read_depth(folder / depth, width=width, height=height),
    )
