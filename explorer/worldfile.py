""".world files: a flight that goes on where it was left. docs/world-file.md describes every field.

Such a file is a kept state (see `flight`) with what people want to see of it: pictures, the way, the words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine import container
from explorer.flight import FARTHEST, read_intrinsics, read_pilot, read_prompt
from explorer.reel import THUMBNAIL
from explorer.timeline import Rows

if TYPE_CHECKING:
    from explorer.assets import Scene

SUFFIX = ".world"
THUMBNAILS = 32  # of the way, at most
LONGEST_NAME = 200  # characters of a title
MOST_WORDS = 64

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Past:
    """What was before a flight was opened, and belongs to it when it is saved again."""

    path: Path  # of the state
    record: Mapping[str, Any]  # says which model and weights
    index: int  # of the last frame
    picture: Pixels  # [Y, X, 3] the first one
    trajectory: Rows  # [n, 7] poses of all frames so far
    thumbnails: Pixels  # [k, 40, 64, 3] spread over the way


def write_world(
    path: Path,
    state: Path,
    *,
    scene: Scene,
    picture: Pixels,
    shown: Pixels,
    trajectory: Rows,
    thumbnails: Sequence[Pixels],
) -> int:
    """Save the flight whose state lies in `state`. Returns the bytes. Raises ValueError: one sentence.

    picture, shown: [Y, X, 3] the first frame and the last.  trajectory: [n, 7].  thumbnails: up to 32 of the way.
    """
    arrays, record = container.read(state)
    small = np.stack(thumbnails) if thumbnails else np.zeros((0, THUMBNAIL[1], THUMBNAIL[0], 3), np.uint8)
    arrays |= {"picture": picture, "shown": shown, "trajectory": trajectory, "thumbnails": small}
    record |= {
        "title": scene.title[:LONGEST_NAME],
        "words": None if scene.words is None else list(scene.words),
        "seed": scene.seed,
    }
    try:
        return container.write(path, arrays, record)
    except OSError as error:
        raise ValueError(f"cannot write {path} ({error.strerror}): choose another place") from None


def open_world(path: Path) -> Scene:
    """A scene that goes on where the file was saved. Raises ValueError: one sentence."""
    from explorer.assets import Scene

    arrays, record = container.read(path, without="state.")
    try:
        read_prompt(record)
        k = read_intrinsics(record)
        shape = (k.height, k.width, 3)
        picture, shown = (_pixels(arrays, name, shape) for name in ("picture", "shown"))
        index = record.get("index")
        trajectory = _trajectory(arrays, index)
        title, words, seed = _words(record)
        thumbnails = _pixels(arrays, "thumbnails", (None, THUMBNAIL[1], THUMBNAIL[0], 3))
        pose = read_pilot(arrays).pose
    except ValueError as error:
        raise ValueError(f"{path} cannot be opened: {error}") from None
    past = Past(
        path=path.resolve(),
        record=record,
        index=len(trajectory) - 1,
        picture=picture,
        trajectory=trajectory,
        thumbnails=thumbnails[:THUMBNAILS],
    )
    return Scene(
        name=path.stem, title=title, rgb=shown, intrinsics=k, pose=pose, words=words, seed=seed, past=past
    )


def _pixels(arrays: Mapping[str, NDArray[Any]], name: str, shape: tuple[int | None, ...]) -> Pixels:
    a = arrays.get(name)
    if a is None or a.dtype != np.uint8 or a.ndim != len(shape):
        raise ValueError(f"it holds no {name}")
    if any(want not in (None, got) for want, got in zip(shape, a.shape, strict=True)):
        raise ValueError(f"its {name} has the shape {a.shape}")
    return a


def _trajectory(arrays: Mapping[str, NDArray[Any]], index: object) -> Rows:
    """One pose per frame; `index` is that of the frame to come."""
    rows = arrays.get("trajectory")
    if rows is None or rows.dtype != np.float64 or rows.ndim != 2 or rows.shape[1] != 7 or len(rows) != index:
        raise ValueError("its trajectory does not fit its frames")
    norms = np.linalg.norm(rows[:, 3:], axis=1)
    if not (np.abs(rows) < FARTHEST).all() or not (np.abs(norms - 1.0) < 1e-3).all():
        raise ValueError("its trajectory holds what is no pose")
    return np.array(rows)


def _words(record: Mapping[str, Any]) -> tuple[str, tuple[int, ...] | None, int]:
    title, words, seed = record.get("title"), record.get("words"), record.get("seed")
    if not isinstance(title, str) or len(title) > LONGEST_NAME or not title.isprintable():
        raise ValueError("its title is no line of text")
    if words is not None and (
        not isinstance(words, list)
        or len(words) > MOST_WORDS
        or not all(type(word) is int and 0 <= word < 1 << 31 for word in words)
    ):
        raise ValueError("its words are no list of numbers")
    if type(seed) is not int or not 0 <= seed < 1 << 63:
        raise ValueError(f"its seed is {seed!r}")
    return title, None if words is None else tuple(words), seed
