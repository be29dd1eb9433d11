"""Recordings of a real window, flown with keys that the settings bind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from explorer.flightlog import log_path, read_log
from explorer.recorder import decoded
from tests.test_window import needs_screen, wait
from tests.tiny import screen, tiny_assets

SETTINGS = """
[keys]
forward = ["i", "keypad 8"]
record = "f4"
[recording]
folder = "{folder}"
hud = true
"""


@needs_screen
@pytest.mark.window
def test_bound_keys_record_the_window_and_a_killed_one_is_whole(tmp_path: Path) -> None:
    """Two recordings: one ended by its key, one by kill -9 a second after its last frame."""
    assets, folder = tiny_assets(tmp_path / "assets", scenes=1), tmp_path / "films"
    config = tmp_path / ".config" / "world-explorer"
    config.mkdir(parents=True)
    (config / "settings.toml").write_text(SETTINGS.format(folder=folder))
    with screen("640x400") as env:
        env |= {"WORLD_EXPLORER_ASSETS": str(assets), "PYTHONPATH": str(Path(__file__).parent.parent)}
        env |= {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / ".config")}
        command = ["fly", "--threads", "1", "--device", "cpu", "--size", "640x400", "--export"]
        program = subprocess.Popen(
            [sys.executable, "-m", "explorer.app", *command, str(tmp_path / "exports")], env=env
        )
        key = lambda *words: subprocess.run(["xdotool", *words], check=True, env=env)
        logs = lambda: sorted(folder.glob("*.poses.jsonl")) if folder.exists() else []
        lines = lambda n: len(logs()) == n and len(logs()[-1].read_text().splitlines())

        def recording() -> bool:
            if not logs():
                key("key", "F4")  # again: a key pressed before the window has focus is lost
            key("keydown", "i")
            return bool(logs())

        try:
            wait(recording, "no recording began", pause=1.0)
            wait(lambda: lines(1) > 10, "the first recording has no frames")
            key("key", "F4")
            wait(lambda: list(tmp_path.glob("exports/*/trajectory.npy")), "nothing was exported")
            key("key", "F4")
            wait(lambda: lines(2) > 40, "the second recording has no frames")
            program.send_signal(signal.SIGKILL)
            program.wait()
        finally:
            program.kill()
    first, second = sorted(folder.glob("*.mp4"))
    frames = list(decoded(first))
    header, path = read_log(log_path(first))
    assert not header.clean
    assert len(frames) == len(path)
    (exported,) = tmp_path.glob("exports/*/trajectory.npy")
    np.testing.assert_allclose(np.load(exported), path.poses, atol=1e-9)
    assert path.poses[-1, 2, 3] > path.poses[0, 2, 3]  # the key bound to forward flew
    assert frames[-1].shape == (400, 640, 3)
    corner = frames[-1][:60, 480:].astype(int)
    assert (corner[..., 0] - corner[..., 1:].max(axis=2)).max() > 60  # the red dot, as H.264 keeps its colour
    written = len(read_log(log_path(second))[1])
    assert written - 16 <= len(list(decoded(second))) <= written
