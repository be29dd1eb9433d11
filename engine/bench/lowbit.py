"""Both stages of sana-wm in every format of their weights: memory, time, and how far one pass is from bf16.

The same random weights are drawn for each format and rounded on the way; one model is gone before the next is drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from engine.bench.ceilings import ceilings
from engine.bench.clock import Tick, timed
from engine.bench.goals import comparable
from engine.bench.memory import begin_peak, peak, size
from engine.bench.report import Report, Row, Stored
from engine.bench.sana import begun, bend, scene
from engine.compiler import release_compiler
from engine.conditioning import pose_tensor
from engine.engine import compute_dtype
from engine.generator import Generator
from engine.model import WorldModel
from engine.opening import require_formats
from engine.place import Ready
from engine.prompt import random_text
from engine.quant import Part, lowering
from engine.random_weights import random_module
from engine.refiner import Refiner
from engine.refiner_model import RefinerModel
from engine.sana import SanaEngine, sana_spec
from engine.setup import BYTES, Format, Precision, Sizes
from engine.vae import Vae

WARM = 7  # chunks or blocks until windows are full and what can be captured is
Measured = tuple[Row, dict[str, int], Tensor]  # bytes; what a pass predicts, in fp32 on the CPU


def lowbit(sizes: Sizes, *, where: torch.device, chunks: int, tick: Tick) -> Report:
    """Raises ValueError for a GPU that lacks a format."""
    rows, stored = [], []
    for name, measure in (("stage 1", _stage1), ("refiner", _refiner)):
        plain: Tensor | None = None
        for form in BYTES:
            require_formats(Precision(world=form, refiner=form), where)
            begin_peak(where)
            row, kept, flow = measure(sizes, form, where, chunks, tick)
            plain = flow if plain is None else plain
            error = float((flow - plain).norm() / plain.norm())
            rows.append(row)
            stored.append(Stored(name=f"{name}, {form}", **kept, error=error))
            if where.type == "cuda":
                torch.compiler.reset()  # what it compiled would keep the model alive
    release_compiler()
    return Report(
        part="lowbit",
        device=torch.cuda.get_device_name(where) if where.type == "cuda" else "CPU",
        torch=torch.__version__,
        ceilings=ceilings(where),
        rows=tuple(rows),
        stored=tuple(stored),
        peak=max(s.peak for s in stored),
        comparable=comparable(true_size=sizes == Sizes(), device=where.type),
    )


def _stage1(sizes: Sizes, form: Format, where: torch.device, chunks: int, tick: Tick) -> Measured:
    """Chunks as in a flight. The pass: from noise, in the chunk that opens one."""
    name, dtype = f"stage 1, {form}", compute_dtype(where)
    tick(f"{name}, drawing", 0, 1)
    vae = random_module(lambda: Vae(sizes.vae), dtype=dtype, device=where)
    for part in (vae.encoder, vae.decoder):
        part.to("meta")
    model = random_module(
        lambda: WorldModel(sizes.world), dtype=dtype, device=where, ready=_ready("world", form, where), seed=1
    )
    engine = SanaEngine(
        sana_spec(width=sizes.width, height=sizes.height, chunk_frames=8 * sizes.world.chunk),
        model=model,
        vae=vae,
        text=random_text(sizes),
    )
    loading = _loaded(where)
    lens, _ = scene(engine)
    state = begun(engine)

    def told(k: int) -> dict[str, Any]:
        cond, anchor = engine.condition(state, pose_tensor(bend(k, engine.spec.chunk_frames)), lens)
        return dict(cond=cond.to(where), anchor=anchor)

    with torch.inference_mode():
        noise = engine.generator.noise(state, frames=1 + sizes.world.chunk).to(where)
        once = Generator(model, levels=engine.generator.levels[:1])
        latents, _ = once.step(state, **told(0), noise=noise)
        flow = (noise - latents)[:, :, 1:].float().cpu()

    @torch.inference_mode()
    def step(k: int) -> None:
        nonlocal state
        _, state = engine.generator.step(state, **told(k))

    times = timed(step, device=where, warm=WARM, count=chunks, what=name, tick=tick)
    row = Row(name=name, seconds=times, frames=engine.spec.chunk_frames)
    return row, _kept(model, loading, where), flow


def _refiner(sizes: Sizes, form: Format, where: torch.device, chunks: int, tick: Tick) -> Measured:
    """Blocks as in a flight. The pass: the first one behind the sink."""
    name, config = f"refiner, {form}", sizes.refiner
    tick(f"{name}, drawing", 0, 1)
    model = random_module(
        lambda: RefinerModel(config),
        dtype=compute_dtype(where),
        device=where,
        ready=_ready("refiner", form, where),
        seed=3,
    )
    model.join()
    loading = _loaded(where)
    second, text = Refiner(model, fast=where.type == "cuda"), random_text(sizes).to(where)
    assert text.refiner is not None
    generator = torch.Generator(where).manual_seed(0)
    shape = (1, config.latent_channels, config.block, *sizes.grid)
    latents = torch.randn(shape, generator=generator, device=where)
    words = second.prompt(text.refiner, text.refiner_mask)
    state = second.start(latents[:, :, : config.sink], prompt=words)
    x, clean, _ = next(second.steps(state, latents))
    flow = (x.float() - clean).cpu()

    def step(k: int) -> None:
        nonlocal state
        _, state = second.step(state, latents)

    times = timed(step, device=where, warm=WARM, count=chunks, what=name, tick=tick)
    row = Row(name=name, seconds=times, frames=config.block * config.stride[0])
    return row, _kept(model, loading, where), flow


def _ready(part: Part, form: Format, where: torch.device) -> Callable[[nn.Module], Ready]:
    return partial(lowering, part=part, form=form, on=where, say=lambda text: None)


def _loaded(where: torch.device) -> int:
    """The peak so far, from which on another is counted."""
    worst = peak(where)
    begin_peak(where)
    return worst


def _kept(model: nn.Module, loading: int, where: torch.device) -> dict[str, int]:
    return dict(weights=size(model), loading=loading, peak=peak(where))
