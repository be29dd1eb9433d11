"""A flight of pocket without a window: speed, memory and finiteness, chunk by chunk."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from engine.bench.ceilings import ceilings, synchronize
from engine.bench.clock import Tick
from engine.bench.goals import comparable
from engine.bench.memory import begin_peak, finite, held, peak, size
from engine.bench.report import Moment, Report, Row, Work, flat
from engine.bench.work import codec_flops, stage1_flops
from engine.camera import Intrinsics, Pose
from engine.config import POCKET_MEMORY
from engine.engine import Engine

WARM = 16  # chunks: every window is full after 9, and a CPU's clock has settled


def pocket(
    engine: Engine,
    picture: NDArray[np.uint8],
    path: Sequence[Pose],
    *,
    lens: Intrinsics,
    words: Sequence[int] | None = None,
    inverse_depth: NDArray[np.float16] | None = None,
    tick: Tick,
) -> Report:
    """Fly from a picture along a path: its pose, then as many as chunks have frames, WARM chunks and more."""
    spec, device = engine.spec, engine.device
    chunks = (len(path) - 1) // spec.chunk_frames
    if chunks <= WARM:
        raise ValueError(f"a flight of {chunks} chunks: the first {WARM} are not measured")
    begin_peak(device)
    start = engine.start(picture, pose=path[0], intrinsics=lens, words=words, inverse_depth=inverse_depth)
    state = start.state
    moments, stages = [], []
    for k in range(chunks):
        poses = path[1 + k * spec.chunk_frames : 1 + (k + 1) * spec.chunk_frames]
        synchronize(device)
        begun = time.perf_counter()
        chunk = engine.step(state, poses, intrinsics=lens)
        seconds, state = time.perf_counter() - begun, chunk.state
        at = k * spec.chunk_frames / spec.fps
        moments.append(Moment(at=at, seconds=seconds, memory=held(device)))
        stages.append(chunk.timing)
        tick("pocket" if k >= WARM else "pocket, warming up", k + 1, chunks)
    worst = peak(device)
    times = tuple(m.seconds for m in moments[WARM:])
    late = [m.memory for m in moments[WARM:]]
    return Report(
        part="pocket",
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        torch=torch.__version__,
        ceilings=ceilings(device),
        rows=(
            Row(name="pocket", seconds=times, frames=spec.chunk_frames, work=_work(engine, size(state))),
            *(Row(name=f"  {stage}", seconds=tuple(t[stage] for t in stages[WARM:])) for stage in stages[-1]),
        ),
        peak=worst,
        comparable=comparable(true_size=engine.generator.config == POCKET_MEMORY, device=device.type),
        facts={
            "threads": torch.get_num_threads(),
            "frames": 1 + chunks * spec.chunk_frames,
            "state_bytes": size(state),
            "memory_flat": flat(late),
            "memory_growth": late[-1] / late[0] - 1,
            "finite": finite(state),
        },
        moments=tuple(moments),
    )


def _work(engine: Engine, state: int) -> Work:
    """All passes, the decoder, and the encoder of what is remembered; weights read by each of them."""
    config, grid = engine.generator.config, engine.codec.config.grid
    encode, decode = codec_flops(engine.codec.config)
    flops = stage1_flops(config, grid) + decode + (encode if engine.remembers else 0)
    passes = len(engine.generator.levels) + 1
    return Work(flops=flops, bytes=passes * size(engine.generator.model) + size(engine.codec) + 2 * state)
