"""A world of random weights, small enough for tests, exported and loaded like the real one; and a screen to see it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch

from engine.checkpoint import save_module
from engine.codec import Codec
from engine.config import POCKET, POCKET_CODEC, memory_channels
from engine.model import WorldModel

MODEL = dataclasses.replace(POCKET, dim=80, depth=3, softmax_blocks=(1,))
CODEC = dataclasses.replace(POCKET_CODEC, encoder_widths=(8, 16, 16), decoder_widths=(16, 16, 8, 8))


def tiny_assets(folder: Path, *, scenes: int = 12, seed: int = 0, remembers: bool = False) -> Path:
    """Write weights and a gallery into `folder` and return it. remembers: with spatial memory."""
    model = dataclasses.replace(MODEL, memory_channels=memory_channels(CODEC)) if remembers else MODEL
    (folder / "pocket").mkdir(parents=True)
    (folder / "gallery").mkdir()
    torch.manual_seed(seed)
    for kind, module, config in (("codec", Codec(CODEC), CODEC), ("world", WorldModel(model), model)):
        save_module(
            folder / "pocket" / f"{kind}.safetensors", module, kind=kind, config=dataclasses.asdict(config)
        )
    entries = [_scene(folder / "gallery", i) for i in range(scenes)]
    (folder / "gallery" / "gallery.json").write_text(json.dumps(entries))
    return folder


def _scene(folder: Path, i: int) -> dict[str, object]:
    name = f"scene-{i}"
    cv2.imwrite(str(folder / f"{name}.png"), hills(i))
    pose = np.eye(4)
    pose[:3, 3] = (i, -2.0, 0.0)
    return {
        "name": name,
        "picture": f"{name}.png",
        "title": f"Hills {i}",
        "seed": i,
        "words": [0] * 8,
        "pose": pose.tolist(),
        "intrinsics": [200.0, 200.0, 128.0, 80.0],
    }


def hills(i: int, width: int = 256, height: int = 160) -> np.ndarray:
    """[height, width, 3] of sky and ground that differ from scene to scene."""
    y, x = np.mgrid[:height, :width]
    ground = y > height / 2 + 12 * np.sin(x / 30 + i)
    colors = np.array([[235 - 9 * i, 190, 90 + 12 * i], [60, 120 + 8 * i, 70]])
    return (colors[ground.astype(int)] - y[..., None] // 4).clip(0, 255).astype(np.uint8)


@contextlib.contextmanager
def screen(size: str = "1280x800") -> Iterator[dict[str, str]]:
    """A private X server; the environment that shows windows on it."""
    read, write = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", f"{size}x24", "-nolisten", "tcp"],
        pass_fds=(write,),
        stderr=subprocess.DEVNULL,
    )
    os.close(write)
    try:
        with os.fdopen(read) as pipe:
            number = pipe.readline().strip()
        assert number, "Xvfb did not start"
        yield {**os.environ, "DISPLAY": f":{number}"}
    finally:
        server.terminate()
        server.wait()
