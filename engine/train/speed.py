"""How fast the device multiplies: what model FLOP utilisation is measured against."""

from __future__ import annotations

import time

import torch


def matmul_rate(device: torch.device, *, size: int = 8192, repeats: int = 10) -> float:
    """Floating-point operations per second of a large bf16 matrix product on a GPU; 0 (unknown) on a CPU."""
    if device.type != "cuda":
        return 0.0
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    for _ in range(repeats):
        a @ b
    torch.cuda.synchronize(device)
    return 2.0 * size**3 * repeats / (time.perf_counter() - start)
