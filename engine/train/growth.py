"""What a flight costs by its length: memory of the state and time of a chunk, for models that remember differently.

python -m engine.train.growth --chunks 240 --out growth.svg
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console

from engine.conditioning import condition_clip
from engine.config import POCKET_MEMORY, ModelConfig
from engine.curve import curve
from engine.generator import Generator
from engine.model import WorldModel
from engine.values import tensors

LENS = (200.0, 200.0, 128.0, 80.0)
SPEED = 0.25  # metres per frame, straight on


def state_bytes(value: object) -> int:
    """Of all tensors in a dataclass or tuple, each storage once."""
    return sum(
        {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors(value)}.values()
    )


@torch.inference_mode()
def growth(
    config: ModelConfig, *, chunks: int, every: int, device: torch.device, dtype: torch.dtype
) -> list[dict[str, float]]:
    """Fly a model of random weights straight on. Returns rows of seconds, megabytes, milliseconds (median since the last).

    What is generated does not matter: work and memory depend on the sizes alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = WorldModel(config).to(device, dtype).eval()
    generator, frames = Generator(model), 8 * chunks + 1
    poses = torch.eye(4, dtype=torch.float64).repeat(1, frames, 1, 1)
    poses[:, :, 2, 3] = SPEED * torch.arange(frames)
    lens = torch.tensor(LENS, dtype=torch.float64).expand(1, frames, 4)
    grid = (10, 16)
    cond = condition_clip(poses.to(device), lens.to(device), grid=grid, config=config)
    first = torch.zeros(1, config.latent_channels, *grid, device=device)
    words = torch.zeros(1, config.caption_tokens, dtype=torch.int64, device=device)
    _, state = generator.start(first, text=words, cond=cond.part(0, 1), seed=0)
    rows: list[dict[str, float]] = []
    times: list[float] = []
    for chunk in range(1, chunks + 1):
        begun = time.perf_counter()
        latents, state = generator.step(state, cond=cond.part(chunk, chunk + 1))
        float(latents.sum())  # waits for the device
        times.append(1e3 * (time.perf_counter() - begun))
        if chunk % every == 0:
            size = state_bytes(state.blocks) / 1e6
            rows.append(
                {"seconds": chunk / 2, "megabytes": size, "milliseconds": sorted(times)[len(times) // 2]}
            )
            times = []
    return rows


@dataclass(frozen=True, kw_only=True)
class Growth:
    """Draw what a flight costs by its length: pocket as it is, and of softmax blocks alone that see the whole flight."""

    out: Path = Path("runs/growth.svg")
    """picture to write"""
    chunks: int = 240
    """length of the flights, 0.5 s each"""
    device: Literal["cpu", "cuda"] = "cpu"
    """where to fly"""


def drawn(out: Path, *, chunks: int, device: torch.device) -> dict[str, list[dict[str, float]]]:
    """Measure both, and draw the state's memory. Returns the rows of each."""
    alone = replace(POCKET_MEMORY, softmax_blocks=tuple(range(POCKET_MEMORY.depth)), window=chunks + 1)
    every = max(1, chunks // 12)
    rows = {
        name: growth(config, chunks=chunks, every=every, device=device, dtype=torch.bfloat16)
        for name, config in (("GDN and softmax", POCKET_MEMORY), ("softmax alone", alone))
    }
    lines = {name: [(r["seconds"], r["megabytes"]) for r in of] for name, of in rows.items()}
    top = max(y for line in lines.values() for _, y in line)
    step = 10 ** math.floor(math.log10(top))
    plot = curve(
        lines,
        x="seconds of flight",
        y="MB of state",
        x_range=(0, chunks / 2),
        y_range=(0, step * math.ceil(top / step)),
        x_step=max(1, chunks // 12),
        y_step=step,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(plot)
    return rows


def main() -> None:
    """The command line of this file."""
    import tyro

    options = tyro.cli(Growth)
    console = Console(highlight=False)
    for name, rows in drawn(options.out, chunks=options.chunks, device=torch.device(options.device)).items():
        for row in rows:
            console.print(
                f"{name:16} {row['seconds']:5.0f} s  {row['megabytes']:7.1f} MB  {row['milliseconds']:7.1f} ms a chunk"
            )


if __name__ == "__main__":
    main()
