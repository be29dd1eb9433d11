"""Time in the hands of the pilot: a real window, real keys, a real engine of tiny random weights."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.engine import Engine
from explorer.assets import load_gallery
from explorer.controls import Steering
from explorer.flight import Flight, save_flight
from explorer.fly import Fly
from explorer.pilot import PilotState
from explorer.timeline import pose_row
from explorer.unattended import Plan, frames_of
from explorer.worldfile import open_world, write_world
from tests.test_window import grab, needs_screen, wait
from tests.tiny import screen, tiny_assets


@needs_screen
@pytest.mark.window
def test_rewind_branch_save_open(tmp_path: Path) -> None:
    assets = tiny_assets(tmp_path / "assets", scenes=1)
    with screen() as env:
        env |= {"WORLD_EXPLORER_ASSETS": str(assets), "PYTHONPATH": str(Path(__file__).parent.parent)}
        env |= {"HOME": str(tmp_path)}
        films = tmp_path / "films"
        folder = tmp_path / ".config" / "world-explorer"
        folder.mkdir(parents=True)
        (folder / "settings.toml").write_text(f'[recording]\nfolder = "{films}"\n')
        said = tmp_path / "said"
        key = lambda *words: subprocess.run(["xdotool", *words], check=True, env=env)

        def start(*more: str) -> subprocess.Popen[bytes]:
            command = [
                sys.executable,
                "-m",
                "explorer.app",
                "fly",
                *more,
                "--threads",
                "1",
                "--device",
                "cpu",
            ]
            with said.open("w") as err:
                return subprocess.Popen(command, env=env, cwd=tmp_path, stderr=err)

        def saved() -> list[Path]:
            return sorted(films.rglob("*.world"), key=lambda p: p.stat().st_mtime)

        def save() -> Path:
            before = len(saved())

            def asked() -> bool:
                key("key", "F5")  # again and again: while one is being saved the key does nothing
                return len(saved()) > before

            wait(asked, "the world was not saved")
            return saved()[-1]

        def bookmark() -> bool:
            key("key", "b")
            return "Bookmark 1" in said.read_text()

        program = start()
        try:
            wait(bookmark, "the flight did not begin")
            key("keydown", "w")
            far = save()
            while len(open_world(far).past.trajectory) < 25:  # type: ignore[union-attr]
                far = save()
            key("keyup", "w")
            key("keydown", "BackSpace")
            key("sleep", "0.8")
            key("keyup", "BackSpace")
            key("keydown", "d")
            key("sleep", "0.8")
            branch = save()
            key("key", "p", "keyup", "d")
            program.send_signal(signal.SIGINT)
            assert program.wait(20) == 130, said.read_text()
        finally:
            program.kill()
            program.wait()

        one, two = (open_world(path).past for path in (far, branch))
        assert one is not None
        assert two is not None
        same = (one.trajectory[: two.index + 1] == two.trajectory[: one.index + 1]).all(axis=1)
        fork = int(np.argmin(same)) if not same.all() else len(same)
        assert 0 < fork <= one.index  # it went back behind the first, and shares its beginning
        assert same[:fork].all()

        program = start(str(branch))
        try:
            shown = open_world(branch).rgb.astype(int)
            places = [(y, x) for y in (20, 60) for x in (40, 120, 200)]  # away from the panels

            def opened() -> bool:
                picture = grab(env, tmp_path / "screen.png")[..., ::-1].astype(int)
                return all(np.abs(picture[5 * y + 2, 5 * x + 2] - shown[y, x]).max() < 60 for y, x in places)

            wait(opened, "the saved world did not appear")
            program.send_signal(signal.SIGINT)
            assert program.wait(20) == 130, said.read_text()
        finally:
            program.kill()
            program.wait()


def fly(*arguments: str, assets: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "explorer.app", "fly", *arguments],
        env={
            "WORLD_EXPLORER_ASSETS": str(assets),
            "PYTHONPATH": str(Path(__file__).parent.parent),
            "PATH": "",
        },
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_saved_world_goes_on_without_a_window(tmp_path: Path) -> None:
    """Half a flight, saved and gone on with, shows what the whole one shows."""
    assets = tiny_assets(tmp_path / "assets", scenes=1)
    scene = load_gallery(assets / "gallery")[0]
    engine = Engine.load("pocket", assets=assets, device="cpu", threads=1)
    poses = tuple(replace(scene.pose, t=scene.pose.t + np.array([0.0, 0.0, 0.25 * i])) for i in range(49))
    whole = [f.pixels for f in frames_of(engine, Plan(scene=scene, poses=poses))]
    begun = engine.start(
        scene.rgb, pose=scene.pose, intrinsics=scene.intrinsics, words=scene.words, seed=scene.seed
    )
    state = begun.state
    for first in (1, 9, 17):
        state = engine.step(state, poses[first : first + 8], intrinsics=scene.intrinsics).state
    half = Flight(
        id=1,
        intrinsics=scene.intrinsics,
        state=state,
        pilot=PilotState(poses[24]),
        used=Steering(),
        index=25,
    )
    save_flight(tmp_path / "state", half, engine)
    write_world(
        tmp_path / "half.world",
        tmp_path / "state",
        scene=scene,
        picture=scene.rgb,
        shown=whole[24],
        trajectory=np.array([pose_row(p) for p in poses[:25]]),
        thumbnails=[],
    )
    opened = Fly(image=str(tmp_path / "half.world")).scenes(assets)[0]
    rest = list(frames_of(engine, Plan(scene=opened, poses=poses[24:])))
    assert [f.index for f in rest] == list(range(24, 49))
    assert all(np.array_equal(f.pixels, whole[f.index]) for f in rest)

    (other := tmp_path / "other").mkdir()
    tiny_assets(other / "assets", scenes=1, seed=1)
    for flags, why in (
        (("half.world", "--seed", "3"), "leave out --seed"),
        (("half.world",), "other weights"),
    ):
        out = fly(*flags, assets=other / "assets", cwd=tmp_path)
        assert out.returncode == 2
        assert why in out.stderr


def test_a_file_that_is_no_world_is_refused_in_one_sentence(tmp_path: Path) -> None:
    assets = tiny_assets(tmp_path / "assets", scenes=1)
    (tmp_path / "bad.world").write_bytes(b"no safetensors")
    out = fly("bad.world", assets=assets, cwd=tmp_path)
    assert out.returncode == 2
    assert "bad.world is not a whole flight" in out.stderr
    assert "Traceback" not in out.stderr
