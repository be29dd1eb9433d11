"""The mean of weights: each tensor's, as far as int8 keeps it, and of worlds of one size only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.checkpoint import save_module
from engine.config import ModelConfig, as_record
from engine.model import WorldModel
from engine.train.long import stored_world
from engine.train.mean import Mean, mean
from tests.tiny import MODEL

SMALL = replace(MODEL, dim=40, depth=2)


def stored(folder: Path, seed: int, config: ModelConfig = SMALL) -> Path:
    torch.manual_seed(seed)
    model = WorldModel(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    path = folder / f"{seed}.safetensors"
    save_module(path, model, kind="world", config=as_record(config))
    return path


def test_every_weight_is_the_mean_of_all(tmp_path: Path) -> None:
    paths = [stored(tmp_path, seed) for seed in range(3)]
    mean(Mean(weights=tuple(paths), out=tmp_path / "out"))
    states = [stored_world(path).state_dict() for path in paths]
    for name, got in stored_world(tmp_path / "out" / "world.safetensors").state_dict().items():
        each = torch.stack([state[name] for state in states])
        step = each.abs().amax() / 100  # coarser than a row of int8
        assert (got - each.mean(dim=0)).abs().max() <= step, name


def test_what_has_no_mean_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two or more"):
        Mean(weights=(tmp_path,))
    one, other = stored(tmp_path, 0), stored(tmp_path, 1, replace(SMALL, levels=(1.0, 0.5)))
    with pytest.raises(ValueError, match=r"1\.safetensors"):
        mean(Mean(weights=(one, other), out=tmp_path / "out"))
