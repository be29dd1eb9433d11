"""GPU programs: plain functions until a GPU asks for them; only here and then is Triton imported."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache, wraps
from importlib.util import find_spec
from shutil import which
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

# Triton, and the C compiler with which it builds what starts a kernel (its edition for Windows brings one)
INSTALLED = find_spec("triton") is not None and (
    os.name == "nt" or any(which(name) for name in (os.environ.get("CC", "cc"), "gcc", "clang"))
)


def builds(device: torch.device) -> bool:
    """Whether kernels can be built for a device: a GPU from Ampere on, the first with bfloat16."""
    return device.type == "cuda" and INSTALLED and torch.cuda.get_device_properties(device).major >= 8


def rows(x: Tensor) -> Tensor:
    """Channels side by side, as kernels read them; the other strides are free."""
    return x if x.stride(-1) == 1 else x.contiguous()


def power_of_two(width: int) -> int:
    """The next one, such as a program's tile must have."""
    return 1 << (width - 1).bit_length()


def suits(x: Tensor) -> bool:
    """Whether a kernel without gradients can stand in for plain torch where x is."""
    return x.dtype != torch.float64 and not torch.is_grad_enabled() and builds(x.device)


def either(kernel: Callable[P, R], plain: Callable[P, R]) -> Callable[P, R]:
    """The plain form, in whose place the kernel is called where it suits the first argument, a tensor."""

    @wraps(plain)
    def chosen(*args: P.args, **given: P.kwargs) -> R:
        first = args[0]
        assert isinstance(first, Tensor)
        return (kernel if suits(first) else plain)(*args, **given)

    return chosen


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
