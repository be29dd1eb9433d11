"""Whether the commands fly a path off the ground, and that the way really flown is told, kept and gone on with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.progress import Progress

from engine.camera import Pose
from engine.depthfile import write_depth
from engine.engine import Engine
from explorer.app import main
from explorer.assets import load_gallery
from explorer.flightlog import read_log
from explorer.fly import Fly
from explorer.job import Job
from explorer.path import load_path, write_npy
from explorer.preview import Preview
from explorer.render import Render, _make, request
from explorer.unattended import Plan, frames_of, plan
from tests.planes import frame, plane
from tests.tiny import tiny_assets

LOW = plane((0, 1, 0), (0, -1.5, 0))  # half a metre below the scene's camera


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world that remembers, and a scene close to its ground."""
    folder = tiny_assets(tmp_path_factory.mktemp("world") / "assets", scenes=1, remembers=True)
    index = folder / "gallery" / "gallery.json"
    (scene,) = json.loads(index.read_text())
    depth = frame(Pose(t=np.array([0.0, -2.0, 0.0])), LOW).inverse_depth
    assert depth is not None
    write_depth(folder / "gallery" / "d.png", depth)
    index.write_text(json.dumps([{**scene, "depth": "d.png"}]))
    return folder


@pytest.fixture(scope="module")
def engine(assets: Path) -> Engine:
    """Whose warp is compiled: it draws the same in all flights."""
    made = Engine.load("pocket", assets=assets, device="cpu", threads=1)
    if made._native is not None:
        assert made._native.wait(120)
    return made


@pytest.fixture
def here(assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WORLD_EXPLORER_ASSETS", str(assets))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_keys_are_flown_off_the_ground_and_files_as_written_unless_told_otherwise() -> None:
    def kept(**choice: str) -> bool:
        return Fly(out=Path("a.mp4"), **choice).keeps_off  # type: ignore[arg-type]

    assert kept()
    assert kept(path="w-15")
    for name in ("a.npy", "transforms.json", "images.txt"):
        assert not kept(path=name)
        assert kept(path=name, off_ground="on")
    assert not kept(path="w-15", off_ground="off")
    assert not kept(path="w-15", model="sana-wm")
    for model in ("sana-wm", "sana-wm-bidirectional", "sana-wm-chunk-causal"):
        assert not Render(image="a.png", path="w-8", out=Path("a.mp4"), model=model).fly.keeps_off


def flight(assets: Path, text: str, *, off_ground: bool) -> Plan:
    fly = Fly(path=text, out=Path("a.mp4"), off_ground="on" if off_ground else "off")
    return plan(fly, assets)


def test_a_flight_rises_from_the_ground_and_a_written_one_does_not(assets: Path, engine: Engine) -> None:
    written = flight(assets, "w-24", off_ground=False)
    for a, b in list(zip(frames_of(engine, written), written.poses, strict=True))[1:]:
        assert a.pose is b
    frames = list(frames_of(engine, replace(written, off_ground=True)))
    height = [-f.pose.t[1] - 1.5 for f in frames]
    assert height[0] == pytest.approx(0.5)
    assert height[8] > 0.9
    assert all(f.pose.q == p.q for f, p in zip(frames, written.poses, strict=True))


def test_a_world_without_memory_keeps_off_nothing(tmp_path: Path) -> None:
    assets = tiny_assets(tmp_path / "assets", scenes=1)
    plain = Engine.load("pocket", assets=assets, device="cpu", threads=1)
    told = flight(assets, "w-8", off_ground=True)
    for a, b in list(zip(frames_of(plain, told), told.poses, strict=True))[1:]:
        assert a.pose is b


class Stop(Preview):
    """Ctrl-C when so many parts were shown."""

    def __init__(self, after: int) -> None:
        self.left = after

    def show(self, pictures: np.ndarray, *, fps: float) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def test_a_render_gone_on_with_is_the_same_film(assets: Path, engine: Engine, tmp_path: Path) -> None:
    told = flight(assets, "w-16,dw-8", off_ground=True)

    def made(name: str, told: Plan, preview: Preview | None = None) -> Job:
        job = Job(tmp_path / name, request="x")
        with Progress(disable=True) as bar:
            task = bar.add_task("", total=told.frames, unit="frames")
            try:
                job.finish(_make(engine, told, job, bar, task, preview))
            except KeyboardInterrupt:
                job.save()
        return job

    assert not made("whole.mp4", told).folder.exists()
    assert made("cut.mp4", told, Stop(2)).state.exists()
    assert not made("cut.mp4", told).folder.exists()
    assert not made("written.mp4", replace(told, off_ground=False)).folder.exists()
    whole, cut, written = ((tmp_path / f"{n}.mp4").read_bytes() for n in ("whole", "cut", "written"))
    assert whole == cut != written


def test_another_choice_is_another_render(assets: Path) -> None:
    fly = Fly(path="w-8", out=Path("a.mp4"))
    told = plan(fly, assets)
    assert told.off_ground
    assert request(fly, told, weights=[]) != request(fly, replace(told, off_ground=False), weights=[])


def test_the_log_has_the_poses_that_were_flown(here: Path, assets: Path) -> None:
    scene = load_gallery(assets / "gallery")[0]
    keys = load_path("w-16", motion=None)
    write_npy(here / "path.npy", keys)
    wanted = keys.from_start(scene.pose).poses
    line = "fly --path {} --out {}.mp4 --export {} --speed 0.4 --device cpu --threads 1"
    for path, name, more in (
        ("w-16", "keys", ""),
        ("path.npy", "file", ""),
        ("w-16", "off", "--off-ground off"),
    ):
        assert main([*line.format(path, name, name).split(), *more.split()]) == 0
        _, told = read_log(here / f"{name}.poses.jsonl")
        assert np.array_equal(np.load(here / name / "trajectory.npy"), told.poses)
        assert np.allclose(told.poses, wanted, atol=1e-9) == (name != "keys")
        assert (here / name / "actions.txt").exists() == (name != "keys")
    assert main(["fly", "--path", "w-8", "--out", "a.mp4", "--off-ground", "on", "--model", "sana-wm"]) == 2
