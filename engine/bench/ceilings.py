"""What the device reaches at best: the rate of a large matrix product and of a large copy."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from engine.bench.report import Ceilings
from engine.engine import compute_dtype


def ceilings(device: torch.device) -> Ceilings:
    """Both, measured: about half a second on a GPU, a second on a CPU."""
    return Ceilings(flops=matmul_rate(device), bytes=copy_rate(device))


def matmul_rate(device: torch.device, *, size: int | None = None, repeats: int = 10) -> float:
    """Floating-point operations per second of a square product in the dtype that models run in on this device."""
    size = size or (8192 if device.type == "cuda" else 1024)
    a, b = (torch.randn(size, size, device=device, dtype=compute_dtype(device)) for _ in range(2))
    return 2.0 * size**3 / _median(lambda: a @ b, device, repeats)


def copy_rate(device: torch.device, *, size: int | None = None, repeats: int = 10) -> float:
    """Bytes per second, read plus written, of a copy that no cache holds."""
    size = size or (1 << 30 if device.type == "cuda" else 128 << 20)
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return 2.0 * size / _median(lambda: target.copy_(source), device, repeats)


def _median(call: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Seconds, each call waited for: these are long enough for that not to count."""
    times = []
    for i in range(3 + repeats):
        synchronize(device)
        begun = time.perf_counter()
        call()
        synchronize(device)
        if i >= 3:
            times.append(time.perf_counter() - begun)
    return statistics.median(times)


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
