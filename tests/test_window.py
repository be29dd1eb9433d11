"""A real window on a private X server, flown with synthetic keys, with a real engine of tiny random weights."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import psutil
import pytest

from explorer.bench.latency import HELD, script
from explorer.display import letter_box
from tests.tiny import hills, screen, tiny_assets

needs_screen = pytest.mark.skipif(
    not (shutil.which("Xvfb") and shutil.which("xdotool")), reason="Xvfb and xdotool are not installed"
)


def test_letter_box_is_centred_and_keeps_the_shape() -> None:
    assert letter_box((256, 160), (1280, 800)) == (0, 0, 1280, 800)
    assert letter_box((256, 160), (1280, 1000)) == (0, 100, 1280, 800)
    assert letter_box((256, 160), (1000, 320)) == (244, 0, 512, 320)


def test_the_script_presses_one_key_at_a_time_and_lets_go() -> None:
    presses = script(20.0)
    assert presses == script(20.0)
    assert all(a.at < b.at for a, b in pairwise(presses))
    for down, up in zip(presses[::2], presses[1::2], strict=True):
        assert (down.down, up.down, down.key) == (True, False, up.key)
        assert HELD[0] <= up.at - down.at <= HELD[1]
    assert presses[-1].at <= 20.0


def wait(condition: Callable[[], object], what: str, seconds: float = 60.0, pause: float = 0.1) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(pause)


def grab(env: dict[str, str], path: Path) -> np.ndarray:
    """The screen, [Y, X, 3] BGR."""
    command = ["ffmpeg", "-loglevel", "error", "-y", "-f", "x11grab", "-video_size", "1280x800"]
    subprocess.run([*command, "-i", env["DISPLAY"], "-frames:v", "1", str(path)], check=True, env=env)
    picture = cv2.imread(str(path))
    assert picture is not None
    return picture


@needs_screen
@pytest.mark.window
def test_a_flight_from_the_gallery_to_ctrl_c(tmp_path: Path) -> None:
    assets = tiny_assets(tmp_path / "assets")
    root = Path(__file__).parent.parent
    with screen() as env:
        env |= {"WORLD_EXPLORER_ASSETS": str(assets), "PYTHONPATH": str(root), "HOME": str(tmp_path)}
        (tmp_path / "Pictures").mkdir()
        flights = tmp_path / "Pictures" / "world-explorer"
        key = lambda *words: subprocess.run(["xdotool", *words], check=True, env=env)
        shot = lambda: grab(env, tmp_path / "screen.png")
        program = subprocess.Popen(
            [sys.executable, "-m", "explorer.app", "fly", "--threads", "1", "--device", "cpu"],
            env=env,
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            wait(lambda: shot().max() > 200, "the gallery did not appear")

            def begun() -> bool:
                key("key", "Return")  # again and again: a key pressed before the window has focus is lost
                return bool(np.abs(shot()[40, 60] - sky).max() < 12)  # beside the help of a first flight

            sky = hills(0)[19, 29].astype(int)  # the middle of the picture fills the window, the right way up
            wait(begun, "the picture did not appear")
            key("keydown", "w")
            wait(lambda: np.abs(shot()[40, 60] - sky).max() > 12, "no generated frame appeared")
            key("key", "F9")
            wait(lambda: list(flights.glob("*.mp4")), "no recording was begun")
            key("key", "F9")
            key("key", "F12")
            wait(lambda: list(flights.glob("*.png")), "no screenshot was written")
            key("key", "F9")
            wait(lambda: len(list(flights.glob("*.mp4"))) == 2, "no second recording was begun")
            children = psutil.Process(program.pid).children(recursive=True)
            assert children
            program.send_signal(signal.SIGINT)
            _, err = program.communicate(timeout=20)
        finally:
            program.kill()
    assert program.returncode == 130
    assert "Traceback" not in err
    assert "generated per second" in err
    _gone, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    for path in flights.glob("*.mp4"):
        with av.open(str(path)) as film:
            assert sum(1 for _ in film.decode(video=0)) > 0
    assert cv2.imread(str(next(flights.glob("*.png")))).shape == (800, 1280, 3)


@needs_screen
@pytest.mark.window
def test_bench_latency_measures_a_scripted_flight(tmp_path: Path) -> None:
    """Real window, real engine process: every input is found on the screen, and its parts add up."""
    assets = tiny_assets(tmp_path / "assets", scenes=2)
    with screen() as env:
        env |= {"WORLD_EXPLORER_ASSETS": str(assets), "PYTHONPATH": str(Path(__file__).parent.parent)}
        command = [
            sys.executable,
            "-m",
            "explorer.app",
            "bench",
            "latency",
            "--seconds",
            "3",
            "--out",
            "l.json",
        ]
        done = subprocess.run(
            [*command, "--seconds", "3", "--size", "480x300", "--device", "cpu"],
            env=env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    assert "input to reprojected" in done.stdout
    report = json.loads((tmp_path / "l.json").read_text())
    inputs = len(script(3.0))
    seen, made = (report["latency"][f"input to {kind}"] for kind in ("reprojected", "generated"))
    assert seen["count"] == made["count"] == inputs
    assert 0 < seen["p50_ms"] <= seen["p95_ms"]
    assert seen["p50_ms"] < made["p50_ms"]
    assert {"wait", "denoise", "decode", "other", "transfer", "queue", "present"} < set(report["latency"])


@needs_screen
@pytest.mark.window
def test_closing_the_window_leaves_nothing_behind(tmp_path: Path) -> None:
    assets = tiny_assets(tmp_path / "assets", scenes=1)
    with screen() as env:
        env |= {"WORLD_EXPLORER_ASSETS": str(assets), "PYTHONPATH": str(Path(__file__).parent.parent)}
        program = subprocess.Popen(
            [sys.executable, "-m", "explorer.app", "fly", "--device", "cpu"], env=env, stderr=subprocess.PIPE
        )
        try:
            wait(lambda: grab(env, tmp_path / "s.png").max() > 100, "no window appeared")
            children = psutil.Process(program.pid).children(recursive=True)

            def leave() -> bool:
                subprocess.run(["xdotool", "key", "Escape"], check=True, env=env)
                return program.poll() is not None

            wait(leave, "Esc, Esc did not close the window")
            _, err = program.communicate()
        finally:
            program.kill()
    assert program.returncode == 0, err
    _gone, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
