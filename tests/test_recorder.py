"""Films that survive a killed program; pictures on disk."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from explorer.recorder import (
    Recorder,
    contact_sheet,
    fitted,
    pick_evenly,
    require_writable,
    save_png,
    stamped,
)


def frames_of(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as film:
        return [f.to_ndarray(format="rgb24") for f in film.decode(video=0)]


def picture(i: int) -> np.ndarray:
    return np.full((96, 128, 3), (i * 20 % 256, 128, 255 - i * 20 % 256), np.uint8)


def test_a_film_holds_every_frame_at_its_rate(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with Recorder(path, fps=16) as film:
        for i in range(12):
            film.add(picture(i))
    frames = frames_of(path)
    assert len(frames) == 12
    assert max(np.abs(f.astype(int) - picture(i)).mean() for i, f in enumerate(frames)) < 4
    with av.open(str(path)) as film_file:
        assert film_file.streams.video[0].average_rate == 16
        assert film_file.streams.video[0].codec_context.pix_fmt == "yuv420p"


def test_a_killed_recording_is_playable(tmp_path: Path) -> None:
    path = tmp_path / "cut.mp4"
    code = (
        "import sys, time, numpy as np; from pathlib import Path; from explorer.recorder import Recorder\n"
        "film = Recorder(Path(sys.argv[1]), fps=16)\n"
        "for i in range(50): film.add(np.full((160, 256, 3), i, np.uint8))\n"
        "print('written', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"written\n"
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert 50 - 2 * 8 <= len(frames_of(path)) <= 50


def test_no_frame_no_file(tmp_path: Path) -> None:
    with Recorder(tmp_path / "none.mp4", fps=16):
        pass
    assert list(tmp_path.iterdir()) == []


def test_size_is_kept_and_letter_boxed(tmp_path: Path) -> None:
    with Recorder(tmp_path / "a.mp4", fps=16, size=(320, 160)) as film:
        film.add(picture(3))
    (frame,) = frames_of(tmp_path / "a.mp4")
    assert frame.shape == (160, 320, 3)
    assert frame[:, :20].max() < 30


def test_fitted_keeps_the_shape_of_things() -> None:
    out = fitted(np.full((10, 20, 3), 200, np.uint8), 100, 100)
    assert (out[25:75] == 200).all()
    assert not out[:24].any()


def test_sheet_places_pictures_row_by_row() -> None:
    sheet = contact_sheet([picture(i) for i in range(5)], columns=3, gap=2)
    assert sheet.shape == (2 * 98 + 2, 3 * 130 + 2, 3)
    assert (sheet[2 + 98 + 5, 2 + 130 + 5] == picture(4)[0, 0]).all()


def test_pick_evenly() -> None:
    assert pick_evenly(100, 3) == [0, 50, 99]
    assert pick_evenly(2, 16) == [0, 1]
    assert pick_evenly(0, 16) == []


def test_png_round_trip_and_new_names(tmp_path: Path) -> None:
    path = stamped(tmp_path / "new", ".png")
    save_png(path, picture(7))
    assert (cv2.imread(str(path))[..., ::-1] == picture(7)).all()
    assert stamped(tmp_path / "new", ".png") != path


def test_unwritable_places_are_named(tmp_path: Path) -> None:
    for bad in (tmp_path / "no" / "such" / "a.mp4", tmp_path, tmp_path / "a.avi", Path("/proc/a.mp4")):
        with pytest.raises(ValueError, match=str(bad)):
            require_writable(bad, suffix=".mp4")
    require_writable(tmp_path / "fine.mp4", suffix=".mp4")
    assert list(tmp_path.iterdir()) == []
