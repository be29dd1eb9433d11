"""Released SANA-WM weights into `WorldModel`: unwrap, rename, and name every tensor that does not fit."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

from torch import Tensor

from engine.config import ModelConfig
from engine.model import WorldModel

T = TypeVar("T")

RENAMED = {
    "t_embedder.linear_1.": "t_embedder.mlp.0.",
    "t_embedder.linear_2.": "t_embedder.mlp.2.",
}  # diffusers


def is_unused(name: str, config: ModelConfig) -> bool:
    """Whether the release stores this tensor without ever reading it, so that `WorldModel` has no place for it.

    `pos_embed`: all zeros. `y_embedder.y_embedding`: the null caption of training. `recall_gate`: a leftover.
    `raymap_embedder`: skipped wherever Plücker rays enter the blocks. The gates of softmax blocks: they have none.
    """
    if name in ("pos_embed", "y_embedder.y_embedding") or name.startswith("raymap_embedder."):
        return True
    match = re.fullmatch(r"blocks\.(\d+)\.attn\.(\w+)(\.weight|\.bias)?", name)
    if match is None:
        return False
    gates = ("A_log", "dt_bias", "beta_proj", "gate_proj")
    return match[2] == "recall_gate" or (match[2] in gates and int(match[1]) in config.softmax_blocks)


def native_state_dict(tensors: Mapping[str, T], config: ModelConfig) -> dict[str, T]:
    """Native (or diffusers) names, with or without `model.` in front -> names of `WorldModel`, unused ones left out.

    Raises ValueError where two of them mean the same tensor.
    """
    out: dict[str, T] = {}
    for name, tensor in tensors.items():
        name = name.removeprefix("model.")
        for theirs, ours in RENAMED.items():
            name = name.replace(theirs, ours)
        if name in out:
            raise ValueError(f"these weights hold {name} twice, under two names")
        if not is_unused(name, config):
            out[name] = tensor
    return out


def load_native(model: WorldModel, tensors: Mapping[str, Tensor]) -> None:
    """Load released weights strictly.

    Raises ValueError that names what is missing, what has another shape, and what nobody asked for.
    """
    given, ours = native_state_dict(tensors, model.config), model.state_dict()
    wrong = [
        f"{n} {tuple(given[n].shape)} instead of {tuple(ours[n].shape)}"
        for n in sorted(given.keys() & ours.keys())
        if given[n].shape != ours[n].shape
    ]
    problems = [
        _listed("missing", sorted(ours.keys() - given.keys())),
        _listed("of another shape", wrong),
        _listed("unknown", sorted(given.keys() - ours.keys())),
    ]
    if any(problems):
        raise ValueError(f"these weights are not of this model; tensors {'; '.join(filter(None, problems))}")
    model.load_state_dict(given)


def _listed(what: str, names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{what}: {', '.join(names[:5])}{more}" if names else ""
