"""States to files and back: what continues from a file is what would have continued."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from engine.camera import Intrinsics, Pose
from engine.engine import Engine
from engine.opening import open_sana
from engine.savable import load_value, read_note, save_value
from engine.state import StreamState
from tests.tiny import hills, tiny_assets
from tests.tiny_sana import SETUP


def walk(first: int, count: int) -> list[Pose]:
    return [Pose(t=np.array([0.0, 0.0, 0.05 * (first + i)])) for i in range(count)]


@pytest.mark.parametrize("world", ["pocket", "sana-wm"])
@pytest.mark.parametrize("chunks", [0, 2])
def test_saved_and_continued_is_continued(world: str, chunks: int, tmp_path: Path) -> None:
    engine = (
        open_sana(SETUP, device="cpu")
        if world == "sana-wm"
        else Engine.load("pocket", assets=tiny_assets(tmp_path / "assets"), device="cpu")
    )
    spec = engine.spec
    lens = Intrinsics.from_fov(1.2, width=spec.width, height=spec.height)
    n = spec.chunk_frames
    chunk = engine.start(hills(0, spec.width, spec.height), pose=Pose(), intrinsics=lens, seed=2**62)
    for k in range(chunks):
        chunk = engine.step(chunk.state, walk(n * k, n), intrinsics=lens)
    file = tmp_path / "state.safetensors"
    save_value(file, chunk.state, note={"chunk": str(chunks)})
    assert read_note(file) == {"chunk": str(chunks)}
    loaded = load_value(file, StreamState)
    one = engine.step(chunk.state, walk(n * chunks, n), intrinsics=lens)
    two = engine.step(loaded, walk(n * chunks, n), intrinsics=lens)
    for a, b in zip(one.frames, two.frames, strict=True):
        assert np.array_equal(a.pixels, b.pixels)
    assert torch.equal(one.state.latent, two.state.latent)


def test_what_is_no_state_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "state.safetensors"
    for content in (b"", b"garbage" * 50):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="is damaged"):
            load_value(file, StreamState)
    save_file({"x": torch.ones(2)}, file)
    with pytest.raises(ValueError, match="not saved by this version"):
        load_value(file, StreamState)
    save_file({"x": torch.ones(2)}, file, {"format": "1", "value": '{"blocks": []}', "note": "{}"})
    with pytest.raises(ValueError, match="holds no StreamState"):
        load_value(file, StreamState)
