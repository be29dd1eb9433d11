"""Films begun and ended in flight: whole on the disk, told once, refused in one sentence."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from engine.camera import Intrinsics, Pose
from engine.frame import Frame
from explorer.filming import Filming
from explorer.messages import Ready
from explorer.recorder import decoded
from explorer.recording import Films

SPEC = Ready(name="pocket", width=64, height=40, fps=16, chunk_frames=8, memory="")
LENS = Intrinsics.from_fov(1.2, width=64, height=40)


def frames(count: int) -> list[Frame]:
    pixels = np.zeros((40, 64, 3), np.uint8)
    return [Frame(pixels=pixels, pose=Pose(), intrinsics=LENS, index=i, world="1") for i in range(count)]


def test_one_film_after_the_other(tmp_path: Path) -> None:
    said: list[str] = []
    done: list[tuple[str, bool]] = []
    filming = Filming(
        Films(folder=tmp_path / "films"),
        say=said.append,
        done=lambda words, whole: done.append((words, whole)),
    )
    filming.add(frames(3), None)  # nothing is filmed yet
    for count in (3, 5):
        filming.begin(SPEC)
        filming.add(frames(count), None)
        filming.stop()
        assert filming.frames is None
    deadline = time.monotonic() + 20
    while len(done) < 2 and time.monotonic() < deadline:
        filming.saved()
        time.sleep(0.01)
    filming.close()
    films = sorted((tmp_path / "films").glob("*.mp4"))
    assert sorted(sum(1 for _ in decoded(film)) for film in films) == [3, 5]
    assert sorted(done) == sorted((f"Saved {film.name}", True) for film in films)
    assert len(said) == 2


def test_a_film_under_way_is_finished_at_the_end(tmp_path: Path) -> None:
    done: list[tuple[str, bool]] = []
    filming = Filming(
        Films(folder=tmp_path), say=lambda line: None, done=lambda words, whole: done.append((words, whole))
    )
    filming.begin(SPEC)
    filming.add(frames(4), None)
    filming.close()
    (film,) = tmp_path.glob("*.mp4")
    assert sum(1 for _ in decoded(film)) == 4
    assert done == [(f"Saved {film.name}", True)]


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "films").touch()
    filming = Filming(Films(folder=tmp_path / "films"), say=lambda line: None, done=lambda words, whole: None)
    with pytest.raises(ValueError, match="cannot write to"):
        filming.begin(SPEC)
    assert filming.frames is None
