"""The streaming sana-wm at its true size with random weights: stage times, peak memory, and whether memory stays flat.

    python benchmarks/sana_wm.py [CHUNKS] [RESULT.json]      default 40 chunks: 961 frames, a minute of flight

Three set-ups one after the other: stage 1 alone, with the codec, with codec and refiner. Each time stands beside its
floor: the products of the stage at the rate that this GPU reaches on large bf16 products.
"""

from __future__ import annotations

import gc
import json
import math
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import torch

from engine.camera import Intrinsics, Pose
from engine.conditioning import Anchor, pose_tensor
from engine.opening import open_sana
from engine.sana import SanaEngine
from engine.setup import GB, Setup

CHUNKS = 40
WARM = 8  # chunks until every window is full: what is measured comes after
TFLOP = {"denoise": 73.0, "decode": 27.0, "refine": 383.0}  # of a chunk at 704×1280, counted from the shapes


def main(arguments: Sequence[str]) -> int:
    chunks = int(arguments[0]) if arguments else CHUNKS
    if not torch.cuda.is_available():
        print("no GPU here: this measures one", file=sys.stderr)  # noqa: T201 -- for people
        return 2
    setup = Setup(random_weights=True)
    result = run(setup, device="cuda", chunks=chunks, say=print)
    if len(arguments) > 1:
        Path(arguments[1]).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0 if all(part["flat"] and part["finite"] for part in result["parts"].values()) else 1


def run(setup: Setup, *, device: str, chunks: int, say) -> dict:
    """Measure every set-up; say: prints a line as soon as it is known."""
    cuda = device == "cuda"
    rate = product_rate() if cuda else None
    name = torch.cuda.get_device_name() if cuda else "CPU"
    say(
        f"{name}, torch {torch.__version__}"
        + (f", {rate:.0f} TFLOP/s on large bf16 products" if rate else "")
    )
    result = {"device": name, "torch": torch.__version__, "tflops": rate, "chunks": chunks, "parts": {}}
    for part in ("stage 1", "stage 1 + codec", "stage 1 + codec + refiner"):
        _forget(cuda)
        begun = time.perf_counter()
        engine = open_sana(replace(setup, refiner="on" if part.endswith("refiner") else "off"), device=device)
        loaded = time.perf_counter() - begun
        if part == "stage 1":
            engine.vae.decoder.to("meta")  # neither its weights nor its work
            found = stage_1(engine, chunks)
        else:
            found = flight(engine, chunks)
        result["parts"][part] = {"load_s": loaded, **found}
        del engine
        report(part, result["parts"][part], rate, say)
    return result


def flight(engine: SanaEngine, chunks: int) -> dict:
    """Fly a slow bend and measure every chunk after the first few."""
    lens, picture = scene(engine)
    _reset_peak(engine)
    chunk = engine.start(picture, pose=Pose(), intrinsics=lens, seed=1)
    times, memory, finite = [], [], True
    for k in range(chunks):
        begun = time.perf_counter()
        chunk = engine.step(chunk.state, bend(k, engine.spec.chunk_frames), intrinsics=lens)
        times.append({**chunk.timing, "chunk": time.perf_counter() - begun})
        memory.append(_allocated(engine))
        finite &= len({f.pixels.tobytes() for f in chunk.frames}) == len(chunk.frames)
    finite &= all(bool(t.isfinite().all()) for t in tensors(chunk.state) if t.is_floating_point())
    return {
        "frames": 1 + chunks * engine.spec.chunk_frames,
        "seconds": summary(times),
        "state_bytes": sum(t.nbytes for t in tensors(chunk.state)),
        **_memory(engine, memory),
        "finite": finite,
    }


@torch.inference_mode()
def stage_1(engine: SanaEngine, chunks: int) -> dict:
    """Latents only: what the codec would show is thrown away."""
    lens, _ = scene(engine)
    config = engine.generator.config
    still = torch.randn(1, config.latent_channels, *engine.grid, device=engine.device)
    camera = pose_tensor([Pose()])[:, 0]
    state = engine.generator.begin(
        still,
        text=engine.text.world,
        text_mask=engine.text.world_mask,
        seed=1,
        anchor=Anchor(pose=camera, camera=camera),
    )
    _reset_peak(engine)
    times, memory, finite = [], [], True
    for k in range(chunks):
        begun = time.perf_counter()
        cond, anchor = engine.condition(state, pose_tensor(bend(k, engine.spec.chunk_frames)), lens)
        latents, state = engine.generator.step(state, cond=cond.to(engine.device), anchor=anchor)
        finite &= bool(latents.isfinite().all())
        seconds = time.perf_counter() - begun
        times.append({"denoise": seconds, "chunk": seconds})
        memory.append(_allocated(engine))
    return {
        "frames": 1 + chunks * engine.spec.chunk_frames,
        "seconds": summary(times),
        "state_bytes": sum(t.nbytes for t in tensors(state)),
        **_memory(engine, memory),
        "finite": finite,
    }


def report(part: str, found: dict, rate: float | None, say) -> None:
    peak = f", peak {found['peak'] / GB:.1f} GB" if found["peak"] else ""
    say(
        f"{part}: loaded in {found['load_s']:.1f} s{peak}, state {found['state_bytes'] / GB:.2f} GB, "
        f"memory {'flat' if found['flat'] else 'GROWS'}, {'finite' if found['finite'] else 'NOT FINITE'}"
    )
    for stage, (median, p90) in found["seconds"].items():
        floor = f", {median * rate / TFLOP[stage]:.1f} × its floor" if rate and stage in TFLOP else ""
        frames = f", {24 / median:.1f} frames/s" if stage == "chunk" else ""
        say(f"    {stage:8} {median * 1e3:8.1f} ms, p90 {p90 * 1e3:8.1f} ms{floor}{frames}")


def summary(times: list[dict[str, float]]) -> dict[str, tuple[float, float]]:
    """Median and 90th percentile by stage, warm chunks only where there are any."""
    warm = times[WARM:] or times[-1:]
    out = {}
    for stage in warm[0]:
        values = sorted(t[stage] for t in warm)
        out[stage] = (statistics.median(values), values[math.ceil(0.9 * len(values)) - 1])
    return out


def product_rate(size: int = 8192, repeats: int = 30) -> float:
    """TFLOP/s of one square bf16 product."""
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    for _ in range(3):
        a @ b
    torch.cuda.synchronize()
    begun = time.perf_counter()
    for _ in range(repeats):
        a @ b
    torch.cuda.synchronize()
    return 2 * size**3 * repeats / (time.perf_counter() - begun) / 1e12


def scene(engine: SanaEngine) -> tuple[Intrinsics, np.ndarray]:
    spec = engine.spec
    noise = np.random.default_rng(0).integers(0, 256, (spec.height // 16, spec.width // 16, 3), np.uint8)
    picture = noise.repeat(16, axis=0).repeat(16, axis=1)
    return Intrinsics.from_fov(1.2, width=spec.width, height=spec.height), picture


def bend(chunk: int, frames: int) -> list[Pose]:
    """Forward at 0.025 units and 0.2 degrees per frame, the speed of the release's own walks."""
    poses = []
    for n in range(chunk * frames + 1, (chunk + 1) * frames + 1):
        a, m = math.radians(0.2 * n), np.eye(4)
        m[:3, :3] = [[math.cos(a), 0, math.sin(a)], [0, 1, 0], [-math.sin(a), 0, math.cos(a)]]
        radius = 0.025 / math.radians(0.2)
        m[:3, 3] = [radius * (1 - math.cos(a)), 0, radius * math.sin(a)]
        poses.append(Pose.from_matrix(m))
    return poses


def tensors(value: object) -> list[torch.Tensor]:
    """All tensors of a state."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, tuple):
        return [t for v in value for t in tensors(v)]
    if is_dataclass(value):
        return [t for f in fields(value) for t in tensors(getattr(value, f.name))]
    return []


def _memory(engine: SanaEngine, allocated: list[int]) -> dict:
    """Flat: after the windows are full, no chunk ends with 1 % more than another."""
    warm = allocated[WARM:] or allocated[-1:]
    peak = torch.cuda.max_memory_allocated() if engine.device.type == "cuda" else 0
    return {"peak": peak, "allocated": warm[-1], "flat": max(warm) <= 1.01 * min(warm)}


def _allocated(engine: SanaEngine) -> int:
    return torch.cuda.memory_allocated() if engine.device.type == "cuda" else 0


def _reset_peak(engine: SanaEngine) -> None:
    if engine.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def _forget(cuda: bool) -> None:
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
