"""A minute of flight without a window: speed, memory and finiteness, chunk by chunk.

    python benchmarks/pocket.py --threads 2 --seconds 60

Prints a table and, with --json FILE, writes every chunk's figures.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import psutil
import torch
from rich.console import Console
from rich.table import Table

from engine.engine import Engine
from explorer.assets import assets_folder, load_gallery
from explorer.dialect import POCKET_MOTION
from explorer.path import load_path

PATH = "w-64,dw-32,w-48,d-24,w-64,aw-40,none-16"  # walks, turns and a rest, repeated


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--threads", type=int, default=None, help="of the model")
    flags.add_argument("--seconds", type=int, default=60, help="of flight")
    flags.add_argument("--device", default="auto")
    flags.add_argument("--scene", default="meadow", help="of the gallery")
    flags.add_argument("--json", type=Path, default=None)
    options = flags.parse_args()

    assets = assets_folder()
    scene = next(s for s in load_gallery(assets / "gallery") if s.name == options.scene)
    begun = time.perf_counter()
    engine = Engine.load("pocket", assets=assets, device=options.device, threads=options.threads)
    loaded = time.perf_counter() - begun
    spec, process = engine.spec, psutil.Process()
    frames = options.seconds * spec.fps
    flown = load_path(",".join([PATH] * (1 + frames // 300)), motion=POCKET_MOTION).from_start(scene.pose)
    path = [flown.pose(i) for i in range(frames + 1)]

    pixels, lens = scene.picture(spec.width, spec.height)
    state = engine.start(pixels, pose=path[0], intrinsics=lens, words=scene.words).state
    rows = []
    for first in range(1, frames + 1 - spec.chunk_frames, spec.chunk_frames):
        chunk = engine.step(state, path[first : first + spec.chunk_frames], intrinsics=lens)
        state = chunk.state
        rows.append({**chunk.timing, "total": sum(chunk.timing.values()), "rss": process.memory_info().rss})
    finite = all(bool(t.isfinite().all()) for t in (state.latent, *(b.ffn for b in state.blocks)))
    report(options, engine, loaded, rows, finite)
    if options.json:
        options.json.write_text(json.dumps({"load": loaded, "chunks": rows}, indent=1))


def floor(engine: Engine, repeats: int = 20) -> float:
    """Median seconds of the bare matrix products of one model pass: the weights of every linear layer, nothing else."""
    model, tokens = engine.generator.model, 160
    shapes = [
        p.flatten(1) for p in model.blocks.parameters() if p.ndim >= 2 and min(p.shape[0], p[0].numel()) >= 16
    ]
    inputs = {w.shape[1]: torch.randn(tokens, w.shape[1], device=w.device, dtype=w.dtype) for w in shapes}
    times = []
    with torch.inference_mode():
        for _ in range(repeats):
            begun = time.perf_counter()
            for w in shapes:
                torch.nn.functional.linear(inputs[w.shape[1]], w)
            if engine.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - begun)
    return statistics.median(times)


def report(
    options: argparse.Namespace, engine: Engine, loaded: float, rows: list[dict], finite: bool
) -> None:
    def ms(part: list[dict], key: str) -> str:
        values = [1e3 * row[key] for row in part]
        return f"{statistics.median(values):.0f} / {statistics.quantiles(values, n=10)[-1]:.0f}"

    early, late = rows[4:20], rows[-20:]
    table = Table(title=f"pocket, {engine.device}, {torch.get_num_threads()} threads, {len(rows)} chunks")
    table.add_column("ms, median / p90")
    for name in ("2nd to 10th second", "last 10 seconds"):
        table.add_column(name, justify="right")
    for key in (k for k in rows[-1] if k != "rss"):
        table.add_row(key, ms(early, key), ms(late, key))
    at = lambda second: rows[min(2 * second, len(rows)) - 1]["rss"] / 2**20
    table.add_row("resident memory, MiB", f"{at(10):.1f} at 10 s", f"{at(len(rows) // 2):.1f} at the end")
    console = Console()
    console.print(table)
    total = statistics.median(row["total"] for row in late)
    console.print(
        f"load {loaded:.2f} s · {engine.spec.chunk_frames / total:.1f} frames/s generated · "
        f"bare matrix products of a pass {1e3 * floor(engine):.0f} ms · memory {at(len(rows) // 2) / at(10) - 1:+.2%} from 10 s · state {'finite' if finite else 'NOT FINITE'}"
    )


if __name__ == "__main__":
    main()
