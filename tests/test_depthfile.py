"""Depth pictures: what is written comes back, and nothing else is taken for one."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from engine.config import FARTHEST, NEAREST
from engine.depth import SCALE, depth_code
from engine.depthfile import STEPS, depth_levels, depth_of_levels, read_depth, write_depth

SIZE = dict(width=80, height=64)


def halves() -> np.ndarray:
    """All inverse depths that fp16 has from FARTHEST to NEAREST, and the sky."""
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    with np.errstate(invalid="ignore"):
        return np.concatenate([[np.float16(0)], every[(every >= 1 / FARTHEST) & (every <= 1 / NEAREST)]])


@given(arrays(np.float64, (4, 5), elements=st.floats(1 / FARTHEST, 1 / NEAREST)))
def test_depth_comes_back_within_half_a_step(d: np.ndarray) -> None:
    error = np.abs(np.log(depth_of_levels(depth_levels(d)) / d))
    assert (error <= SCALE / STEPS / 2 * (1 + 1e-9)).all()


def test_the_levels_are_the_code_of_the_codec() -> None:
    d = torch.logspace(-4, 2, 999, dtype=torch.float64)
    expected = 1 + (STEPS * depth_code(d)).round()
    assert np.array_equal(depth_levels(d.numpy()), expected.numpy())
    assert depth_levels(np.zeros(1)) == 0
    assert depth_of_levels(np.array([0], np.uint16)) == 0


def test_what_the_renderer_says_comes_back_exactly(tmp_path: Path) -> None:
    """It speaks fp16, whose steps are wider than those of the file."""
    d = np.resize(halves(), (128, math.ceil(len(halves()) / 128)))
    write_depth(tmp_path / "a.png", d)
    back = read_depth(tmp_path / "a.png", width=d.shape[1], height=d.shape[0])
    assert back.dtype == np.float16
    assert np.array_equal(back, d)


def test_a_file_that_is_no_depth_is_one_sentence(tmp_path: Path) -> None:
    path, good = tmp_path / "a.png", np.full((64, 80), 0.1, np.float16)
    write_depth(path, good)
    data = path.read_bytes()

    def refused(told: str, **size: int) -> None:
        with pytest.raises(ValueError, match=told) as caught:
            read_depth(path, **{**SIZE, **size})
        assert "\n" not in str(caught.value)

    refused("80x64 pixels and its picture 81x64", width=81)
    refused("80x64 pixels and its picture 64x80", width=64, height=80)
    for bad, told in (
        (data[:100], "broken or truncated"),
        (data[:20], "broken depth picture"),
        (data[:60] + bytes(40) + data[100:], "broken or truncated|no depth picture"),
        (b"", "no depth picture"),
        (b"never a picture", "no depth picture"),
    ):
        path.write_bytes(bad)
        refused(told)
    for wrong in (
        np.zeros((64, 80), np.uint8),
        np.zeros((64, 80, 3), np.uint16),
        np.zeros((64, 80, 4), np.uint8),
    ):
        cv2.imwrite(str(path), wrong)
        refused("grey PNG of 16 bits")
    jpeg = cv2.imencode(".jpg", np.zeros((64, 80), np.uint8))[1]
    path.write_bytes(jpeg.tobytes())
    refused("grey PNG of 16 bits")
    path.unlink()
    refused("there is no picture")


@pytest.mark.parametrize(
    "bad", [np.full((64, 80), -1.0), np.full((64, 80), np.nan), np.full((64, 80, 1), 0.5)]
)
def test_what_is_unknown_is_not_written(bad: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown depth"):
        write_depth(tmp_path / "a.png", bad)
    assert not (tmp_path / "a.png").exists()
