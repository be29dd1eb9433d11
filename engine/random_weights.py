"""Modules of true shape with weights drawn where they are to run: for measuring and proving a path without a release.

Draws keep the variance of what flows through, so that numbers stay finite however long a flight lasts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from engine.place import Ready, as_is, place
from engine.release import empty

M = TypeVar("M", bound=nn.Module)


def random_module(
    build: Callable[[], M],
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    seed: int = 0,
    ready: Callable[[nn.Module], Ready] = as_is,
) -> M:
    """A module ready to run; weights in `dtype`, buffers in fp32. No copy is ever made on the host.

    ready: makes of the empty module what `engine.place.place` tells of every part that is filled.
    """
    model = empty(build)
    generator = torch.Generator(device).manual_seed(seed)

    def draw(name: str, like: Tensor) -> Tensor:
        plain = dtype if isinstance(like, nn.Parameter) else torch.float32
        return _draw(name, torch.empty(like.shape, dtype=plain, device=device), generator)

    place(model, draw, ready=ready(model))
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
