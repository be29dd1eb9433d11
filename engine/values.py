"""Values made of tensors: nested tuples and dataclasses, with plain values between. One walk through them for all."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor stood in a value that was taken apart."""

    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class Group:
    """A tuple or dataclass that was taken apart, for whose fields everything but tensors must be hashable."""

    kind: type
    parts: tuple[Hashable, ...]


def take_apart(value: Any, leaves: list[Tensor]) -> Hashable:
    """What is left of a value without its tensors, which are appended to `leaves` in order."""
    if isinstance(value, Tensor):
        leaves.append(value)
        return Place(tuple(value.shape), value.dtype)
    if isinstance(value, tuple):
        return Group(tuple, tuple(take_apart(v, leaves) for v in value))
    if is_dataclass(value) and not isinstance(value, type):
        return Group(type(value), tuple(take_apart(getattr(value, f.name), leaves) for f in fields(value)))
    return value


def put_together(what: Hashable, leaves: Iterator[Tensor]) -> Any:
    """The inverse of `take_apart`."""
    if isinstance(what, Place):
        return next(leaves)
    if isinstance(what, Group):
        parts = [put_together(p, leaves) for p in what.parts]
        return tuple(parts) if what.kind is tuple else what.kind(**_named(what.kind, parts))
    return what


def _named(kind: Any, parts: list[Any]) -> dict[str, Any]:
    return {f.name: part for f, part in zip(fields(kind), parts, strict=True)}


def tensors(value: Any) -> list[Tensor]:
    """All of its tensors, in order."""
    leaves: list[Tensor] = []
    take_apart(value, leaves)
    return leaves


def mapped(value: V, change: Callable[[Tensor], Tensor]) -> V:
    """The same value with every tensor changed."""
    leaves: list[Tensor] = []
    what = take_apart(value, leaves)
    same: V = put_together(what, map(change, leaves))
    return same


def form(value: V) -> V:
    """Types and shapes without numbers, which takes no memory."""
    return mapped(value, lambda x: torch.empty_like(x, device="meta"))


def size(value: Any) -> int:
    """Bytes of all its tensors."""
    return sum(x.nbytes for x in tensors(value))
