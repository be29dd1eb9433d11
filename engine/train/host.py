"""Where a training process runs: its device, its place among the others, and its randomness."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One process of `world`. Rank 0 alone reports and writes."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def generator(self, seed: int, step: int, *, device: torch.device | None = None) -> torch.Generator:
        """The randomness of one step in this process: a function of its arguments and the rank, so a resumed run repeats it."""
        mixed = (((seed * 1_000_003 + step) * 1_009 + self.rank) * 2_654_435_761) % 2**63
        return torch.Generator(device or self.device).manual_seed(mixed)

    def highest(self, values: Sequence[float]) -> list[float]:
        """The largest of each value over all processes, without waiting for the GPU."""
        if self.world == 1:
            return list(values)
        shared = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return [float(v) for v in shared]

    def share_weights(self, module: nn.Module) -> None:
        """Give every process the weights of rank 0."""
        if self.world > 1:
            for t in (*module.parameters(), *module.buffers()):
                dense = t.data.contiguous()  # collectives do not take channels-last
                dist.broadcast(dense, 0)
                t.data.copy_(dense)


def _pick(device: str, local_rank: int) -> torch.device:
    if device not in ("auto", "cuda", "cpu"):
        raise ValueError(f"device {device!r} is not one of auto, cuda, cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda' was asked for, but torch sees no CUDA GPU here: use --device cpu")
    if device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", local_rank)


@contextmanager
def host(device: str = "auto") -> Iterator[Host]:
    """Join the other processes when started by torchrun, and leave them at the end. device: auto, cuda or cpu."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    picked = _pick(device, int(os.environ.get("LOCAL_RANK", 0)))
    if picked.type == "cuda":
        torch.cuda.set_device(picked)
        torch.backends.cudnn.benchmark = True  # shapes never change during a run
        torch.backends.cudnn.benchmark_limit = 4  # of the ways to do each; the best is among the first
    if world == 1:
        yield Host(device=picked)
        return
    os.environ.setdefault("NCCL_NVLS_ENABLE", "0")  # NVLink multicast needs rights that containers often lack
    if os.environ.get("LOCAL_WORLD_SIZE") == str(world):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # one machine: no name service needed
    dist.init_process_group("cpu:gloo,cuda:nccl" if picked.type == "cuda" else "gloo")
    try:
        yield Host(device=picked, rank=rank, world=world)
    except SystemExit:  # all leave together
        _part()
        raise
    _part()  # after an error it would wait for the others, and nobody would read why


def _part() -> None:
    """Leave the other processes, and free what stands for them: freed when the interpreter has ended already, it
    aborted one process in twenty, its work done ("terminate called without an active exception", torch 2.13, gloo)."""
    dist.destroy_process_group()
    gc.collect()
