"""`explorer convert`: every way there and back, other programs' readers, and refusals in one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.camera import Intrinsics
from explorer.actions import as_actions
from explorer.app import main
from explorer.axes import NAMES, from_axes, to_axes
from explorer.colmap import write_colmap
from explorer.dialect import DIALECTS, Motion, roll_out
from explorer.trajectory import Trajectory

FLIGHT = "w-6,dw-5,i-4,kl-3,none-5,a-2"


def flown(dialect: str = "sana", text: str = FLIGHT, motion: Motion | None = None) -> Trajectory:
    return Trajectory(poses=roll_out(text, dialect=dialect, motion=motion))


@pytest.mark.parametrize("name", NAMES)
def test_axes_there_and_back(name: str) -> None:
    poses = flown().poses
    np.testing.assert_allclose(from_axes(to_axes(poses, name), name), poses, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "there"),
    [  # a camera 2 m up, 3 m right and 5 m ahead, looking ahead: its matrix as each program writes it
        ("opencv", [[1, 0, 0, 3], [0, 1, 0, -2], [0, 0, 1, 5], [0, 0, 0, 1]]),
        ("opencv-w2c", [[1, 0, 0, -3], [0, 1, 0, 2], [0, 0, 1, -5], [0, 0, 0, 1]]),
        ("opengl", [[1, 0, 0, 3], [0, 1, 0, 2], [0, 0, 1, -5], [0, 0, 0, 1]]),
        ("blender", [[1, 0, 0, 3], [0, 0, -1, 5], [0, 1, 0, 2], [0, 0, 0, 1]]),
        ("unity", [[1, 0, 0, 3], [0, 1, 0, 2], [0, 0, 1, 5], [0, 0, 0, 1]]),
    ],
)
def test_axes_mean_what_they_say(name: str, there: list[list[float]]) -> None:
    ours = np.array([[1, 0, 0, 3], [0, 1, 0, -2], [0, 0, 1, 5], [0, 0, 0, 1.0]])
    np.testing.assert_allclose(to_axes(ours[None], name)[0], there, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(sorted(DIALECTS)),
    st.lists(st.tuples(st.text("wasdijkl", max_size=3), st.integers(1, 6)), min_size=1, max_size=6),
    st.booleans(),
)
def test_deciphered_strings_fly_the_same(dialect: str, parts: list[tuple[str, int]], single: bool) -> None:
    """Whatever keys are found, they make the same path, from float32 as well. Keys that cancel may stay unknown."""
    parts = [("".join(k for k in keys if OPPOSITE[k] not in keys), n) for keys, n in parts]
    path = flown(dialect, ",".join(f"{keys}-{n}" for keys, n in parts))
    if single:
        path = Trajectory(poses=path.poses.astype(np.float32))
    try:
        text = as_actions(path, dialect=dialect)
    except ValueError:
        assert dialect == "flashdreams"  # two keys for one control: releasing one of them presses nothing new
        return
    np.testing.assert_allclose(roll_out(text, dialect=dialect), path.poses, atol=4e-6 if single else 1e-6)


OPPOSITE = dict(zip("wasdijkl", "sdwakilj", strict=True))


def test_a_path_is_deciphered_wherever_it_begins() -> None:
    path = flown()
    assert as_actions(path.from_start(path.pose(7))) == "w-6,wd-5,i-4,lk-3,none-5,a-2"


def test_what_no_keys_make_is_refused_by_frame() -> None:
    poses = flown().poses.copy()
    poses[9:, 1, 3] += 0.001
    with pytest.raises(ValueError, match="no keys lead to frame 9"):
        as_actions(Trajectory(poses=poses))


CHAINS = [
    ("sana", "opengl", "a.npy"),
    ("sana", "unity-w2c", "a.npy"),
    ("sana", "nerfstudio", "a.json"),
    ("sana", "colmap", "model"),
    ("flashdreams", "opencv", "a.npy"),
    ("diffusers", "blender", "a.npy"),
    ("sglang", "opencv-w2c", "a.npy"),
]


@pytest.mark.parametrize(("dialect", "form", "name"), CHAINS)
def test_the_command_goes_there_and_back(
    dialect: str, form: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, text = str(tmp_path / name), "w-4,dw-3,i-2,none-2"
    camera = ["--fov", "60", "--size", "640x480"]
    assert main(["convert", text, out, "--from", dialect, "--to", form, *camera]) == 0
    assert f"from {dialect} to {form}" in capsys.readouterr().out
    assert main(["convert", out, "-", "--from", form, "--to", dialect]) == 0
    again = capsys.readouterr().out.strip()
    np.testing.assert_allclose(roll_out(again, dialect=dialect), roll_out(text, dialect=dialect), atol=1e-6)
    assert main(["convert", out, str(tmp_path / "b.npy"), "--from", form, "--to", "opencv"]) == 0
    np.testing.assert_allclose(np.load(tmp_path / "b.npy"), roll_out(text, dialect=dialect), atol=1e-9)


def test_steps_and_turns_per_frame(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slow = ["--step", "0.05", "--turn", "1.2"]
    assert (
        main(["convert", "w-4,d-3", str(tmp_path / "a.npy"), "--from", "sana", "--to", "opencv", *slow]) == 0
    )
    poses = np.load(tmp_path / "a.npy")
    assert poses[4, 2, 3] == pytest.approx(0.2, abs=1e-6)
    back = ["convert", str(tmp_path / "a.npy"), "-", "--from", "opencv", "--to", "sana"]
    assert main(back) == 2
    assert main([*back, "--to-step", "0.05", "--to-turn", "1.2"]) == 0
    assert capsys.readouterr().out.strip().endswith("w-4,d-3")


def test_colmap_itself_reads_the_model(tmp_path: Path) -> None:
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap is not installed: pip install -e '.[test]'")
    k = Intrinsics(fx=200.0, fy=201.0, cx=127.0, cy=81.0, width=256, height=160)
    path = Trajectory(poses=flown().poses, intrinsics=(k,) * len(flown()))
    xyz, rgb = np.array([[1, 2, 3], [-4, 5, 6]], np.float32), np.array([[1, 2, 3], [4, 5, 255]], np.uint8)
    write_colmap(tmp_path, path, points=(xyz, rgb))
    model = pycolmap.Reconstruction()
    model.read_text(str(tmp_path))
    assert len(model.images) == len(path)
    for image in model.images.values():
        pose = np.eye(4)
        pose[:3] = image.cam_from_world().matrix()
        at = int(image.name.removesuffix(".png"))
        np.testing.assert_allclose(np.linalg.inv(pose), path.poses[at], atol=1e-6)
        ahead = path.poses[at] @ [0.3, -0.2, 2.0, 1.0]
        np.testing.assert_allclose(image.project_point(ahead[:3]), [127 + 200 * 0.15, 81 - 201 * 0.1])
    points = sorted(model.points3D.items())
    np.testing.assert_allclose([p.xyz for _, p in points], xyz)
    np.testing.assert_array_equal([p.color for _, p in points], rgb)


MISTAKES = {
    "w-4 a.npy --from sana --to klingon": "klingon",
    "w-4 a.npy --from opencv --to sana": "there is no path file w-4",
    "w-4 a.npy --to opencv": "--from",
    "w-4 a.json --from sana --to opencv": "a.json does not end in .npy",
    "w-4 - --from sana --to opencv": "OUT - prints action strings",
    "w-4 model --from sana --to colmap": "add --fov",
    "w-4 a.npy --from sana --to opencv --fov 60": "give both",
    "w-4 a.npy --from sana --to opencv --to-step 2": "--to-step",
    "w-4 a.npy --from sana --to opencv --step -2": "speed",
    "w-4 no/where/a.npy --from sana --to opencv": "no/where/a.npy",
    "q-4 a.npy --from sana --to opencv": "q-4",
    "singular.npy a.npy --from opengl-w2c --to opencv": "pose 1",
    "flat.npy a.npy --from opengl --to opencv": "poses are",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_sentence(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("singular.npy", np.stack([np.eye(4), np.zeros((4, 4))]))
    np.save("flat.npy", np.eye(4))
    before = sorted(tmp_path.iterdir())
    assert main(["convert", *line.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("explorer: ")
    assert err.count("\n") == 1
    assert MISTAKES[line] in err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("name", "right", "ahead"),
    [  # columns of a camera that has turned right by 90°: its own right is where backward was
        ("opencv", [0, 0, -1], (2, [1, 0, 0])),
        ("opengl", [0, 0, 1], (2, [-1, 0, 0])),
        ("blender", [0, -1, 0], (2, [-1, 0, 0])),
        ("unity", [0, 0, -1], (2, [1, 0, 0])),
    ],
)
def test_a_right_turn_is_one_everywhere(name: str, right: list[int], ahead: tuple[int, list[int]]) -> None:
    turned = roll_out("d-1", motion=Motion(turn=90.0 * 16))[1:]
    pose = to_axes(turned, name)[0]
    np.testing.assert_allclose(pose[:3, 0], right, atol=1e-12)
    np.testing.assert_allclose(pose[:3, ahead[0]], ahead[1], atol=1e-12)
