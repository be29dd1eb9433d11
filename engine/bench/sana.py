"""The streaming sana-wm with random weights: stage 1, codec and refiner each alone, and the whole of a flight."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.bench.ceilings import ceilings, synchronize
from engine.bench.clock import Tick, timed
from engine.bench.goals import comparable
from engine.bench.memory import begin_peak, finite, held, peak, size
from engine.bench.report import Moment, Report, Row, Work, flat
from engine.bench.work import refiner_flops, stage1_flops, vae_flops
from engine.camera import Intrinsics, Pose
from engine.conditioning import Anchor, pose_tensor
from engine.config import FPS
from engine.opening import open_sana
from engine.sana import SanaEngine
from engine.setup import Setup, Sizes

WARM = 8  # chunks until every window is full: what is measured comes after
MINUTE = 40  # chunks of a clip of 60 seconds


def stage1(setup: Setup, *, device: str, chunks: int, tick: Tick) -> Report:
    """Latents only: denoising passes and the one that commits."""
    engine = _opened(replace(setup, refiner="off"), device, tick)
    engine.vae.decoder.to("meta")  # neither its weights nor its work
    begin_peak(engine.device)
    lens, _ = scene(engine)
    state = begun(engine)
    good = True

    @torch.inference_mode()
    def step(k: int) -> None:
        nonlocal state, good
        cond, anchor = engine.condition(state, pose_tensor(bend(k, engine.spec.chunk_frames)), lens)
        latents, state = engine.generator.step(state, cond=cond.to(engine.device), anchor=anchor)
        good &= bool(latents.isfinite().all())

    times = timed(step, device=engine.device, warm=WARM, count=chunks, what="stage 1", tick=tick)
    work = _stage1_work(setup.sizes, engine, size(state.blocks), tick)
    rows = [Row(name="stage 1", seconds=times, frames=engine.spec.chunk_frames, work=work)]
    clip = tuple(MINUTE * t for t in times)
    rows.append(Row(name="60 s clip, stage 1", seconds=clip, frames=MINUTE * engine.spec.chunk_frames))
    return _report("stage1", setup, engine, rows, {"state_bytes": size(state), "finite": good})


def codec(setup: Setup, *, device: str, chunks: int, tick: Tick) -> Report:
    """Latents to pictures on the host."""
    engine = _opened(replace(setup, refiner="off"), device, tick)
    generator = torch.Generator(engine.device).manual_seed(0)
    shape = (1, setup.sizes.vae.latent_channels, engine.generator.config.chunk, *engine.grid)
    latents = torch.randn(shape, generator=generator, device=engine.device)
    _, state = engine.pictures.decode(latents[:, :, :1], None)
    frames: list[NDArray[np.uint8]] = []

    def decode(k: int) -> None:
        nonlocal state, frames
        pictures, state = engine.pictures.decode(latents, state)
        frames = list(pictures)

    times = timed(decode, device=engine.device, warm=WARM, count=chunks, what="codec", tick=tick)
    work = _codec_work(setup.sizes, engine, size(state), shape[2])
    row = Row(name="codec", seconds=times, frames=engine.spec.chunk_frames, work=work)
    facts = {"state_bytes": size(state), "finite": finite(state) and len(np.unique(frames[-1])) > 1}
    return _report("codec", setup, engine, [row], facts)


def refiner(setup: Setup, *, device: str, chunks: int, tick: Tick) -> Report:
    """The second stage: denoising passes and the one that commits, over its whole window.

    Block after block, where a flight gives the GPU lighter work between two: it may be at a lower clock here.
    """
    engine = _opened(replace(setup, refiner="on"), device, tick)
    second, text = engine.refiner, engine.text
    assert second is not None
    assert text.refiner is not None
    generator = torch.Generator(engine.device).manual_seed(0)
    shape = (1, setup.sizes.refiner.latent_channels, second.config.block, *engine.grid)
    latents = torch.randn(shape, generator=generator, device=engine.device)
    words = second.prompt(text.refiner, text.refiner_mask)
    state = second.start(latents[:, :, : second.config.sink], prompt=words)
    good = True

    def refine(k: int) -> None:
        nonlocal state, good
        refined, state = second.step(state, latents)
        good &= bool(refined.isfinite().all())

    times = timed(refine, device=engine.device, warm=WARM, count=chunks, what="refiner", tick=tick)
    work = _refiner_work(setup.sizes, engine, size(state), tick)
    row = Row(name="refiner", seconds=times, frames=engine.spec.chunk_frames, work=work)
    return _report("refiner", setup, engine, [row], {"state_bytes": size(state), "finite": good})


def pipeline(setup: Setup, *, device: str, chunks: int, tick: Tick) -> Report:
    """A flight as a window makes it: without the second stage, then with it where it fits.

    Every step's time counts from the poses to the last frame on the host.
    """
    engine = _opened(setup, device, tick)
    name = "stage 1 + codec"
    work = _stage1_work(setup.sizes, engine, 0, tick)
    work += _codec_work(setup.sizes, engine, 0, engine.generator.config.chunk)
    rows, facts, moments = _flown(engine, name, chunks, refining=False, work=work, tick=tick)
    if engine.refiner is not None:
        name = f"{name} + refiner"
        work += _refiner_work(setup.sizes, engine, 0, tick)
        more, facts, moments = _flown(engine, name, chunks, refining=True, work=work, tick=tick)
        rows += more
    return _report("pipeline", setup, engine, rows, facts, moments)


def _flown(
    engine: SanaEngine, name: str, chunks: int, *, refining: bool, work: Work, tick: Tick
) -> tuple[list[Row], dict[str, Any], tuple[Moment, ...]]:
    """Fly a slow bend: the row of whole chunks, one for each stage, and what was in memory after every chunk."""
    lens, picture = scene(engine)
    frames = engine.spec.chunk_frames
    chunk = engine.start(picture, pose=Pose(), intrinsics=lens, seed=1)
    state = replace(chunk.state, refining=refining)
    moments, stages, good = [], [], True
    for k in range(WARM + chunks):
        synchronize(engine.device)
        begun = time.perf_counter()
        chunk = engine.step(state, bend(k, frames), intrinsics=lens)
        seconds, state = time.perf_counter() - begun, chunk.state
        moments.append(Moment(at=k * frames / FPS, seconds=seconds, memory=held(engine.device)))
        stages.append(chunk.timing)
        good &= len({f.pixels.tobytes() for f in chunk.frames}) == len(chunk.frames)
        tick(name if k >= WARM else f"{name}, warming up", k + 1, WARM + chunks)
    rows = [
        Row(name=name, seconds=tuple(m.seconds for m in moments[WARM:]), frames=frames, work=work),
        *(Row(name=f"  {stage}", seconds=tuple(t[stage] for t in stages[WARM:])) for stage in stages[-1]),
    ]
    facts = {
        "frames": 1 + (WARM + chunks) * frames,
        "state_bytes": size(state),
        "memory_flat": flat([m.memory for m in moments[WARM:]]),
        "finite": good and finite(state),
    }
    return rows, facts, tuple(moments)


def _opened(setup: Setup, device: str, tick: Tick) -> SanaEngine:
    tick("loading", 0, 1)
    engine = open_sana(setup, device=device, on_step=lambda what: tick(what, 0, 1))
    begin_peak(engine.device)
    return engine


def _report(
    part: str,
    setup: Setup,
    engine: SanaEngine,
    rows: list[Row],
    facts: dict[str, Any],
    moments: tuple[Moment, ...] = (),
) -> Report:
    """Peak memory before the ceilings are measured, which take some themselves."""
    where, worst = engine.device, peak(engine.device)
    true_size = setup.sizes == Sizes() and setup.memory is None  # tiers shorten the refiner's window
    return Report(
        part=part,
        device=torch.cuda.get_device_name(where) if where.type == "cuda" else "CPU",
        torch=torch.__version__,
        ceilings=ceilings(where),
        rows=tuple(rows),
        peak=worst,
        comparable=comparable(true_size=true_size, device=where.type),
        facts=facts,
        moments=moments,
    )


# What cannot be avoided: weights read once per pass, the state read once per pass and written once.


def _stage1_work(sizes: Sizes, engine: SanaEngine, state: int, tick: Tick) -> Work:
    tick("counting the work of stage 1", 0, 1)
    passes = len(engine.generator.levels) + 1
    moved = passes * (size(engine.generator.model) + state) + state
    return Work(flops=stage1_flops(sizes.world, sizes.grid), bytes=moved)


def _codec_work(sizes: Sizes, engine: SanaEngine, state: int, frames: int) -> Work:
    parts = -(-frames // engine.pictures.together)
    pictures = frames * sizes.vae.stride[0] * sizes.width * sizes.height * 3
    moved = parts * (size(engine.vae.decoder) + 2 * state) + pictures
    return Work(flops=vae_flops(sizes.vae, sizes.grid, frames=frames), bytes=moved)


def _refiner_work(sizes: Sizes, engine: SanaEngine, state: int, tick: Tick) -> Work:
    tick("counting the work of the refiner", 0, 1)
    assert engine.refiner is not None
    assert engine.text.refiner is not None
    config = engine.refiner.config
    moved = (len(config.sigmas) + 1) * (size(engine.refiner.model) + state) + state
    words = engine.text.refiner.shape[1]
    return Work(flops=refiner_flops(config, sizes.grid, words=words), bytes=moved)


def begun(engine: SanaEngine) -> Any:
    """The state before chunk 0, around a latent of noise."""
    config, device = engine.generator.config, engine.device
    camera = pose_tensor([Pose()])[:, 0]
    drawn = torch.Generator(device).manual_seed(0)
    return engine.generator.begin(
        torch.randn(1, config.latent_channels, *engine.grid, generator=drawn, device=device),
        text=engine.text.world,
        text_mask=engine.text.world_mask,
        seed=1,
        anchor=Anchor(pose=camera, camera=camera),
    )


def scene(engine: SanaEngine) -> tuple[Intrinsics, NDArray[np.uint8]]:
    """A lens, and a picture of coloured squares."""
    spec = engine.spec
    noise = np.random.default_rng(0).integers(0, 256, (spec.height // 16, spec.width // 16, 3), np.uint8)
    picture = noise.repeat(16, axis=0).repeat(16, axis=1)
    return Intrinsics.from_fov(1.2, width=spec.width, height=spec.height), picture


def bend(chunk: int, frames: int) -> list[Pose]:
    """Forward at 0.025 units and 0.2 degrees per frame, the speed of the release's own walks."""
    poses = []
    for n in range(chunk * frames + 1, (chunk + 1) * frames + 1):
        a, m = math.radians(0.2 * n), np.eye(4)
        m[:3, :3] = [[math.cos(a), 0.0, math.sin(a)], [0.0, 1.0, 0.0], [-math.sin(a), 0.0, math.cos(a)]]
        radius = 0.025 / math.radians(0.2)
        m[:3, 3] = [radius * (1 - math.cos(a)), 0.0, radius * math.sin(a)]
        poses.append(Pose.from_matrix(m))
    return poses
