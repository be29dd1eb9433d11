"""sana-wm where people meet it: in the engine process, and on the command line."""

from __future__ import annotations

import shlex
import time
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
import torch

from explorer.app import main
from explorer.assets import load_gallery
from explorer.controls import Hands
from explorer.session import Session
from tests.tiny import hills, tiny_assets
from tests.tiny_sana import SETUP, SIZES


def test_the_refiner_is_switched_while_flying(tmp_path: Path) -> None:
    """A real engine process: frames in order at the model's size, and X reaches the engine."""
    assets = tiny_assets(tmp_path / "assets", scenes=1)
    session = Session("sana-wm", assets=assets, device="cpu", threads=1, setup=replace(SETUP, refiner="on"))
    try:
        session.begin(load_gallery(assets / "gallery")[0])
        hands = Hands().press("w", now=time.perf_counter())
        indices: list[int] = []

        def until(done: bool) -> None:
            deadline = time.perf_counter() + 60
            while session.stats.refined is not done or len(indices) < 2:
                assert session.stage != "failed", session.note
                assert time.perf_counter() < deadline, f"{session.stage}: {session.note}"
                for shown in session.tick(hands.steering, now=time.perf_counter()):
                    indices.append(shown.frame.index)
                    assert shown.frame.pixels.shape == (SIZES.height, SIZES.width, 3)
                time.sleep(0.002)

        until(True)
        assert session.refiner == "on"
        assert session.next_refining() == "off"
        until(False)
        assert session.refiner == "off"
        assert indices == list(range(len(indices)))
    finally:
        session.stop()


MISTAKES = {
    "fly good.png --refiner on --out a.mp4": "--model sana-wm",
    "fly good.png --refiner perhaps --out a.mp4": "perhaps",
    "fly good.png --model sana-wm --memory 20 --out a.mp4": "--memory 20",
    "fly good.png --model sana-wm --device cpu --out a.mp4": "explorer download sana-wm-streaming",
    "fly good.png --model sana-wm --weights good --out a.mp4": "good",
    "render good.png --out a.mp4": "--path",
    "render missing.png --path w-8 --out a.mp4": "missing.png",
    "render good.png --path w-8 --out a.avi": "a.avi",
    "render good.png --path w-8 --out a.mp4 --model sana-wm": "explorer download",
    "fly good.png --model sana-wm --off-ground on --out a.mp4": "--off-ground on needs",
    "render good.png --path w-8 --out a.mp4 --model sana-wm-bidirectional --off-ground on": "--off-ground on needs",
    "doctor --jason": "--jason",
}
if not torch.cuda.is_available():
    MISTAKES["fly good.png --model sana-wm --random-weights --out a.mp4"] = "needs an NVIDIA GPU"


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_sentence_and_leaves_nothing(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_EXPLORER_ASSETS", str(tiny_assets(tmp_path / "assets", scenes=1)))
    monkeypatch.setenv("WORLD_EXPLORER_MODELS", str(tmp_path / "models"))
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("good.png", hills(0))
    before = sorted(tmp_path.rglob("*"))
    assert main(shlex.split(line)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    last = err.strip().splitlines()[-1]
    assert last.startswith("explorer: ")
    assert MISTAKES[line] in last
    assert "Traceback" not in err
    assert sorted(tmp_path.rglob("*")) == before
