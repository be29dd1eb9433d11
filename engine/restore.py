"""A saved state is not trusted: it must have the form of one that this very engine makes, and hold together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

from engine.config import ModelConfig
from engine.refiner import RefinerState
from engine.snapshot import PLAIN, ROOT, Arrays, rebuild
from engine.state import BlockState, Keys, StreamState
from engine.window import visible_chunks

IN_ONE_PIECE = re.compile(rf"^({re.escape(ROOT)}\.refiner\.history\.\d+)\.([kv])$")


def restore(
    arrays: Arrays, record: Mapping[str, Any], *, like: StreamState, config: ModelConfig, device: Any
) -> StreamState:
    """A state of the form of `like`, which is one of the same engine after a chunk or more; its values do not count.

    Raises ValueError.
    """
    state = rebuild(StreamState, *_in_blocks(arrays, record), device=device)
    _require_form(ROOT, state, like)
    _require_sense(state, config)
    return state


def _in_blocks(arrays: Arrays, record: Mapping[str, Any]) -> tuple[Arrays, Mapping[str, Any]]:
    """What the refiner remembers of a layer by blocks: files of versions before that have it in one piece, a long block."""

    bits, orders = record.get("bfloat16"), record.get("orders")
    named = dict(record)
    if isinstance(bits, list):
        named["bfloat16"] = [_in_block(name) for name in bits]
    if isinstance(orders, dict):
        named["orders"] = {_in_block(name): order for name, order in orders.items()}
    return {_in_block(name): a for name, a in arrays.items()}, named


def _in_block(name: Any) -> Any:
    return IN_ONE_PIECE.sub(r"\1.0.\2", name) if isinstance(name, str) else name


def _require_form(name: str, value: Any, like: Any) -> None:
    """The same parts, types and shapes, and numbers that are finite."""
    if isinstance(value, tuple) and isinstance(like, tuple):
        if not value and name in (f"{ROOT}.blocks", f"{ROOT}.refiner.history"):
            return  # nothing was generated yet, or refined; `_require_sense` says whether that can be
        if not all(isinstance(item, PLAIN) for item in (*value, *like)):
            if _is_layer(name):
                like = like[-1:] * len(value)  # `_require_history` counts what is in the blocks
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


def _is_layer(name: str) -> bool:
    """Whether these are the blocks that the refiner remembers in a layer."""
    return name.rpartition(".")[0] == f"{ROOT}.refiner.history"


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
    layers = [[(kv.k.shape[1], kv.v.shape[1]) for kv in blocks] for blocks in refiner.history]
    sound = all(k == v > 0 for blocks in layers for k, v in blocks)
    held = {sum(k for k, _ in blocks) for blocks in layers} or {0}
    if not sound or held != {tokens * refiner.held} or refiner.frame != frame or refiner.grid != grid:
        raise ValueError(
            f"the refiner of the saved state holds {refiner.held} frames before frame {refiner.frame}: "
            f"that is no window before frame {frame}"
        )
