"""GPU programs: plain functions until a GPU asks for them; only here and then is Triton imported."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any


@cache
def compiled(program: Callable[..., Any], *parts: Callable[..., Any]) -> Any:
    """The kernel of `program`, a function that uses Triton's language as `tl` and calls `parts`, which do the same."""
    import triton
    import triton.language

    names = program.__globals__
    names["tl"] = triton.language
    names.update({part.__name__: compiled(part) for part in parts})
    return triton.jit(program)
