"""Functions of tensors by PyTorch's compiler, which is only loaded here. Compiled code stays for the next start."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import torch

from kernels.program import INSTALLED

Function = TypeVar("Function", bound=Callable[..., Any])


class Form(Protocol):
    """How functions are called that may be compiled."""

    def __call__(self, function: Function, /) -> Function: ...


def as_it_is(function: Function, /) -> Function:
    return function


def compiled(function: Function, /) -> Function:
    """`function`, compiled for every set of shapes that it is called with.

    Where what the compiler needs is not installed, `function` itself: it is captured just so, with more and smaller kernels.
    """
    return cast(Function, _compiled(function)) if INSTALLED else function


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(_cache()))
    return torch.compile(function, dynamic=False)


def release_compiler() -> None:
    """End the processes that PyTorch compiled with, if it did: idle they keep memory and can hold up the program's end."""
    module = sys.modules.get("torch._inductor.async_compile")
    if module is not None:
        module.shutdown_compile_workers()


def _cache() -> Path:
    """Where compiled kernels stay from one start to the next."""
    from platformdirs import user_cache_path

    return user_cache_path("world-explorer", appauthor=False) / "kernels"
