"""The gallery in assets: what its maker makes, small, and level with the ground as described."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from engine.config import NEAREST
from engine.depthfile import SCALE, STEPS
from engine.worlds import gallery
from engine.worlds.gallery import SCENES, make_gallery
from explorer.assets import load_gallery

FOLDER = Path(__file__).parents[1] / "assets" / "gallery"


def test_every_scene_is_there_and_small() -> None:
    entries = json.loads((FOLDER / "gallery.json").read_text())
    assert [entry["name"] for entry in entries] == [scene.name for scene in SCENES]
    assert len(SCENES) >= 16
    for entry, scene in zip(entries, SCENES, strict=True):
        assert (FOLDER / entry["picture"]).stat().st_size <= 100_000
        assert (FOLDER / entry["depth"]).stat().st_size <= 50_000
        pose = np.array(entry["pose"])
        np.testing.assert_allclose(pose[:3, 3], 0.0)
        assert np.rad2deg(np.arcsin(-pose[1, 2])) == pytest.approx(scene.pitch, abs=1e-5)
        assert pose[0, 2] == pytest.approx(0.0, abs=1e-9)  # no heading
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 1_500_000


def test_every_scene_knows_its_depth() -> None:
    for scene in load_gallery(FOLDER):
        depth = scene.inverse_depth
        assert depth is not None
        assert depth.shape == scene.rgb.shape[:2]
        assert 0.05 < (depth == 0).mean() < 0.6  # sky
        assert depth[-1].min() > 0  # ground
        assert depth.max() < 1 / NEAREST


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile the worlds with")
def test_the_maker_draws_what_is_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "SCENES", SCENES[:1])
    make_gallery(tmp_path)
    name = f"{SCENES[0].name}.png"
    drawn, shipped = (cv2.imread(str(folder / name)).astype(int) for folder in (tmp_path, FOLDER))
    assert drawn.shape == (160, 256, 3)
    assert np.abs(drawn - shipped).mean() < 1.0  # processors round differently
    drawn, shipped = (
        cv2.imread(str(folder / f"{SCENES[0].name}.depth.png"), cv2.IMREAD_UNCHANGED).astype(int)
        for folder in (tmp_path, FOLDER)
    )
    same = (np.abs(drawn - shipped) < 0.01 * STEPS / SCALE) & ((drawn > 0) == (shipped > 0))
    assert same.mean() > 0.99  # 1 % of depth; a silhouette may move
