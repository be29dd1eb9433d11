"""A window without a screen: SDL's offscreen driver, whose context is EGL's, as on native Wayland."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from explorer import opengl
from tests.tiny import tiny_assets

ROOT = Path(__file__).parent.parent
PICTURE = """
import sys
import numpy as np
from explorer.window import Window
from explorer.display import Display
window = Window((320, 240), title="t", speed=4.0)
display = Display(window.size)
display.still(np.load(sys.argv[1]))
shown = display.draw(read=True)
window.never_wait()
assert (display.draw(read=True) == shown).all()
np.save(sys.argv[2], shown)
window.close()
Display(Window((64, 64), title="another", speed=4.0).size)
"""


def bare(**more: str) -> dict[str, str]:
    """The environment of a machine without a screen."""
    kept = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")}
    return {**kept, "PYTHONPATH": str(ROOT), "PYGAME_HIDE_SUPPORT_PROMPT": "1", **more}


@pytest.fixture
def offscreen(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    env = bare(SDL_VIDEODRIVER="offscreen")
    monkeypatch.setenv("SDL_VIDEODRIVER", "offscreen")
    if not opengl.examined():
        pytest.skip("no OpenGL window opens off screen: install libegl1")
    return env


def test_nothing_is_run_from_the_folder_one_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("moderngl.py").write_text("open('ran', 'w')")
    opengl.examined()
    assert not Path("ran").exists()


@pytest.mark.window
def test_a_picture_comes_out_as_it_went_in(offscreen: dict[str, str], tmp_path: Path) -> None:
    """Letter-boxed, upright, the right colours, whatever the context was made with."""
    picture = np.zeros((64, 128, 3), np.uint8)
    picture[:32, :64], picture[:32, 64:], picture[32:, :64], picture[32:, 64:] = (
        (200, 30, 10), (10, 180, 40), (20, 60, 220), (240, 240, 30),
    )  # fmt: skip
    np.save(tmp_path / "in.npy", picture)
    command = [sys.executable, "-W", "ignore", "-c", PICTURE, tmp_path / "in.npy", tmp_path / "out.npy"]
    done = subprocess.run(command, env=offscreen, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    shown = np.load(tmp_path / "out.npy")
    assert shown.shape == (240, 320, 3)
    for y, x in ((60, 50), (60, 270), (180, 50), (180, 270)):  # far from where colours meet
        drawn = picture[int((y - 40) / 160 * 64), int(x / 320 * 128)]
        assert np.abs(shown[y, x].astype(int) - drawn).max() <= 1
    assert shown[20].max() < 40
    assert shown[220].max() < 40


@pytest.mark.window
def test_the_bench_measures_without_a_screen_and_without_what_writes_films(
    offscreen: dict[str, str], tmp_path: Path
) -> None:
    assets = tiny_assets(tmp_path / "assets", scenes=1)
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "sitecustomize.py").write_text("import sys\nsys.modules['av'] = None\n")
    env = offscreen | {"WORLD_EXPLORER_ASSETS": str(assets), "HOME": str(tmp_path)}
    env["PYTHONPATH"] = f"{ROOT}{os.pathsep}{tmp_path / 'without'}"
    command = [sys.executable, "-m", "explorer.app", "bench", "latency", "--seconds", "2", "--out", "l.json"]
    done = subprocess.run(
        [*command, "--size", "320x200", "--device", "cpu", "--threads", "1"],
        env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "l.json").read_text())
    assert report["frames"] > 0
    assert report["renderer"] == opengl.examined()
    assert report["window"] == [320, 200]
    assert report["latency"]["input to generated"]["count"] > 0
    assert report["refresh_ms"]["count"] > 0


def test_nobody_gets_an_invisible_window_by_accident() -> None:
    """Without a screen SDL falls back on this driver by itself; then there is no window."""
    code = "from explorer.window import Window; Window((64, 64), title='t', speed=1.0)"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=bare(DISPLAY=":98765"), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode != 0
    assert "explorer serve" in done.stderr
