"""Memory that a measurement takes: of the GPU where there is one, else of this process."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import torch

from engine.values import tensors


def begin_peak(device: torch.device) -> None:
    """Forget what earlier measurements left behind."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> int:
    """Bytes at the worst moment; of a CPU process since it started."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    worst = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return worst if sys.platform == "darwin" else 1024 * worst


def held(device: torch.device) -> int:
    """Bytes in use. Where the system does not say what a process holds, its peak so far."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return peak(device)
    return pages * os.sysconf("SC_PAGE_SIZE")


def size(*values: object) -> int:
    """Bytes of states and modules."""
    return sum(
        t.nbytes
        for value in values
        for t in (value.parameters() if isinstance(value, torch.nn.Module) else tensors(value))
    )


def finite(value: object) -> bool:
    return all(bool(t.isfinite().all()) for t in tensors(value) if t.is_floating_point())
