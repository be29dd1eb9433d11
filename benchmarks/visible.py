"""How true a flight keeps what its first picture showed: the simple path of every fourth held-out world, for 10 s.

    python -m benchmarks.visible

The quick look that the memory's numbers are chosen by: PSNR on what is seen in the first picture and of the whole frame,
and sharpness as a share of the truth's, at 4, 8 and 10 s. Six minutes on two cores, most of it for the true films.
`explorer evaluate` measures all 64 worlds, whole minutes and much more.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from engine.codec import load_codec
from engine.engine import compute_dtype, load_world
from engine.measure.command import HELD_OUT
from engine.measure.film import film, show
from engine.measure.paths import plan
from engine.measure.visible import masked_psnr, visible
from engine.metrics import sharpness
from engine.train.codec_report import to_float
from engine.worlds.renderer import Renderer
from explorer.assets import assets_folder

AT = (64, 128, 160)  # pixel frames: 4, 8 and 10 s


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    pocket = assets_folder() / "pocket"
    flags.add_argument("--world", type=Path, default=pocket / "world.safetensors", help="weights to fly")
    flags.add_argument("--worlds", type=int, default=16, help="every fourth of the fixed set, so many")
    given = flags.parse_args()
    say, device = Console(stderr=True, highlight=False).print, torch.device("cpu")
    dtype = compute_dtype(device)
    try:
        model = load_world(given.world, dtype=dtype, device=device)
    except ValueError as error:
        raise SystemExit(f"{error}") from None
    codec, renderer = load_codec(pocket / "codec.safetensors", dtype=dtype, device=device), Renderer("cpu")
    simple, end = [plan(renderer, seed)[0] for seed in HELD_OUT[1:64:4][: given.worlds]], AT[-1] + 1
    flights = [replace(f, poses=f.poses[:end], intrinsics=f.intrinsics[:end]) for f in simple]
    say(f"rendering {len(flights)} true flights of 10 s")
    shown = show(renderer, flights)
    truth, depth, at = shown.truth, shown.inverse_depth, list(AT)
    seen = visible(
        depth[:, at],
        truth.poses[:, at],
        truth.intrinsics[:, at],
        first_depth=depth[:, 0],
        first_pose=truth.poses[:, 0],
        first_intrinsics=truth.intrinsics[:, 0],
    )
    say("flying them")
    made, true = (to_float(frames[:, at]) for frames in (film(model, codec, truth).frames, truth.frames))
    rows = {
        "visible, dB": masked_psnr(made, true, seen).nanmean(0),
        "whole, dB": masked_psnr(made, true, torch.ones_like(seen)).mean(0),
        "sharpness": torch.stack([share(made[:, k], true[:, k]) for k in range(len(AT))]),
    }
    table = Console(highlight=False)
    for name, values in rows.items():
        table.print(f"{name:12s}" + "".join(f"{float(x):8.2f}" for x in values))


def share(made: Tensor, true: Tensor) -> Tensor:
    """Of the truth's sharpness."""
    return sharpness(made).mean() / sharpness(true).mean()


if __name__ == "__main__":
    main()
