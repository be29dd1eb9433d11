"""GPU programs: plain functions until a GPU asks for them; only here and then is Triton imported."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from shutil import which
from typing import Any

import torch
from torch import Tensor

# Triton, and the C compiler with which it builds what starts a kernel (its edition for Windows brings one)
INSTALLED = find_spec("triton") is not None and (
    os.name == "nt" or any(which(name) for name in (os.environ.get("CC", "cc"), "gcc", "clang"))
)


def builds(device: torch.device) -> bool:
    """Whether kernels can be built for a device: a GPU from Ampere on, the first with bfloat16."""
    return device.type == "cuda" and INSTALLED and torch.cuda.get_device_properties(device).major >= 8


def suits(x: Tensor) -> bool:
    """Whether a kernel without gradients can stand in for plain torch where x is."""
    return x.dtype != torch.float64 and not torch.is_grad_enabled() and builds(x.device)


@cache
def compiled(program: Callable[..., Any], *parts: Callable[..., Any], general: tuple[str, ...] = ()) -> Any:
    """The kernel of `program`, a function that uses Triton's language as `tl` and calls `parts`, which do the same.

    general: arguments that are numbers and serve with any value as they are, in one kernel.
    """
    import triton
    import triton.language

    names = program.__globals__
    names["tl"] = triton.language
    names.update({part.__name__: compiled(part) for part in parts})
    return triton.jit(program, do_not_specialize=list(general))
