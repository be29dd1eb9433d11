"""Weights in safetensors files: per-row int8 on disk, expanded at load; strict about every name and shape. Never pickle.

A matrix or kernel of at least SMALLEST numbers is stored as int8 with one fp32 scale per output row, so that
|w - ŵ| ≤ scale / 2. Everything smaller is stored as it is. The metadata say format, kind, config and a hash.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from engine.config import CodecConfig, ModelConfig, from_record

C = TypeVar("C", ModelConfig, CodecConfig)
M = TypeVar("M", bound=nn.Module)

FORMAT = "1"
SMALLEST = 4096  # numbers in a tensor: below this int8 saves nothing worth its error
SCALE = ":scale"  # suffix of the row scales; no parameter name contains a colon


def quantise_rows(w: Tensor) -> tuple[Tensor, Tensor]:
    """[R, ...] → int8 of the same shape and fp32 scale [R]; an all-zero row has scale 0."""
    rows = w.detach().float().flatten(1)
    scale = rows.abs().amax(1) / 127
    q = (rows / scale.clamp(min=torch.finfo(torch.float32).tiny)[:, None]).round().clamp(-127, 127)
    return q.to(torch.int8).view(w.shape), scale


def expand_rows(q: Tensor, scale: Tensor) -> Tensor:
    """The inverse of `quantise_rows`, fp32."""
    return q.float() * scale.view(-1, *[1] * (q.ndim - 1))


def digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over name, type, shape and bytes of every tensor, in order of names."""
    h = hashlib.sha256()
    for name in sorted(tensors):
        t = tensors[name].contiguous()
        h.update(f"{name} {t.dtype} {tuple(t.shape)}\n".encode())
        h.update(t.view(-1).view(torch.uint8).numpy().data)
    return h.hexdigest()


def _is_quantised(t: Tensor) -> bool:
    return t.is_floating_point() and t.ndim >= 2 and t.numel() >= SMALLEST


def save_module(
    path: Path, module: nn.Module, *, kind: str, config: Mapping[str, Any], quantise: bool = True
) -> None:
    """Write the module's state. `kind` names what it is ("codec", "world"); `config` must survive JSON.

    The file appears whole or not at all: it is written beside `path` and renamed.
    """
    tensors: dict[str, Tensor] = {}
    for name, t in module.state_dict().items():
        t = t.detach().cpu().contiguous()
        if quantise and _is_quantised(t):
            tensors[name], tensors[name + SCALE] = quantise_rows(t)
        else:
            tensors[name] = t.clone()  # tied tensors must not share memory in the file
    metadata = {
        "format": FORMAT,
        "kind": kind,
        "config": json.dumps(dict(config)),
        "sha256": digest(tensors),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(serialise(tensors, metadata))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _read(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors of a file and its config, or one sentence why not."""
    if not path.is_file():
        raise ValueError(f"no weights at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            _check_metadata(path, kind, metadata)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- not a dict
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}): fetch or export it again"
        ) from error
    if digest(tensors) != metadata.get("sha256"):
        raise ValueError(f"{path} is damaged: its tensors do not match its sha256; fetch or export it again")
    return tensors, _config(path, metadata)


def _check_metadata(path: Path, kind: str, metadata: Mapping[str, str]) -> None:
    if "format" not in metadata or "kind" not in metadata:
        raise ValueError(f"{path} holds tensors, but not weights saved by World Explorer")
    if metadata["format"] != FORMAT:
        raise ValueError(f"{path} has format {metadata['format']!r}, this program reads {FORMAT!r}")
    if metadata["kind"] != kind:
        raise ValueError(f"{path} holds a {metadata['kind']!r}, not a {kind!r}")


def _config(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        config = json.loads(metadata.get("config", ""))
    except ValueError as error:
        raise ValueError(f"{path} has a config that is not JSON ({error})") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} has a config that is not a JSON object")
    return config


def read_config(path: Path, *, kind: str) -> dict[str, Any]:
    """The config that was saved with the weights, without reading them."""
    if not path.is_file():
        raise ValueError(f"no weights at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}): fetch or export it again"
        ) from error
    _check_metadata(path, kind, metadata)
    return _config(path, metadata)


class _Unfilled(TorchFunctionMode):
    """Leaves parameters as they are allocated. On the meta device `nn.init.normal_` would import torch's compiler: 2 s."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def build_stored(path: Path, module: Callable[[C], M], config: type[C], *, kind: str) -> M:
    """An empty module of the size that the file at `path` says, on the meta device: `load_module` fills it. ValueError."""
    record = read_config(path, kind=kind)
    try:
        with torch.device("meta"), _Unfilled():
            return module(from_record(config, record))
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise ValueError(f"{path} has a config this program cannot build: {error}") from error


def load_module(
    path: Path,
    module: nn.Module,
    *,
    kind: str,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> dict[str, Any]:
    """Fill `module` (it may live on the meta device) with the file's weights in `dtype`; returns the saved config.

    Raises one ValueError that names every missing, extra and wrong-shaped tensor, or what is wrong with the file.
    """
    stored, config = _read(path, kind)
    expected = module.state_dict()
    _check_names(path, stored, expected)
    weights: dict[str, Tensor] = {}
    for name, like in expected.items():
        t = stored[name]
        t = expand_rows(t, stored[name + SCALE]) if name + SCALE in stored else t
        if t.is_floating_point() and not bool(torch.isfinite(t).all()):
            raise ValueError(f"{path} holds numbers in {name} that are not finite")
        t = t.to(device=device, dtype=dtype if like.is_floating_point() else like.dtype)
        channels_last = t.ndim == 4 and like.is_contiguous(memory_format=torch.channels_last)
        weights[name] = t.contiguous(memory_format=torch.channels_last) if channels_last else t
    module.load_state_dict(weights, assign=True)
    return config


def _check_names(path: Path, stored: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Missing, extra and wrong tensors, all of them, in one sentence."""
    scales = {name for name in stored if name.endswith(SCALE) and name.removesuffix(SCALE) in stored}
    wrong = [
        f"{name} is {_shape(stored[name])}, not {_shape(like)}"
        for name, like in expected.items()
        if name in stored and stored[name].shape != like.shape
    ]
    wrong += [
        f"{name} is not one number per row"
        for name in sorted(scales)
        if stored[name].shape != stored[name.removesuffix(SCALE)].shape[:1]
        or not stored[name].is_floating_point()
    ]
    wrong += [
        f"{name} is {stored[name].dtype}, which is not a weight"
        for name, like in expected.items()
        if name in stored
        and like.is_floating_point() != (stored[name].is_floating_point() or name + SCALE in stored)
    ]
    parts = [
        *_listed("missing", expected.keys() - stored.keys()),
        *_listed("not known", stored.keys() - expected.keys() - scales),
        *_listed("wrong", wrong),
    ]
    if parts:
        raise ValueError(f"{path} does not fit this model: {'; '.join(parts)}")


def _listed(label: str, names: Iterable[str]) -> list[str]:
    names = sorted(names)
    return [f"{label}: {', '.join(names)}"] if names else []


def _shape(t: Tensor) -> str:
    return "x".join(map(str, t.shape)) or "one number"
