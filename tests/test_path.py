"""Action strings and trajectory files, good and hostile."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.camera import Array, Intrinsics, Pose
from explorer.dialect import MAX_TEXT, POCKET_MOTION, Motion, parse, roll_out
from explorer.path import Trajectory, load_path, write_nerfstudio, write_npy
from explorer.trajectory import MAX_FRAMES


def some() -> Array:
    return roll_out("w-3,dw-5,i-4,l-2", motion=POCKET_MOTION)


def test_golden_roll_out() -> None:
    poses = roll_out("w-2,wd-2,w-2,none-2,l-1,i-1")[1:]
    x = [0, 0, 0.0002618, 0.0007854, 0.0015548, 0.0025551, 0.0036985, 0.0049523, 0.0299118, 0.0299118]
    z = [0.025, 0.05, 0.0749986, 0.099993, 0.1249812, 0.1499611, 0.1734186, 0.1954453, 0.1940246, 0.1940246]
    np.testing.assert_allclose(poses[:, 0, 3], x, atol=6e-8)
    np.testing.assert_allclose(poses[:, 2, 3], z, atol=6e-8)
    yaw = np.degrees([Pose.from_matrix(p).yaw for p in poses])
    np.testing.assert_allclose(
        yaw, [0, 0, 0.6, 1.2, 1.76365, 2.29315, 2.79056, 3.25784, 3.25784, 3.25784], atol=6e-6
    )
    assert poses[-1][1, 2] == pytest.approx(-0.0104718, abs=6e-8)


def test_physical_units() -> None:
    poses = roll_out("w-16", motion=Motion(speed=4.0))
    np.testing.assert_allclose(
        poses[-1][:3, 3], [0, 0, 4.0], rtol=2e-6
    )  # one second; the norm has an epsilon of 1e-6
    turned = roll_out("d-16", motion=Motion(turn=30.0))
    assert np.degrees(Pose.from_matrix(turned[-1]).yaw) == pytest.approx(30.0)


def test_pitch_saturates() -> None:
    up = roll_out("i-64", motion=Motion(turn=90.0, pitch_limit=45.0))
    assert up[-1][1, 2] == pytest.approx(-np.sin(np.pi / 4))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.text("wasdijkl", max_size=4), st.integers(1, 9)), min_size=1, max_size=6))
def test_every_roll_out_is_rigid(parts: list[tuple[str, int]]) -> None:
    poses = roll_out(",".join(f"{keys}-{n}" for keys, n in parts), motion=POCKET_MOTION)
    assert len(poses) == 1 + sum(n for _, n in parts)
    assert np.array_equal(poses[0], np.eye(4))
    np.testing.assert_allclose(
        poses[:, :3, :3] @ poses[:, :3, :3].transpose(0, 2, 1),
        np.eye(3)[None].repeat(len(poses), 0),
        atol=1e-12,
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("q-3", "'q-3' is not an action"),
        ("w-3,", "not an action"),
        ("w", "not an action"),
        (f"w-{MAX_FRAMES},w-1", "longer than"),
        ("w-999999999", "longer than"),
        ("w-1," * MAX_TEXT, "characters"),
    ],
)
def test_bad_strings_are_named(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as e:
        parse(text)
    assert len(str(e.value)) < 300


def test_unknown_dialect_and_odd_speeds() -> None:
    with pytest.raises(ValueError, match=r"no dialect 'klingon'.*use sana"):
        roll_out("w-1", dialect="klingon")
    for bad in (dict(speed=-1.0), dict(speed=float("nan")), dict(turn=1e9), dict(pitch_limit=90.0)):
        with pytest.raises(ValueError, match="out of range"):
            Motion(**bad)


def test_npy_there_and_back(tmp_path: Path) -> None:
    path = Trajectory(poses=some())
    write_npy(tmp_path / "a.npy", path)
    np.testing.assert_allclose(load_path(str(tmp_path / "a.npy")).poses, path.poses, atol=1e-14)
    np.save(tmp_path / "b.npy", some().astype(np.float32))
    np.testing.assert_allclose(load_path(str(tmp_path / "b.npy")).poses, path.poses, atol=2e-7)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npy", "b.npy"]  # no leftovers


def test_nerfstudio_there_and_back(tmp_path: Path) -> None:
    k = Intrinsics(fx=128.0, fy=130.0, cx=127.0, cy=81.0, width=256, height=160)
    path = Trajectory(poses=some(), intrinsics=(k,) * len(some()))
    write_nerfstudio(tmp_path / "transforms.json", path)
    back = load_path(str(tmp_path / "transforms.json"))
    np.testing.assert_allclose(back.poses, path.poses, atol=1e-12)
    assert back.intrinsics == path.intrinsics


def test_nerfstudio_is_z_up_and_looks_down_minus_z(tmp_path: Path) -> None:
    """A camera at height 2 that looks along nerfstudio's +y, upright: ours is at y = -2, looking along +z."""
    m = [[1, 0, 0, 5], [0, 0, -1, 7], [0, 1, 0, 2], [0, 0, 0, 1]]
    data = {"camera_angle_x": np.pi / 2, "w": 200, "h": 100, "frames": [{"transform_matrix": m}]}
    (tmp_path / "t.json").write_text(json.dumps(data))
    path = load_path(str(tmp_path / "t.json"))
    np.testing.assert_allclose(
        path.poses[0], [[1, 0, 0, 5], [0, 1, 0, -2], [0, 0, 1, 7], [0, 0, 0, 1]], atol=1e-12
    )
    assert path.intrinsics is not None
    assert path.intrinsics[0].fx == pytest.approx(100.0)


def test_colmap(tmp_path: Path) -> None:
    """World-to-camera quaternions, a line of points after each image, order by name."""
    h = np.sqrt(0.5)
    images = [
        "# comment",
        f"2 {h} 0 {h} 0 0 0 0 7 b.jpg",
        "",
        "1 2 0 0 0 1 2 3 7 a.jpg",
        "10.5 20.5 -1 11 21 4",
    ]
    (tmp_path / "images.txt").write_text("\n".join(images))
    path = load_path(str(tmp_path / "images.txt"))
    assert path.intrinsics is None
    np.testing.assert_allclose(path.poses[0][:3, 3], [-1, -2, -3])
    np.testing.assert_allclose(path.poses[1][:3, :3], [[0, 0, -1], [0, 1, 0], [1, 0, 0]], atol=1e-12)
    (tmp_path / "cameras.txt").write_text("# c\n7 SIMPLE_RADIAL 640 480 500 320 240 0.1\n")
    known = load_path(str(tmp_path / "images.txt")).intrinsics
    assert known is not None
    assert known[0] == Intrinsics(fx=500, fy=500, cx=320, cy=240, width=640, height=480)


def pickled() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return file.getvalue()


def saved(array: np.ndarray) -> bytes:  # type: ignore[type-arg]
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def broken(change: str) -> bytes:
    m = some()
    match change:
        case "nan":
            m[3, 0, 3] = np.nan
        case "mirror":
            m[2, :3, 0] *= -1
        case "scale":
            m[2, :3, :3] *= 1.5
        case "row":
            m[1, 3, 0] = 1
        case "far":
            m[4, 1, 3] = 1e9
    return saved(m)


HOSTILE = {
    "missing.npy": (None, "there is no path file"),
    "empty.npy": (b"", "not a numpy array"),
    "pickle.npy": (pickled(), "not a numpy array"),
    "raw.npy": (pickle.dumps([1]), "not a numpy array"),
    "cut.npy": (saved(some())[:200], "not a numpy array"),
    "int.npy": (saved(np.zeros((3, 4, 4), dtype=np.int64)), "holds int64"),
    "shape.npy": (saved(np.zeros((3, 3, 4))), "poses are"),
    "none.npy": (saved(np.zeros((0, 4, 4))), "poses are|not a numpy array"),
    "nan.npy": (broken("nan"), "pose 3 of the path is not finite"),
    "mirror.npy": (broken("mirror"), "pose 2 of the path is not rigid"),
    "scale.npy": (broken("scale"), "pose 2 of the path is not rigid"),
    "row.npy": (broken("row"), "pose 1 of the path is not rigid"),
    "far.npy": (broken("far"), "pose 4 of the path is over"),
    "text.json": (b"hello", "not JSON"),
    "bytes.json": (b"\xff\xfe\x00", "not JSON"),
    "deep.json": (b"[" * 100_000, "not JSON"),
    "list.json": (b"[]", "no list 'frames'"),
    "frame.json": (b'{"frames": [3]}', "malformed"),
    "ragged.json": (b'{"frames": [{"transform_matrix": [[1], [2, 3]]}]}', "malformed"),
    "small.json": (b'{"frames": [{"transform_matrix": [[1]]}]}', "4 rows"),
    "huge.json": (b'{"w": 1e400, "h": 2, "fl_x": 3, "frames": [{"transform_matrix": [[1]]}]}', "malformed"),
    "zero.json": (
        b'{"frames": [{"transform_matrix": [[0,0,0,0],[0,0,0,0],[0,0,0,0],[0,0,0,1]]}]}',
        "not rigid",
    ),
    "empty.txt": (b"# nothing\n", "no images"),
    "words.txt": (b"dear diary\n", "not an image line"),
    "binary.txt": (b"\xff\xff\x00\x01", "not text"),
    "zero.txt": (b"1 0 0 0 0 0 0 0 1 a.jpg\n\n", "no valid rotation"),
    "nan.txt": (b"1 1 0 0 0 nan 0 0 1 a.jpg\n\n", "no valid rotation"),
    "film.mp4": (b"", "is no path file"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_bad_files_get_one_sentence(name: str, tmp_path: Path) -> None:
    content, says = HOSTILE[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=says) as e:
        load_path(str(tmp_path / name))
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 300 + len(str(tmp_path))


def test_action_strings_are_no_files() -> None:
    assert len(load_path("w-3, d-2")) == 6
    with pytest.raises(ValueError, match="not an action"):
        load_path("w-1.5")


def test_a_path_can_begin_anywhere() -> None:
    path = Trajectory(poses=some())
    start = Pose.from_matrix(path.poses[-1])
    moved = path.from_start(start)
    np.testing.assert_allclose(moved.poses[0], start.matrix, atol=1e-12)
    np.testing.assert_allclose(moved.pose(2).matrix, start.matrix @ path.poses[2], atol=1e-12)


def test_intrinsics_match_the_poses() -> None:
    k = Intrinsics(fx=1, fy=1, cx=0, cy=0, width=2, height=2)
    with pytest.raises(ValueError, match="give one each"):
        Trajectory(poses=some(), intrinsics=(k,))
