"""Triton, imported where a GPU path is taken and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor


def suits(x: Tensor) -> bool:
    """Whether a kernel without gradients can stand in for plain torch where x is."""
    return x.is_cuda and x.dtype != torch.float64 and not torch.is_grad_enabled() and available()


@cache
def available() -> bool:
    """Whether Triton is there, and the C compiler that it starts its kernels with."""
    try:
        import triton

        triton.runtime.driver.active.get_current_device()
    except (ImportError, RuntimeError):
        return False
    return True


@cache
def compiled(body: Callable[..., Any], **options: Any) -> Any:
    """A function in Triton's language, whose module calls that `tl`."""
    import triton
    import triton.language

    body.__globals__["tl"] = triton.language
    return triton.jit(body, **options)
