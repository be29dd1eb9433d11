"""Scenes from disk, and the grid one chooses them in."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.depthfile import write_depth
from explorer.assets import load_gallery
from explorer.gallery import Grid
from tests.tiny import tiny_assets

grids = st.builds(Grid, st.integers(1, 40), st.tuples(st.integers(320, 4000), st.integers(240, 3000)))


def test_scenes_come_with_pose_and_intrinsics(tmp_path: Path) -> None:
    scenes = load_gallery(tiny_assets(tmp_path / "a", scenes=3) / "gallery")
    assert [s.title for s in scenes] == ["Hills 0", "Hills 1", "Hills 2"]
    assert scenes[2].pose.t.tolist() == [2.0, -2.0, 0.0]
    picture, intrinsics = scenes[0].picture(128, 80)
    assert picture.shape == (80, 128, 3)
    assert intrinsics.fx == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("title", None),
        ("pose", [1, 2]),
        ("intrinsics", "wide"),
        ("picture", "../secret.png"),
        ("picture", "absent.png"),
        ("depth", "../scene-0.png"),
        ("depth", "absent.png"),
        ("depth", "scene-0.png"),
        ("depth", 7),
    ],
)
def test_a_damaged_gallery_is_one_sentence(key: str, value: object, tmp_path: Path) -> None:
    folder = tiny_assets(tmp_path / "a", scenes=1) / "gallery"
    entry = json.loads((folder / "gallery.json").read_text())[0]
    if value is None:
        del entry[key]
    else:
        entry[key] = value
    (folder / "gallery.json").write_text(json.dumps([entry]))
    with pytest.raises(ValueError, match=r"gallery|absent") as caught:
        load_gallery(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [(256, 160), (128, 80), (200, 160), (256, 120), (1280, 704)])
def test_a_scene_that_knows_its_depth_gives_it_at_the_size_of_its_picture(
    size: tuple[int, int], tmp_path: Path
) -> None:
    """Depth is written into the colours: red is 80 times the inverse depth, which grows to the right."""
    folder = tiny_assets(tmp_path / "a", scenes=2) / "gallery"
    entries = json.loads((folder / "gallery.json").read_text())
    red = np.broadcast_to(np.linspace(8, 248, 256).round().astype(np.uint8), (160, 256))
    cv2.imwrite(str(folder / "scene-0.png"), np.stack([0 * red, 0 * red, red], axis=-1))
    write_depth(folder / "scene-0.depth.png", red / 80)
    entries[0]["depth"] = "scene-0.depth.png"
    (folder / "gallery.json").write_text(json.dumps(entries))
    known, unknown = load_gallery(folder)
    depth, (pixels, _) = known.depth(*size), known.picture(*size)
    assert depth is not None
    assert depth.shape == pixels.shape[:2]
    assert np.abs(80 * depth.astype(float) - pixels[..., 0]).max() <= 2  # a step of the ramp, and rounding
    assert unknown.depth(*size) is None


@given(grids)
def test_cards_lie_inside_the_window_apart_from_each_other(grid: Grid) -> None:
    cards = [grid.card(i) for i in range(grid.count)]
    for left, top, width, height in cards:
        assert left >= 0
        assert top >= 0
        assert left + width <= grid.size[0]
        assert top + height <= grid.size[1]
    assert len({(c[0], c[1]) for c in cards}) == grid.count


@given(grids, st.data())
def test_a_point_on_a_card_chooses_it(grid: Grid, data: st.DataObject) -> None:
    i = data.draw(st.integers(0, grid.count - 1))
    left, top, width, height = grid.card(i)
    assert grid.point(left + width // 2, top + height // 2).chosen == i
    assert grid.point(-5, -5).chosen == grid.chosen


@given(grids, st.lists(st.tuples(st.integers(-1, 1), st.integers(-1, 1)), max_size=30))
def test_moving_never_leaves_the_scenes(grid: Grid, moves: list[tuple[int, int]]) -> None:
    for dx, dy in moves:
        grid = grid.move(dx, dy)
        assert 0 <= grid.chosen < grid.count


def test_every_scene_can_be_reached() -> None:
    grid = Grid(12, (1280, 800))
    assert grid.columns == 4
    seen = set()
    for _ in range(3):
        for _ in range(4):
            seen.add(grid.chosen)
            grid = grid.move(1, 0)
        for _ in range(4):
            grid = grid.move(-1, 0)
        grid = grid.move(0, 1)
    assert len(seen) == 12
