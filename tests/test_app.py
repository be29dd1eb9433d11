"""The command line: every user's mistake is one sentence and exit code 2; unattended flights."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from explorer.app import COMMANDS, main
from tests.tiny import hills, tiny_assets


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_assets(tmp_path_factory.mktemp("world") / "assets", scenes=2)


@pytest.fixture
def here(assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WORLD_EXPLORER_ASSETS", str(assets))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_bad_files(folder: Path) -> None:
    (folder / "text.png").write_text("not a picture")
    (folder / "empty.jpg").touch()
    whole = cv2.imencode(".png", hills(0))[1].tobytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    cv2.imwrite(str(folder / "tiny.png"), hills(0)[:20, :20])
    (folder / "good.png").write_bytes(whole)
    header = bytearray(whole[:64])
    header[16:24] = (60_000).to_bytes(4, "big") * 2
    (folder / "huge.png").write_bytes(bytes(header) + whole[64:])
    np.save(folder / "bad.npy", np.zeros((3, 4, 4)))
    (folder / "folder.mp4").mkdir()


MISTAKES = {
    "dance": "dance",
    "fly missing.jpg": "missing.jpg",
    "fly text.png": "text.png",
    "fly empty.jpg": "empty.jpg",
    "fly cut.png": "cut.png",
    "fly tiny.png": "tiny.png",
    "fly huge.png": "huge.png",
    "fly . --out a.mp4": "no picture",
    "fly good.png --model moon": "moon",
    "fly good.png --device abacus": "abacus",
    "fly good.png --fov 300": "300",
    "fly good.png --fov nan": "nan",
    "fly good.png --speed 0": "speed",
    "fly good.png --threads 0": "threads",
    "fly good.png --seed -1": "seed",
    "fly good.png --size 12": "size",
    "fly good.png --size 99999x99999": "size",
    "fly good.png --path w-16": "--out",
    "fly good.png --path x-16 --out a.mp4": "x-16",
    "fly good.png --path w-0 --out a.mp4": "w-0",
    "fly good.png --path bad.npy --out a.mp4": "bad.npy",
    "fly good.png --path none.npy --out a.mp4": "none.npy",
    "fly good.png --out a.avi": "a.avi",
    "fly good.png --out no/where/a.mp4": "no/where/a.mp4",
    "fly good.png --out folder.mp4": "folder.mp4",
    "fly good.png --frames 0 --out a.mp4": "frames",
    "fly good.png --contact-sheet a.gif": "a.gif",
    "fly good.png --stats no/where/s.json": "no/where/s.json",
    "fly good.png --stats s.json --out a.mp4": "--stats",
    "bench": "latency, stage1",
    "bench speed": "speed",
    "bench latency --seconds 0": "--seconds",
    "bench latency --out folder.mp4": "--out",
    "bench stage1 --chunks 0": "--chunks",
    "bench codec --memory 12": "--memory",
    "bench refiner --device abacus": "abacus",
    "bench pipeline --minutes 0": "--minutes",
    "bench pipeline --plot flat.png": "--plot",
    "bench kernels --device cpu": "GPU",
    "bench pocket --scene moon": "moon",
    "bench pocket --json no/where/a.json": "--json",
    "bench pocket --compare no-such-commit": "no-such-commit",
    "bench pocket --compare HEAD --rounds 0": "--rounds",
    "fly good.png --prompt 'a quite unknown word' --out a.mp4": "quite",
    "fly good.png --frames many --out a.mp4": "many",
    "fly good.png --seed q": "--seed cannot be 'q': see",
    "fly good.png --frames 9": "--out",
    "fly good.png --off-ground off": "--path",
    "fly good.png --off-ground maybe --out a.mp4": "maybe",
    "render good.png --path w-8 --out a.mp4 --model moon": "sana-wm-bidirectional",
    "render my.world --path w-8 --out a.mp4": "explorer fly",
    "serve --fps x": "--fps cannot be 'x': see",
    "fly good.png --fly-high": "--fly-high",
    "fly good.png other.png": "other.png",
    "serve --port 99999": "99999",
    "evaluate --flights many": "many",
    "evaluate --assets nowhere": "nowhere",
    "train": "train",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_sentence(line: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shlex

    make_bad_files(here)
    before = sorted(here.rglob("*"))
    assert main(shlex.split(line)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert MISTAKES[line] in err
    assert err.startswith("explorer: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("damage", ["missing", "cut", "garbage"])
def test_broken_weights_are_one_sentence(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assets = tiny_assets(tmp_path / "assets", scenes=1)
    weights = assets / "pocket" / "world.safetensors"
    data = weights.read_bytes()
    weights.unlink()
    if damage != "missing":
        weights.write_bytes(data[:-1000] if damage == "cut" else b"garbage" * 100)
    monkeypatch.setenv("WORLD_EXPLORER_ASSETS", str(assets))
    out = tmp_path / "a.mp4"
    assert main(["fly", "--out", str(out), "--frames", "2", "--device", "cpu"]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("explorer: ")
    assert "world.safetensors" in last
    assert not out.exists()


def test_alone_it_says_what_to_try(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "explorer fly" in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main([command, "--help"])
    except SystemExit as ended:
        code = ended.code or 0
    out, err = capsys.readouterr()
    assert code == 0
    assert f"explorer {command}" in out
    assert err == ""


@pytest.mark.parametrize("line", ["", "fly --help", "settings"])
def test_a_reader_who_leaves_is_no_news(line: str, here: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "explorer.app", *line.split()],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "HOME": str(here)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        assert command.stdout is not None
        command.stdout.close()
        assert command.stderr is not None
        assert command.stderr.read() == ""
        assert command.wait(20) == 141


def test_a_flight_is_the_same_twice(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cv2.imwrite("photo.png", hills(5, 400, 300))
    for name in ("a", "b"):
        line = (
            f"fly photo.png --path w-8,dw-8 --out {name}.mp4 --contact-sheet {name}.png --frames 20 --seed 3"
        )
        assert main([*line.split(), "--device", "cpu", "--threads", "1"]) == 0
    assert (here / "a.mp4").read_bytes() == (here / "b.mp4").read_bytes()
    assert (here / "a.png").read_bytes() == (here / "b.png").read_bytes()
    with av.open("a.mp4") as film:
        frames = [f.to_ndarray(format="rgb24") for f in film.decode(video=0)]
    assert len(frames) == 20
    assert frames[0].shape == (160, 256, 3)
    assert main([*line.replace("b.", "c.").replace("seed 3", "seed 4").split(), "--threads", "1"]) == 0
    assert (here / "c.png").read_bytes() != (here / "a.png").read_bytes()


def test_ctrl_c_leaves_a_playable_film(here: Path) -> None:
    flight = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "explorer.app",
            "fly",
            "--out",
            "cut.mp4",
            "--frames",
            "5000",
            "--threads",
            "1",
        ],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    film = here / "cut.mp4"
    while not (film.exists() and film.stat().st_size > 20_000) and time.monotonic() < deadline:
        time.sleep(0.05)
    flight.send_signal(signal.SIGINT)
    _, err = flight.communicate(timeout=30)
    assert flight.returncode == 130
    assert "Traceback" not in err
    with av.open(str(film)) as opened:
        frames = sum(1 for _ in opened.decode(video=0))
    assert frames > 1
    assert f"stopped after {frames} frames" in err


def test_no_display_offers_the_browser(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert main(["fly"]) == 2
    assert "explorer serve" in capsys.readouterr().err


def test_the_window_never_imports_torch() -> None:
    code = (
        "import sys, explorer.fly, explorer.cockpit, explorer.session, explorer.window, explorer.recorder\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=Path(__file__).parent.parent)
