"""Frozen dataclasses of tensors to a safetensors file and back, by the types of their fields. Never pickle.

For values that this program wrote itself, such as a state between two chunks. A file that is damaged, foreign, or not
of this kind is refused in one sentence.
"""

from __future__ import annotations

import json
import math
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

V = TypeVar("V")
FORMAT = "1"
Plain = Mapping[str, Any]


def save_value(path: Path, value: Any, *, note: Mapping[str, str] | None = None) -> None:
    """Write a dataclass. The file appears whole or not at all.  note: words kept beside it, for `read_note`."""
    tensors: dict[str, Tensor] = {}
    plain = _taken_apart(value, "value", tensors)
    metadata = {"format": FORMAT, "value": json.dumps(plain), "note": json.dumps(dict(note or {}))}
    part = path.with_name(path.name + ".part")
    try:
        save_file(tensors, part, metadata)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def load_value(path: Path, kind: type[V], *, device: torch.device | str = "cpu") -> V:
    """Read what `save_value` wrote. Raises ValueError."""
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError(f"{path} was not saved by this version: remove it")
            plain = json.loads(metadata["value"])
            value = _put_together(kind, plain, file.get_tensor)
    except (SafetensorError, OSError, KeyError, TypeError, RecursionError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged ({_line(error)}): remove it") from error
    if not isinstance(value, kind):
        raise ValueError(f"{path} holds no {kind.__name__}: remove it")
    return value


def read_note(path: Path) -> dict[str, str]:
    """The words beside a saved value. Raises ValueError."""
    try:
        with safe_open(path, framework="pt") as file:
            note = json.loads((file.metadata() or {}).get("note", "null"))
    except (SafetensorError, OSError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({_line(error)}): remove it") from error
    if not isinstance(note, dict) or not all(isinstance(v, str) for v in note.values()):
        raise ValueError(f"{path} was not saved by this program: remove it")
    return note


def _taken_apart(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """JSON of everything but tensors, which go under their dotted names into `tensors`."""
    if isinstance(value, Tensor):
        tensors[name] = (
            value.detach().to("cpu", copy=True).contiguous()
        )  # nothing may share memory in the file
        return {"tensor": name}
    if is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: _taken_apart(getattr(value, f.name), f"{name}.{f.name}", tensors) for f in fields(value)
        }
    if isinstance(value, tuple):
        return [_taken_apart(v, f"{name}.{i}", tensors) for i, v in enumerate(value)]
    if (
        value is None
        or isinstance(value, bool | int | str)
        or (isinstance(value, float) and math.isfinite(value))
    ):
        return value
    raise TypeError(f"{name} is a {type(value).__name__}, which cannot be saved")


def _put_together(kind: Any, plain: Any, tensor: typing.Callable[[str], Tensor]) -> Any:
    """A value of type `kind`; TypeError where `plain` is none."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _one_of(arguments, plain, tensor)
    if origin is tuple and isinstance(plain, list):
        kinds = [arguments[0]] * len(plain) if arguments[1:] == (...,) else list(arguments)
        return tuple(_put_together(k, p, tensor) for k, p in zip(kinds, plain, strict=True))
    if kind is Tensor and isinstance(plain, dict) and plain.keys() == {"tensor"}:
        return tensor(str(plain["tensor"]))
    if is_dataclass(kind) and isinstance(plain, dict):
        assert isinstance(kind, type)
        hints = typing.get_type_hints(kind)
        if plain.keys() != {f.name for f in fields(kind)}:
            raise TypeError(f"it holds no {kind.__name__}")
        return kind(**{name: _put_together(hints[name], p, tensor) for name, p in plain.items()})
    if kind is types.NoneType and plain is None:
        return None
    if kind in (bool, int, str, float) and type(plain) is kind:
        return plain
    raise TypeError(f"{str(plain)[:40]} is no {getattr(kind, '__name__', kind)}")


def _one_of(kinds: tuple[Any, ...], plain: Any, tensor: typing.Callable[[str], Tensor]) -> Any:
    for kind in kinds:
        try:
            return _put_together(kind, plain, tensor)
        except TypeError:
            continue
    raise TypeError(f"{str(plain)[:40]} fits none of {len(kinds)} types")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
