"""Modules of true shape with weights drawn where they are to run: for measuring and proving a path without a release.

Draws keep the variance of what flows through, so that numbers stay finite however long a flight lasts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from engine.release import empty

M = TypeVar("M", bound=nn.Module)


def random_module(
    build: Callable[[], M], *, dtype: torch.dtype, device: torch.device | str, seed: int = 0
) -> M:
    """A module ready to run; weights in `dtype`, buffers in fp32. No copy is ever made on the host."""
    model = empty(build)
    buffers = {name for name, _ in model.named_buffers()}
    generator = torch.Generator(device).manual_seed(seed)
    drawn = {}
    for name, like in model.state_dict().items():
        x = torch.empty(like.shape, dtype=torch.float32 if name in buffers else dtype, device=device)
        drawn[name] = _draw(name, x, generator)
    model.load_state_dict(drawn, assign=True)
    return model.eval().requires_grad_(False)


def _draw(name: str, x: Tensor, generator: torch.Generator) -> Tensor:
    """Fill x by what its name says it is."""
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "A_log":  # heads that forget over 4 to 512 frames
        return x.copy_(torch.logspace(math.log10(1 / 512), math.log10(1 / 4), len(x)).log())
    if leaf == "dt_bias":
        return x.fill_(math.log(math.e - 1))  # softplus of it is 1
    if leaf.endswith("_std") or ("norm" in name and x.ndim == 1 and leaf == "weight"):
        return x.fill_(1.0)
    if leaf == "scale_shift_table":
        return x.normal_(0.0, 0.1, generator=generator)
    if x.ndim < 2:
        return x.zero_()
    fan_in = x[0].numel()
    return x.normal_(0.0, fan_in**-0.5, generator=generator)
