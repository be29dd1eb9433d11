"""Time one training step of the world model with each fast path on and off, and compare what they compute.

    python benchmarks/train_step.py

First: loss and gradients of every variant against the plain form, all in fp32, without a compiler. Then: milliseconds
per step (loss, backward pass, clipping, optimiser, averaged weights), at both clip lengths of the training. Variants
left when `--seconds` are over are named and skipped.
"""

# ruff: noqa: T201 -- a table is what it is for

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
import tyro
from torch import Tensor, nn

import engine.attention
import engine.ffn
import engine.gdn
import engine.layout
import kernels.gdn_chunk
from engine.bench.ceilings import matmul_rate
from engine.conditioning import condition_clip
from engine.config import POCKET
from engine.model import WorldModel
from engine.train.host import Host, host
from engine.train.optim import Ema, Optimiser
from engine.train.pool import Batch
from engine.train.world import OPTIM, Learner, WorldTraining, is_edge

OFF: dict[str, tuple[Any, str, Any]] = {  # fast path → what turns it off
    "scan": (engine.gdn, "suits", lambda x, **_: False),
    "ffn": (engine.ffn, "gated_conv", engine.ffn.gated_conv_plain),
    "band": (engine.layout, "window_band", lambda *_: 0),
    "words": (engine.attention, "FEW", 0),
}
VARIANTS = {"all": (), **{f"without {name}": (name,) for name in OFF}, "plain": tuple(OFF)}
TUNING = {  # of the scan's kernel: tokens per step, warps forward and back
    f"scan {block}/{there}/{back}": {"BLOCK": block, "WARPS": there, "WARPS_BACK": back}
    for block, there, back in ((32, 4, 4), (64, 4, 8), (32, 8, 8), (16, 4, 4))
}


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What to measure."""

    batch: int = 64
    """clips of the shorter length per step; the longer ones are as many tokens"""
    frames: tuple[int, ...] = (13, 25)
    """latent frames of a clip"""
    steps: int = 12
    """timed steps"""
    seconds: float = 110.0
    """no new variant is started after this"""
    compile: bool = True
    """compile the blocks, as the training does"""
    device: str = "auto"
    """cuda or cpu"""
    check: bool = True
    """compare what the variants compute"""
    profile: bool = False
    """print the longest kernels of a step with everything on, too"""
    tune: bool = False
    """time the scan's kernel alone at other block sizes, and leave"""


@contextmanager
def without(names: tuple[str, ...]) -> Iterator[None]:
    """Turn fast paths off."""
    patches = [patch.object(*OFF[name]) for name in names]
    for p in patches:
        p.start()
    torch._dynamo.reset()
    try:
        yield
    finally:
        for p in patches:
            p.stop()


def made_up(count: int, frames: int, device: torch.device) -> Batch:
    """Clips that move on and turn, with random latents."""
    n = 8 * (frames - 1) + 1
    t = torch.arange(n, device=device) / 16
    poses = torch.eye(4, device=device).repeat(count, n, 1, 1)
    c, s = (0.4 * t).cos(), (0.4 * t).sin()
    poses[..., 0, 0], poses[..., 0, 2], poses[..., 2, 0], poses[..., 2, 2] = c, s, -s, c
    poses[..., 2, 3] = 3 * t
    g = torch.Generator(device).manual_seed(0)
    latents = torch.randn(count, 32, frames, 10, 16, device=device, generator=g)
    return Batch(
        latents=latents.bfloat16() if device.type == "cuda" else latents,
        poses=poses,
        intrinsics=torch.tensor([200.0, 200.0, 128.0, 80.0], device=device).expand(count, n, 4),
        words=torch.randint(0, 64, (count, 8), device=device, generator=g),
    )


def fresh(here: Host) -> WorldModel:
    """A model in which nothing is switched off by a zero."""
    torch.manual_seed(0)
    model = WorldModel(POCKET)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.02 * torch.randn_like(p))
    return model.to(here.device)


def gradients(here: Host, frames: int, *, low: bool = False) -> list[Tensor]:
    """Loss and gradients of one small batch in fp32; low: as the training computes them, in bf16."""
    model = fresh(here)
    learner = Learner(model, WorldTraining(compile=False), here)
    batch = made_up(2, frames, here.device)
    generator = torch.Generator(here.device).manual_seed(1)
    x = torch.randn(batch.latents.shape, device=here.device, generator=generator)
    x = x.bfloat16() if low else x
    levels = torch.rand(2, frames, device=here.device, generator=generator)
    cond = condition_clip(
        batch.poses, batch.intrinsics, grid=learner.grid, config=POCKET, radius=levels.new_tensor([2.0, 6.0])
    )
    with torch.autocast(here.device.type, torch.bfloat16, enabled=low):
        text = model.embed_text(batch.words)
        flow, _ = model(x, timestep=1000 * levels, text=text, text_mask=None, cond=cond)
    loss = (flow.float() - x.float()).square().mean()
    loss.backward()
    return [loss.detach(), *(p.grad if p.grad is not None else torch.zeros(1) for p in model.parameters())]


def compare(here: Host) -> None:
    """Print how far every variant is from the plain one in fp32. In bf16 both should be about equally far."""
    torch.set_float32_matmul_precision("highest")
    with without(tuple(OFF)):
        want = gradients(here, 11)
    for name, off in VARIANTS.items():
        with without(off):
            show(name, gradients(here, 11), want)
    torch.set_float32_matmul_precision("high")  # as in training
    for name in ("plain", "all"):
        with without(VARIANTS[name]):
            show(f"{name}, bf16", gradients(here, 11, low=True), want)


def show(name: str, got: list[Tensor], want: list[Tensor]) -> None:
    flat = [torch.cat([t.flatten().double() for t in x[1:]]) for x in (got, want)]
    loss = abs(float(got[0] / want[0]) - 1)
    gradient = float((flat[0] - flat[1]).norm() / flat[1].norm())
    print(f"  {name:16s} loss {loss:.1e}  gradient {gradient:.1e}", flush=True)


def stepper(here: Host, options: Bench, frames: int) -> Callable[[int], Tensor]:
    """A training step on made-up clips."""
    model = fresh(here)
    learner = Learner(model, WorldTraining(compile=options.compile), here)
    optimiser, ema = Optimiser(model, OPTIM, adam=is_edge), Ema(model, decay=0.999)
    batch = made_up(max(1, options.batch * min(options.frames) // frames), frames, here.device)

    def step(i: int) -> Tensor:
        loss = learner.loss(batch, corrupt=False, generator=here.generator(0, i))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step(0.5)
        ema.update(model)
        return loss.detach()

    return step


def measure(here: Host, options: Bench, name: str, frames: int, peak: float) -> None:
    """Print a line: first step (compilation), steps after it, rates."""
    torch.set_float32_matmul_precision("high")
    step = stepper(here, options, frames)
    start = time.perf_counter()
    float(step(0))
    first = time.perf_counter() - start
    float(step(1))
    start = time.perf_counter()
    for i in range(options.steps):
        loss = step(2 + i)
    launched = (time.perf_counter() - start) / options.steps
    float(loss)
    seconds = (time.perf_counter() - start) / options.steps
    clips = max(1, options.batch * min(options.frames) // frames)
    flop = 6.0 * sum(p.numel() for p in fresh(here).parameters()) * clips * frames * 160
    share = f"{flop / seconds / peak:6.1%}" if peak else "     ?"
    memory = torch.cuda.max_memory_allocated() / 2**30 if here.device.type == "cuda" else 0.0
    print(
        f"  {name:16s} {frames:3d} {1e3 * seconds:8.1f} {1e3 * launched:8.1f} {clips * (frames - 1) / seconds:9.0f}"
        f" {flop / seconds / 1e12:8.1f} {share} {memory:8.1f} {first:8.1f}",
        flush=True,
    )
    if options.profile and name == "all":
        with torch.profiler.profile() as profile:
            float(step(0))
        print(profile.key_averages().table(sort_by="self_cuda_time_total", row_limit=30))


def tune(here: Host, options: Bench) -> None:
    """Print milliseconds of the scan alone, forward and backward together, as a step calls it."""
    import triton.testing

    for frames in options.frames:
        clips = max(1, options.batch * min(options.frames) // frames)
        shape = (clips, POCKET.heads, frames, 160, POCKET.head_dim)
        order = (clips, frames, 160, POCKET.heads, POCKET.head_dim)
        q, k, v = (
            torch.randn(order, device=here.device, dtype=torch.bfloat16)
            .permute(0, 3, 1, 2, 4)
            .requires_grad_()
            for _ in range(3)
        )
        beta, decay = torch.rand(shape[:4], device=here.device), torch.rand(shape[:3], device=here.device)
        S = torch.zeros(clips, POCKET.heads, *2 * (POCKET.head_dim,), device=here.device)

        def both() -> None:
            o, _ = kernels.gdn_chunk.gdn_chunk(q=q, k=k * 0.01, v=v, beta=beta, decay=decay, S=S)  # noqa: B023
            o.backward(o.detach())

        for name, sizes in {"scan as it is": {}, **TUNING}.items():
            with patch.multiple(kernels.gdn_chunk, **sizes) if sizes else without(()):
                print(f"  {name:16s} {frames:3d} {triton.testing.do_bench(both, rep=50):8.3f} ms", flush=True)


def main(options: Bench) -> None:
    start = time.perf_counter()
    with host(options.device) as here:
        if options.tune:
            tune(here, options)
            return
        if options.check:
            print("difference from the plain form in fp32", flush=True)
            compare(here)
        peak = matmul_rate(here.device)
        print(f"\nbf16 matrix products: {peak / 1e12:.0f} TFLOP/s")
        columns = ("ms/step", "launched", "chunks/s", "TFLOP/s", "  peak", "GiB", "first s")
        print(f"  {'':16s} F  " + " ".join(f"{c:>8s}" for c in columns), flush=True)
        order = [("all", f) for f in options.frames] + [("plain", f) for f in options.frames[:1]]
        order += [(name, f) for name in VARIANTS for f in options.frames if (name, f) not in order]
        for name, frames in order:
            if time.perf_counter() - start > options.seconds:
                print(f"  {name:16s} {frames:3d} skipped: {options.seconds:.0f} s are over", flush=True)
                continue
            if here.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            with without(VARIANTS[name]):
                measure(here, options, name, frames, peak)


if __name__ == "__main__":
    main(tyro.cli(Bench, description=__doc__))
