"""Calling something again and again, and how long each call took."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import torch

from engine.bench.ceilings import synchronize

FLUSH = 256 << 20  # bytes written between two runs of a kernel, so that its inputs come from memory


class Tick(Protocol):
    """Hears what is being done, and how much of it is."""

    def __call__(self, what: str, done: int, total: int, /) -> None: ...


def silent(what: str, done: int, total: int, /) -> None:
    """A tick that nobody hears."""


def timed(
    call: Callable[[int], object], *, device: torch.device, warm: int, count: int, what: str, tick: Tick
) -> tuple[float, ...]:
    """Seconds of `count` calls after `warm` others, each waited for. call: gets its number."""
    times = []
    for i in range(warm + count):
        synchronize(device)
        begun = time.perf_counter()
        call(i)
        synchronize(device)
        times.append(time.perf_counter() - begun)
        tick(what if i >= warm else f"{what}, warming up", i + 1, warm + count)
    return tuple(times[warm:])


def timed_on_gpu(call: Callable[[], object], *, count: int, what: str, tick: Tick) -> tuple[float, ...]:
    """Seconds that the GPU is busy with a call, replayed from a CUDA graph as in flight: no launches are waited for."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # compiled and tuned before the capture
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    cache = torch.empty(FLUSH, dtype=torch.uint8, device="cuda")
    times = []
    for i in range(count):
        cache.zero_()
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        graph.replay()
        ended.record()
        ended.synchronize()
        times.append(1e-3 * begun.elapsed_time(ended))
        tick(what, i + 1, count)
    return tuple(times)
