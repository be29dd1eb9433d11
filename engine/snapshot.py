"""A value made of tensors as named arrays and plain numbers, and back: what is restored continues bit for bit.

`flatten` takes any frozen dataclass of tensors, numbers, further dataclasses and tuples of them; `rebuild` puts it
together again by the types of its fields. Numbers that NumPy has no type for (bfloat16) are stored as the 16 bits
they are, and listed in the record. `restore` does not trust what it reads: a state must also have the form of one that
this very engine makes.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.config import ModelConfig
from engine.refiner import RefinerState
from engine.state import BlockState, Keys, StreamState
from engine.window import visible_chunks

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

    def put(name: str, value: Any) -> None:
        if isinstance(value, Tensor):
            if value.dtype == torch.bfloat16:
                bits.append(name)
                value = value.view(torch.int16)
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
    return arrays, {"numbers": numbers, "bfloat16": bits}


def rebuild(kind: type[V], arrays: Arrays, record: Mapping[str, Any], *, device: Any = "cpu") -> V:
    """The value of type `kind` that `flatten` saw. Raises ValueError where there is none, or something is left over."""
    numbers, bits = record.get("numbers"), record.get("bfloat16")
    if not isinstance(numbers, dict) or not isinstance(bits, list):
        raise ValueError("the saved state has no list of numbers")
    left = {name: a for name, a in arrays.items() if name.split(".")[0] == ROOT}
    reader = _Reader(left, dict(numbers), frozenset(map(str, bits)), device)
    value: V = reader.take(kind, ROOT)
    if rest := {*left, *reader.numbers}:
        raise ValueError(f"the saved state holds {min(rest)}, which this world does not have")
    return value


def mapped(value: V, change: Callable[[Tensor], Tensor]) -> V:
    """The same value with every tensor changed."""
    if isinstance(value, Tensor):
        return typing.cast(V, change(value))
    if isinstance(value, tuple):
        return typing.cast(V, tuple(mapped(item, change) for item in value))
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: mapped(getattr(value, f.name), change) for f in fields(value)})
    return value


def form(value: V) -> V:
    """Types and shapes without numbers, which takes no memory."""
    return mapped(value, lambda x: torch.empty_like(x, device="meta"))


def size(value: Any) -> int:
    """Bytes of all its tensors."""
    total = 0

    def count(x: Tensor) -> Tensor:
        nonlocal total
        total += x.nbytes
        return x

    mapped(value, count)
    return total


class _Reader:
    """Takes what it uses."""

    def __init__(
        self, arrays: dict[str, NDArray[Any]], numbers: dict[str, Any], bits: frozenset[str], device: Any
    ) -> None:
        self.arrays, self.numbers, self.bits, self.device = arrays, numbers, bits, device
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
        return t.to(self.device)


def _plain(kind: Any, name: str, value: Any) -> Any:
    if kind not in PLAIN or type(value) is not kind:
        raise ValueError(f"{name} of the saved state is {str(value)[:40]!r}, not {_NAMES.get(kind, 'that')}")
    if kind is int and not 0 <= value < (1 << 63 if name.endswith(".seed") else LARGEST_COUNT):
        raise ValueError(f"{name} of the saved state is {value!r}, not a count")
    return value


_NAMES = {bool: "on or off", int: "a count", float: "a number", str: "text"}


def restore(
    arrays: Arrays, record: Mapping[str, Any], *, like: StreamState, config: ModelConfig, device: Any
) -> StreamState:
    """A state of the form of `like`, which is one of the same engine after a chunk or more; its values do not count.

    Raises ValueError.
    """
    state = rebuild(StreamState, arrays, record, device=device)
    _require_form(ROOT, state, like)
    _require_sense(state, config)
    return state


def _require_form(name: str, value: Any, like: Any) -> None:
    """The same parts, types and shapes, and numbers that are finite."""
    if isinstance(value, tuple) and isinstance(like, tuple):
        if not value and name in (f"{ROOT}.blocks", f"{ROOT}.refiner.history"):
            return  # nothing was generated yet, or refined; `_require_sense` says whether that can be
        if like and not isinstance(like[0], PLAIN):
            if len(value) != len(like):
                raise ValueError(f"{name} of the saved state has {len(value)} parts, this world {len(like)}")
            for i, (v, w) in enumerate(zip(value, like, strict=True)):
                _require_form(f"{name}.{i}", v, w)
    elif value is None or like is None:
        if value is not None:
            raise ValueError(f"the saved state holds {name}, which this world does not have")
        if like is not None:
            raise ValueError(f"the saved state has no {name}")
    elif isinstance(value, Tensor):
        _require_tensor(name, value, like)
    elif type(value) is not type(like):
        raise ValueError(
            f"{name} of the saved state is a {type(value).__name__}, here a {type(like).__name__}"
        )
    elif is_dataclass(value):
        for f in fields(value):
            _require_form(f"{name}.{f.name}", getattr(value, f.name), getattr(like, f.name))


def _require_tensor(name: str, t: Tensor, like: Tensor) -> None:
    if t.dtype != like.dtype:
        raise ValueError(
            f"{name} of the saved state is {t.dtype}, here it is {like.dtype}: "
            "open it on the kind of machine that saved it"
        )
    want, growing = list(like.shape), _growing(name)
    if growing is not None and t.ndim == len(want):
        want[growing] = t.shape[growing]
    if list(t.shape) != want:
        raise ValueError(f"{name} of the saved state is {tuple(t.shape)}, this world has {tuple(want)}")
    if t.is_floating_point() and not bool(t.isfinite().all()):
        raise ValueError(f"{name} of the saved state is not finite")


def _growing(name: str) -> int | None:
    """The axis along which a window grows until it is full."""
    if name.startswith(f"{ROOT}.refiner.history."):
        return 1
    return 2 if name.split(".")[-1] in ("k", "v", "cam_k", "cam_v") and ".mixer." in name else None


def _require_sense(state: StreamState, config: ModelConfig) -> None:
    """What the parts of a state must have to do with each other."""
    if not state.blocks and state.frame:
        raise ValueError(f"the saved state has no blocks at latent frame {state.frame}")
    tokens = state.latent.shape[-2] * state.latent.shape[-1]
    for i, block in enumerate(state.blocks):
        if block.index != state.chunk:
            raise ValueError(f"block {i} of the saved state has seen {block.index} chunks of {state.chunk}")
        if isinstance(block.mixer, Keys):
            _require_window(i, block, block.mixer, tokens, config)
        elif block.chunks:
            raise ValueError(f"block {i} of the saved state has a window of {block.chunks}")
    if state.refiner is not None:
        _require_history(state.refiner, tokens, max(state.frame, 1), tuple(state.latent.shape[-2:]))


def _require_window(i: int, block: BlockState, keys: Keys, tokens: int, config: ModelConfig) -> None:
    seen = visible_chunks(block.index, config)
    lengths = {keys.k.shape[2], keys.v.shape[2], keys.cam_k.shape[2], keys.cam_v.shape[2]}
    if len(block.chunks) != len(seen) or lengths != {tokens * sum(block.chunks)}:
        raise ValueError(
            f"block {i} of the saved state remembers chunks {block.chunks}: it should be {len(seen)}"
        )


def _require_history(refiner: RefinerState, tokens: int, frame: int, grid: tuple[int, ...]) -> None:
    lengths = {x.shape[1] for kv in refiner.history for x in (kv.k, kv.v)} or {0}
    if lengths != {tokens * refiner.held} or refiner.frame != frame or refiner.grid != grid:
        raise ValueError(
            f"the refiner of the saved state holds {refiner.held} frames before frame {refiner.frame}: "
            f"that is no window before frame {frame}"
        )
