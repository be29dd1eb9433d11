"""Exports read back by others: every pose to 1e-6, every point on the surface it was seen on."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from engine.camera import Intrinsics, Pose
from engine.depthfile import write_depth
from engine.frame import Frame
from explorer.app import main
from explorer.dialect import POCKET_MOTION, roll_out
from explorer.export import Export, film_frame, require_empty
from explorer.flightlog import FlightLog, Header, log_path, read_log
from explorer.path import load_path
from explorer.pointcloud import PointCloud, thinned, unproject
from explorer.recorder import decoded, fitted
from explorer.recording import BackgroundRecording, Takes
from tests.tiny import hills, tiny_assets

HEADER = Header(fps=16, world="pocket")
K = Intrinsics(fx=40.0, fy=41.0, cx=31.0, cy=21.0, width=64, height=40)
ROOT = Path(__file__).parent.parent


def flight(count: int, *, depth: bool = True, text: str = "w-6,dw-5,i-4,l-3") -> Iterator[Frame]:
    """Frames of a keyed flight; a slope under a sky."""
    poses = roll_out(text, motion=POCKET_MOTION)
    for i in range(count):
        inverse = np.linspace(0.02, 0.5, 40, dtype=np.float16)[:, None].repeat(64, 1)
        inverse[:10] = 0
        pixels = hills(i, 64, 40)
        yield Frame(
            pixels=pixels,
            pose=Pose.from_matrix(poses[i]),
            intrinsics=K,
            index=i,
            world="pocket",
            inverse_depth=inverse if depth else None,
        )


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    export = Export(folder, header=HEADER)
    for frame in flight(19):
        export.add(frame)
    assert "exported 19 frames" in export.finish(POCKET_MOTION)
    return folder


def test_every_format_holds_the_poses_flown(exported: Path) -> None:
    flown = [frame.pose.matrix for frame in flight(19)]
    np.testing.assert_allclose(np.load(exported / "trajectory.npy"), flown, atol=1e-6)
    _, logged = read_log(exported / "poses.jsonl")
    assert logged.intrinsics == (K,) * 19
    for path in (logged, load_path(str(exported / "transforms.json"))):
        np.testing.assert_allclose(path.poses, flown, atol=1e-6)
    np.testing.assert_allclose(load_path(str(exported / "colmap" / "images.txt")).poses, flown, atol=1e-6)
    text = (exported / "actions.txt").read_text().strip()
    np.testing.assert_allclose(roll_out(text, motion=POCKET_MOTION), flown, atol=1e-6)


def test_transforms_project_points_as_nerfstudio_does(exported: Path) -> None:
    """Its camera looks along -z with +y up, its world has z up: a point straight ahead lands at the centre."""
    data = json.loads((exported / "transforms.json").read_text())
    for frame, flown in zip(data["frames"], flight(19), strict=True):
        ahead = flown.pose.matrix @ [0.5, 0.25, 2.0, 1.0]  # right, below, ahead
        x, y, z, _ = np.linalg.inv(frame["transform_matrix"]) @ [ahead[0], ahead[2], -ahead[1], 1.0]
        assert frame["fl_x"] * x / -z + frame["cx"] == pytest.approx(K.cx + K.fx * 0.25)
        assert frame["cy"] - frame["fl_y"] * y / -z == pytest.approx(K.cy + K.fy * 0.125)
        assert (exported / frame["file_path"]).is_file()
    assert data["ply_file_path"] == "points.ply"


def test_pictures_and_depth_are_kept_exactly(exported: Path) -> None:
    for frame in flight(19):
        kept = cv2.imread(str(exported / f"images/{frame.index:05d}.png"))
        np.testing.assert_array_equal(kept[..., ::-1], frame.pixels)
        with np.load(exported / f"depth/{frame.index:05d}.npz") as file:
            np.testing.assert_array_equal(file["inverse_depth"], frame.inverse_depth)


def test_the_cloud_is_read_by_others(exported: Path) -> None:
    plyfile = pytest.importorskip("plyfile", reason="plyfile is not installed: pip install -e '.[test]'")
    vertices = plyfile.PlyData.read(str(exported / "points.ply"))["vertex"]
    cloud = PointCloud()
    for frame in list(flight(19))[::4]:
        cloud.add(frame)
    xyz, rgb = cloud.points()
    assert len(vertices) == len(xyz) > 1000
    read = np.stack([vertices[name] for name in "xyz"], axis=1)
    np.testing.assert_allclose(read, xyz[:, [0, 2, 1]] * [1, 1, -1], atol=1e-6)
    np.testing.assert_array_equal(np.stack([vertices[n] for n in ("red", "green", "blue")], axis=1), rgb)
    lines = (exported / "colmap" / "points3D.txt").read_text().splitlines()
    assert len(lines) == 1 + len(xyz)


def test_points_of_a_true_render_lie_on_its_surface() -> None:
    """Median within the rounding of fp16 depth (2⁻¹¹ of it), 99 of 100 within twice that."""
    from engine.worlds.renderer import Renderer

    renderer = Renderer("cpu")
    worlds = renderer.build([3])
    poses, rows = renderer.fly(worlds, index=torch.zeros(1, dtype=torch.int64), seeds=[5], frames=9)
    here = torch.zeros(9, dtype=torch.int64)
    rgb, inverse = renderer.render(
        worlds, index=here, poses=poses[0], intrinsics=rows[0], width=256, height=160, samples=1
    )
    parts = []
    for i in range(9):
        fx, fy, cx, cy = rows[0, i].tolist()
        frame = Frame(
            pixels=rgb[i].numpy(),
            pose=Pose.from_matrix(poses[0, i].numpy()),
            intrinsics=Intrinsics(fx=fx, fy=fy, cx=cx, cy=cy, width=256, height=160),
            index=i,
            world="true",
            inverse_depth=inverse[i].numpy(),
        )
        parts.append(unproject(frame))
    points = np.concatenate(parts)
    assert len(points) > 50_000
    gap = renderer.clearance(
        worlds,
        index=torch.zeros(len(points), dtype=torch.int64),
        points=torch.from_numpy(points["xyz"].copy()),
    )
    error = gap.abs().amin(dim=1).numpy() / points["distance"]
    assert np.median(error) < 2.0**-11
    assert np.quantile(error, 0.99) < 2.0**-10


def test_sky_unknown_and_edges_give_no_points() -> None:
    (frame,) = flight(1)
    inverse = np.full((40, 64), 0.5, np.float16)
    inverse[:, :10], inverse[:, 20:30], inverse[:, 40:] = 0, -1, 0.1
    points = unproject(
        Frame(pixels=frame.pixels, pose=Pose(), intrinsics=K, index=0, world="", inverse_depth=inverse)
    )
    columns = np.unique(np.round(points["xyz"][:, 0] / points["distance"] * K.fx + K.cx - 0.5).astype(int))
    assert columns.tolist() == [*range(11, 19), *range(31, 39), *range(41, 64)]


def test_thinning_keeps_the_nearest_of_each_voxel() -> None:
    rng = np.random.default_rng(0)
    points = np.zeros(3000, unproject(next(flight(1))).dtype)
    points["xyz"], points["distance"] = rng.normal(size=(3000, 3)), rng.random(3000)
    thin = thinned(points, 0.5)
    best: dict[tuple[int, ...], float] = {}
    for point in points:
        cell = tuple(np.floor(point["xyz"].astype(float) / 0.5).astype(int).tolist())
        best[cell] = min(best.get(cell, 9.0), float(point["distance"]))
    assert sorted(thin["distance"].tolist()) == sorted(best.values())


def test_letter_boxed_films_keep_their_rays() -> None:
    pixels = np.zeros((40, 64, 3), np.uint8)
    pixels[20, 30] = 255
    big = fitted(pixels, 200, 100)
    frame = film_frame(big, Pose(), K, index=0, world="")
    y, x = np.unravel_index(big[..., 0].argmax(), big.shape[:2])
    k = frame.intrinsics
    assert (x + 0.5 - k.cx) / k.fx == pytest.approx((30.5 - K.cx) / K.fx, abs=0.6 / k.fx)
    assert (y + 0.5 - k.cy) / k.fy == pytest.approx((20.5 - K.cy) / K.fy, abs=0.6 / k.fy)


def test_hostile_logs_get_one_sentence(tmp_path: Path) -> None:
    head = json.dumps(dict(kind="world-explorer flight", version=1, fps=16, world="x", clean=True))
    line = json.dumps(dict(index=0, pose=[1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0], k=[1, 1, 1, 1, 8, 8]))
    path = tmp_path / "a.jsonl"
    bad = ["", "{}\n", "[" * 900 + "\n", f"{head}\n", f"{head}\n{{}}\n", f"{head}\n{'x' * 9000}\n", "\0\n"]
    bad += [f"{head}\n{line.replace('1,', 'NaN,')}\n", f"{head.replace('1,', '2,', 1)}\n{line}\n"]
    for text in bad:
        path.write_text(text)
        with pytest.raises(ValueError, match=r"a\.jsonl"):
            read_log(path)
    path.write_text(f"{head}\n{line}\n{line[:30]}")
    assert len(read_log(path)[1]) == 1


def test_a_log_is_what_was_flown(tmp_path: Path) -> None:
    log = FlightLog(tmp_path / "a.jsonl", HEADER)
    for frame in flight(5):
        log.add(frame)
    header, path = read_log(tmp_path / "a.jsonl")  # readable before it is closed
    log.close()
    assert header == HEADER
    np.testing.assert_array_equal(
        path.poses.round(12), np.stack([f.pose.matrix for f in flight(5)]).round(12)
    )


def test_a_background_recording_is_whole_and_in_order(tmp_path: Path) -> None:
    takes = Takes(film=tmp_path / "a.mp4", export=tmp_path / "e", header=HEADER)
    recording = BackgroundRecording(takes)
    for frame in flight(19):
        recording.add(frame)
    told = recording.close()
    assert recording.problem is None
    assert told[0] == f"recorded 19 frames: {tmp_path / 'a.mp4'}"
    assert "exported 19 frames" in told[1]
    films = list(decoded(tmp_path / "a.mp4"))
    assert np.abs(np.stack(films).astype(int) - [f.pixels for f in flight(19)]).mean() < 6
    assert len(read_log(log_path(tmp_path / "a.mp4"))[1]) == 19


def test_a_full_disk_stops_the_recording_and_not_the_flight(tmp_path: Path) -> None:
    """In a process of its own whose files may not grow over 100 kB."""
    code = """
import resource, sys, time
from pathlib import Path
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
from tests.test_export import BackgroundRecording, HEADER, Takes, flight
import numpy as np, dataclasses
rng = np.random.default_rng(0)
recording = BackgroundRecording(Takes(film=Path(sys.argv[1]), header=HEADER))
(frame,) = flight(1)
for i in range(200):
    noise = rng.integers(0, 255, (160, 256, 3), dtype=np.uint8)
    recording.add(dataclasses.replace(frame, pixels=noise))
    time.sleep(0.002)
print(recording.close()[-1])
"""
    film = tmp_path / "a.mp4"
    done = subprocess.run(
        [sys.executable, "-c", code, str(film)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    (said,) = done.stdout.splitlines()
    assert said.startswith("the recording ended after ")
    assert f"cannot write to {film} (File too large)" in said
    assert len(list(decoded(film))) >= 1
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WORLD_EXPLORER_ASSETS", str(tiny_assets(tmp_path / "assets", scenes=1)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_flight_from_a_scene_that_knows_its_depth_exports_that_too(here: Path) -> None:
    index = here / "assets/gallery/gallery.json"
    (scene,) = json.loads(index.read_text())
    depth = np.linspace(0.1, 1, 160 * 256).reshape(160, 256).astype(np.float16)
    write_depth(index.with_name("d.png"), depth)
    index.write_text(json.dumps([{**scene, "depth": "d.png"}]))
    line = "fly --path w-8 --out a.mp4 --export flight --device cpu --threads 1"
    assert main(line.split()) == 0
    with np.load("flight/depth/00000.npz") as file:
        np.testing.assert_array_equal(file["inverse_depth"], depth)
    assert len(list((here / "flight/depth").iterdir())) == 9


def test_a_flight_exports_itself_and_its_film(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = "fly --path w-8,dw-8 --out a.mp4 --export flight --device cpu --threads 1"
    assert main(line.split()) == 0
    assert "exported 17 frames" in capsys.readouterr().err
    assert main(["export", "a.mp4", "again"]) == 0
    assert "exported 17 frames, no depth: again" in capsys.readouterr().out
    flown = np.load("flight/trajectory.npy")
    np.testing.assert_allclose(np.load("again/trajectory.npy"), flown, atol=1e-9)
    assert (here / "flight/actions.txt").read_text() == "w-8,wd-8\n"
    assert (here / "flight/points.ply").is_file()
    assert len(list((here / "flight/depth").iterdir())) == 16  # nobody knows the depth of the first picture
    for i in (0, 16):
        a, b = (
            cv2.resize(cv2.imread(f"{name}/images/{i:05d}.png"), (32, 20), interpolation=cv2.INTER_AREA)
            for name in ("flight", "again")
        )  # H.264 keeps no noise of single pixels
        assert np.abs(a.astype(int) - b.astype(int)).mean() < 4
    assert main(line.split()) == 2
    assert "flight is not empty" in capsys.readouterr().err


def test_killed_flights_keep_film_poses_and_export(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = "fly --out cut.mp4 --export cut --frames 5000 --threads 1 --device cpu"
    child = subprocess.Popen(
        [sys.executable, "-m", "explorer.app", *command.split()],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while len(list(here.glob("cut/images/*"))) < 40 and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    written = len(list(here.glob("cut/images/*")))
    film = len(list(decoded(here / "cut.mp4")))
    assert written - 2 - 16 <= film <= written  # a second at most is lost
    assert main(["export", "cut.mp4", "film"]) == 0
    assert main(["export", "cut", "whole"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert f"exported {film} frames" in told[0]
    assert len(np.load("whole/trajectory.npy")) >= written - 2
    assert (here / "whole/points.ply").is_file()


MISTAKES = {
    "export none.mp4 out": "none.poses.jsonl",
    "export film.mp4 out": "no film that can be read",
    "export gone.mp4 out": "there is no film gone.mp4",
    "export hud.mp4 out": "without --hud",
    "export film.mp4 full": "full is not empty",
    "export film.mp4 film.mp4": "film.mp4 is a file",
    "export film.mp4 out --voxel 0": "voxels of 0 m",
    "fly --hud --out a.mp4": "--hud",
    "fly --export full --out a.mp4": "full is not empty",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_sentence(line: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, clean in (("film", True), ("gone", True), ("hud", False)):
        log = FlightLog(here / f"{name}.poses.jsonl", Header(fps=16, world="x", clean=clean))
        log.add(next(flight(1)))
        log.close()
    for name in ("film.mp4", "hud.mp4"):
        (here / name).write_text("no film")
    (here / "full").mkdir()
    (here / "full" / "x").touch()
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    last = err.strip().splitlines()[-1]
    assert last.startswith("explorer: ")
    assert MISTAKES[line] in last
    assert out == ""


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot write to /proc/x"):
        require_empty(Path("/proc/x"))
    require_empty(tmp_path / "new" / "folder")
