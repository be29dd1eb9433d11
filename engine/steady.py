"""The steady chunk of a stream on a GPU: all its passes as one CUDA graph of compiled blocks."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from engine.graphed import Graphed
from engine.model import BlockForm, Given, WorldModel, plain
from engine.schedule import euler, steps, timestep
from engine.state import BlockState, Keys, Memory
from kernels.program import INSTALLED

Mixers = tuple[Memory | Keys, ...]
Passes = tuple[
    Tensor, Tensor, Mixers, tuple[Tensor, ...]
]  # latents, whether all is finite, what blocks remember


class SteadyChunk:
    """Called for the chunks of a full window: the first is compiled and captured, all later ones are replayed."""

    def __init__(self, model: WorldModel, levels: tuple[float, ...]) -> None:
        self.model, self.levels = model, levels
        self._graphed = Graphed(self._compiled, eager=self._plain)

    def fits(self, past: tuple[BlockState, ...]) -> bool:
        """Whether what the blocks remember after the coming chunk has the shapes of what they do before it."""
        held = [len(b.chunks) for b in past if isinstance(b.mixer, Keys)]
        return bool(past) and all(n == self.model.config.window for n in held)

    @property
    def ready(self) -> bool:
        """Whether the steady chunk is captured."""
        return self._graphed.captured > 0

    def __call__(self, noise: Tensor, given: Given) -> tuple[Tensor, bool, tuple[BlockState, ...]]:
        """noise: [B, C, F, h, w] fp32. Returns latents like it, whether all numbers are finite, and the new state."""
        assert given.past is not None
        timeless = tuple(replace(b, chunks=(), index=0) for b in given.past)
        x, finite, mixers, tails = self._graphed(noise, replace(given, past=timeless))
        return x, bool(finite), self.model.after(given, mixers, tails)

    def _plain(self, x: Tensor, given: Given) -> Passes:
        return self.passes(x, given, plain)

    def _compiled(self, x: Tensor, given: Given) -> Passes:
        return self.passes(x, given, compiled())

    def passes(self, x: Tensor, given: Given, block: BlockForm, memory: Tensor | None = None) -> Passes:
        """All of a chunk. memory: [B, memory_channels, F, h, w] for a model that has such channels."""
        for level, target in steps(self.levels):
            flow, _, _ = self._pass(x, level, given, block, memory)
            x = euler(x, flow.float(), level=level, target=target)
        flow, mixers, tails = self._pass(x, 0.0, given, block, memory)
        return x, all_finite(x, flow, *mixers), mixers, tails

    def _pass(
        self, x: Tensor, level: float, given: Given, block: BlockForm, memory: Tensor | None
    ) -> tuple[Tensor, Mixers, tuple[Tensor, ...]]:
        t = x.new_full((x.shape[0], x.shape[2]), timestep(level))
        if memory is not None:
            x = torch.cat((x, memory.to(x)), dim=1)
        dtype = self.model.final_layer.linear.weight.dtype
        return self.model.run(x.to(dtype), timestep=t, given=given, block=block)


def all_finite(*values: Tensor | Memory | Keys) -> Tensor:
    """Whether all numbers are, as a bool scalar; of memories the recurrent parts, and no keys."""
    held = [(v.S, v.z, v.cam_S) if isinstance(v, Memory) else (v,) for v in values if not isinstance(v, Keys)]
    return torch.stack([x.isfinite().all() for parts in held for x in parts]).all()


@cache
def compiled() -> BlockForm:
    """`plain` by PyTorch's compiler, which is only loaded here. Compiled code stays for the next start.

    Where what the compiler needs is not installed, `plain` itself: it is captured just so, with more and smaller kernels.
    """
    if not INSTALLED:
        return plain
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(_cache()))
    return torch.compile(plain, dynamic=False)


def _cache() -> Path:
    """Where compiled kernels stay from one start to the next."""
    from platformdirs import user_cache_path

    return user_cache_path("world-explorer", appauthor=False) / "kernels"
