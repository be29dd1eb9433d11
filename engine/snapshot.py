"""A value made of tensors as named arrays and plain numbers, and back: what is restored continues bit for bit.

`flatten` takes any frozen dataclass of tensors, numbers, further dataclasses and tuples of them; `rebuild` puts it
together again by the types of its fields. Numbers that NumPy has no type for (bfloat16) are stored as the 16 bits
they are, and listed in the record; so is the order of axes in memory where it is another one than usual, for kernels are
chosen by it. What comes from somebody else goes through `engine.restore`.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

V = TypeVar("V")
Arrays = Mapping[str, NDArray[Any]]
ROOT = "state"
LARGEST_COUNT = 1 << 48  # frames or chunks: nobody flies so far
LONGEST = 4096  # plain numbers in a row
PLAIN = (bool, int, float, str)


def flatten(value: Any) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Arrays by name ("state.blocks.0.mixer.S") and a record of everything that is not an array.

    Arrays of tensors on the CPU share their memory. TypeError for what cannot be kept.
    """
    arrays: dict[str, NDArray[Any]] = {}
    numbers: dict[str, Any] = {}
    bits: list[str] = []
    orders: dict[str, list[int]] = {}

    def put(name: str, value: Any) -> None:
        if isinstance(value, Tensor):
            if value.dtype == torch.bfloat16:
                bits.append(name)
                value = value.view(torch.int16)
            if not value.is_contiguous():
                orders[name] = sorted(range(value.ndim), key=lambda axis: -value.stride(axis))
                value = value.permute(orders[name])
            arrays[name] = value.detach().contiguous().cpu().numpy()
        elif is_dataclass(value):
            for f in fields(value):
                put(f"{name}.{f.name}", getattr(value, f.name))
        elif isinstance(value, tuple) and not all(isinstance(item, PLAIN) for item in value):
            for i, item in enumerate(value):
                put(f"{name}.{i}", item)
        elif isinstance(value, tuple | bool | int | str) or (
            isinstance(value, float) and math.isfinite(value)
        ):
            numbers[name] = list(value) if isinstance(value, tuple) else value
        elif value is not None:
            raise TypeError(f"{name} is a {type(value).__name__}, which cannot be kept")

    put(ROOT, value)
    return arrays, {"numbers": numbers, "bfloat16": bits, "orders": orders}


def rebuild(kind: type[V], arrays: Arrays, record: Mapping[str, Any], *, device: Any = "cpu") -> V:
    """The value of type `kind` that `flatten` saw. Raises ValueError where there is none, or something is left over."""
    numbers, bits, orders = record.get("numbers"), record.get("bfloat16"), record.get("orders", {})
    if not isinstance(numbers, dict) or not isinstance(bits, list) or not isinstance(orders, dict):
        raise ValueError("the saved state has no list of numbers")
    left = {name: a for name, a in arrays.items() if name.split(".")[0] == ROOT}
    reader = _Reader(left, dict(numbers), frozenset(map(str, bits)), orders, device)
    value: V = reader.take(kind, ROOT)
    if rest := {*left, *reader.numbers}:
        raise ValueError(f"the saved state holds {min(rest)}, which this world does not have")
    return value


class _Reader:
    """Takes what it uses."""

    def __init__(
        self,
        arrays: dict[str, NDArray[Any]],
        numbers: dict[str, Any],
        bits: frozenset[str],
        orders: dict[str, Any],
        device: Any,
    ) -> None:
        self.arrays, self.numbers, self.bits, self.orders, self.device = arrays, numbers, bits, orders, device
        self.known: dict[str, set[str]] = {}  # what stands below a name
        for name in (*arrays, *map(str, numbers)):
            parts = name.split(".")
            for i in range(1, len(parts) + 1):
                below = self.known.setdefault(".".join(parts[:i]), set())
                below.update(parts[i : i + 1])

    def take(self, kind: Any, name: str) -> Any:
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if origin in (typing.Union, types.UnionType):
            return self._one_of(arguments, name)
        if kind is Tensor:
            return self._tensor(name)
        if origin is tuple:
            return self._row(arguments, name)
        if is_dataclass(kind):
            hints = typing.get_type_hints(kind)
            assert isinstance(kind, type)
            return kind(**{f.name: self.take(hints[f.name], f"{name}.{f.name}") for f in fields(kind)})
        return _plain(kind, name, self.numbers.pop(name, None))

    def _one_of(self, kinds: tuple[Any, ...], name: str) -> Any:
        """None where nothing is there, else the kind whose fields are."""
        if name not in self.known and types.NoneType in kinds:
            return None
        kinds = tuple(k for k in kinds if k is not types.NoneType)
        below = self.known.get(name, set())
        for kind in kinds:
            if not is_dataclass(kind) or below <= {f.name for f in fields(kind)}:
                return self.take(kind, name)
        raise ValueError(f"{name} of the saved state is nothing that this world knows")

    def _row(self, arguments: tuple[Any, ...], name: str) -> tuple[Any, ...]:
        if name not in self.numbers:
            count = len(self.known.get(name, ()))
            return tuple(self.take(arguments[0], f"{name}.{i}") for i in range(count))
        values = self.numbers.pop(name)
        if not isinstance(values, list) or len(values) > LONGEST:
            raise ValueError(f"{name} of the saved state is no list of counts")
        kinds = [arguments[0]] * len(values) if arguments[1:] == (...,) else list(arguments)
        if len(kinds) != len(values):
            raise ValueError(f"{name} of the saved state has {len(values)} entries instead of {len(kinds)}")
        return tuple(_plain(kind, name, value) for kind, value in zip(kinds, values, strict=True))

    def _tensor(self, name: str) -> Tensor:
        a = self.arrays.pop(name, None)
        if a is None:
            raise ValueError(f"the saved state has no {name}")
        t = torch.from_numpy(a if a.flags.writeable else a.copy())
        if name in self.bits and t.dtype == torch.int16:
            t = t.view(torch.bfloat16)
        order = self.orders.get(name)
        if order is None:
            return t.to(self.device)
        whole = isinstance(order, list) and all(type(axis) is int for axis in order)
        if not whole or sorted(order) != list(range(t.ndim)):
            raise ValueError(f"{name} of the saved state has no order of {t.ndim} axes")
        return t.to(self.device).permute([order.index(axis) for axis in range(t.ndim)])


def _plain(kind: Any, name: str, value: Any) -> Any:
    if kind not in PLAIN or type(value) is not kind:
        raise ValueError(f"{name} of the saved state is {str(value)[:40]!r}, not {_NAMES.get(kind, 'that')}")
    if kind is int and not 0 <= value < (1 << 63 if name.endswith(".seed") else LARGEST_COUNT):
        raise ValueError(f"{name} of the saved state is {value!r}, not a count")
    return value


_NAMES = {bool: "on or off", int: "a count", float: "a number", str: "text"}
