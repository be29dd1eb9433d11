"""A `StreamState` as named arrays and plain numbers, and back: what is restored continues bit for bit.

Numbers that NumPy has no type for (bfloat16) are stored as the 16 bits they are, and listed in the record. What
comes back is not trusted: it must have the form of a state that this very engine makes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.config import ModelConfig
from engine.state import BlockState, Keys, StreamState
from engine.window import visible_chunks

ROOT = "state"
LARGEST_COUNT = 1 << 48  # frames or chunks: nobody flies so far


def flatten(state: StreamState) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Arrays by name ("state.blocks.0.mixer.S") and a record of everything that is not an array."""
    arrays: dict[str, NDArray[Any]] = {}
    numbers: dict[str, Any] = {}
    bits: list[str] = []

    def put(name: str, value: Any) -> None:
        if isinstance(value, Tensor):
            if value.dtype == torch.bfloat16:
                bits.append(name)
                value = value.view(torch.int16)
            arrays[name] = value.contiguous().cpu().numpy()
        elif is_dataclass(value):
            for f in fields(value):
                put(f"{name}.{f.name}", getattr(value, f.name))
        elif isinstance(value, tuple) and value and is_dataclass(value[0]):
            for i, item in enumerate(value):
                put(f"{name}.{i}", item)
        elif value is not None:
            numbers[name] = list(value) if isinstance(value, tuple) else value

    put(ROOT, state)
    return arrays, {"numbers": numbers, "bfloat16": bits}


def restore(
    arrays: Mapping[str, NDArray[Any]],
    record: Mapping[str, Any],
    *,
    like: StreamState,
    config: ModelConfig,
) -> StreamState:
    """The state that `flatten` saw, on the device of `like`, any state of the same engine. Raises ValueError."""
    numbers, bits = record.get("numbers"), record.get("bfloat16")
    if not isinstance(numbers, dict) or not isinstance(bits, list):
        raise ValueError("the saved state has no list of numbers")
    left = {name: a for name, a in arrays.items() if name.split(".")[0] == ROOT}
    reader = _Reader(left, numbers, frozenset(map(str, bits)))
    state = reader.take(ROOT, like)
    if left:
        raise ValueError(f"the saved state holds {min(left)}, which this world does not have")
    _check(state, config)
    return state


class _Reader:
    """Fills a state of the form of another; takes what it uses."""

    def __init__(
        self, arrays: dict[str, NDArray[Any]], numbers: Mapping[str, Any], bits: frozenset[str]
    ) -> None:
        self.arrays, self.numbers, self.bits = arrays, numbers, bits

    def take(self, name: str, like: Any) -> Any:
        match like:
            case None:
                return None
            case Tensor():
                return self._tensor(name, like)
            case bool():
                return self._switch(name)
            case int():
                return _count(name, self.numbers.get(name))
            case tuple() if like and is_dataclass(like[0]):
                return tuple(self.take(f"{name}.{i}", item) for i, item in enumerate(like))
            case tuple():
                return self._counts(name)
        return type(like)(**{f.name: self._field(like, name, f.name) for f in fields(like)})

    def _field(self, like: Any, name: str, field: str) -> Any:
        value = self.take(f"{name}.{field}", getattr(like, field))
        if isinstance(value, Tensor):
            free = 2 if isinstance(like, Keys) else None  # the window grows until it is full
            _check_shape(f"{name}.{field}", value, getattr(like, field), free=free)
        return value

    def _tensor(self, name: str, like: Tensor) -> Tensor:
        a = self.arrays.pop(name, None)
        if a is None:
            raise ValueError(f"the saved state has no {name}")
        t = torch.from_numpy(np.array(a))
        if name in self.bits and t.dtype == torch.int16:
            t = t.view(torch.bfloat16)
        if t.dtype != like.dtype:
            raise ValueError(
                f"{name} of the saved state is {t.dtype}, here it is {like.dtype}: "
                "open it on the kind of machine that saved it"
            )
        if t.is_floating_point() and not bool(t.isfinite().all()):
            raise ValueError(f"{name} of the saved state is not finite")
        return t.to(like.device)

    def _switch(self, name: str) -> bool:
        value = self.numbers.get(name)
        if not isinstance(value, bool):
            raise ValueError(f"{name} of the saved state is {value!r}, neither on nor off")
        return value

    def _counts(self, name: str) -> tuple[int, ...]:
        value = self.numbers.get(name)
        if not isinstance(value, list) or len(value) > 4096:
            raise ValueError(f"{name} of the saved state is no list of counts")
        return tuple(_count(name, n) for n in value)


def _count(name: str, value: object) -> int:
    largest = 1 << 63 if name == f"{ROOT}.seed" else LARGEST_COUNT
    if type(value) is not int or not 0 <= value < largest:
        raise ValueError(f"{name} of the saved state is {value!r}, not a count")
    return value


def _check_shape(name: str, t: Tensor, like: Tensor, *, free: int | None) -> None:
    want = tuple(like.shape)
    if free is not None and t.ndim == len(want):
        want = (*want[:free], t.shape[free], *want[free + 1 :])
    if tuple(t.shape) != want:
        raise ValueError(f"{name} of the saved state is {tuple(t.shape)}, this world has {want}")


def _check(state: StreamState, config: ModelConfig) -> None:
    """What the parts of a state must have to do with each other."""
    tokens = state.latent.shape[-2] * state.latent.shape[-1]
    for i, block in enumerate(state.blocks):
        if block.index != state.chunk:
            raise ValueError(f"block {i} of the saved state has seen {block.index} chunks of {state.chunk}")
        if isinstance(block.mixer, Keys):
            _check_window(i, block, block.mixer, tokens, config)
        elif block.chunks:
            raise ValueError(f"block {i} of the saved state has a window of {block.chunks}")


def _check_window(i: int, block: BlockState, keys: Keys, tokens: int, config: ModelConfig) -> None:
    seen = visible_chunks(block.index, config)
    lengths = {keys.k.shape[2], keys.v.shape[2], keys.cam_k.shape[2], keys.cam_v.shape[2]}
    if len(block.chunks) != len(seen) or lengths != {tokens * sum(block.chunks)}:
        raise ValueError(
            f"block {i} of the saved state remembers chunks {block.chunks}: it should be {len(seen)}"
        )
