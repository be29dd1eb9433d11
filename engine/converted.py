"""A release after its conversion: one folder, our names, bf16, shards of at most 2 GB, and what it is made of.

release.json        format, name, repository, revision, licence, picture size, config of stage 1
world/  vae/  refiner/  connectors/  …      shards with an index; vae, refiner and connectors keep their config.json
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.config import SANA_WM, ModelConfig, from_record
from engine.ltx2 import LTX2_REFINER, RefinerConfig, refiner_config, vae_config
from engine.model import WorldModel
from engine.place import Ready, as_is
from engine.refiner_model import RefinerModel
from engine.release import empty, fill, load_vae, opened, read_json
from engine.setup import Setup, Sizes, models_folder
from engine.vae import Vae

FORMAT = 1
RECORD = "release.json"


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A converted release on disk, its record read and checked."""

    folder: Path
    sizes: Sizes

    @property
    def has_refiner(self) -> bool:
        return (self.folder / "refiner" / "config.json").is_file()

    def world(
        self, *, dtype: torch.dtype, device: torch.device | str, ready: Callable[[nn.Module], Ready] = as_is
    ) -> WorldModel:
        """ready: makes of the empty model what `engine.place.place` tells of every part that is filled."""
        model = empty(lambda: WorldModel(self.sizes.world))
        folder = self.folder / "world"
        with opened(folder) as tensors:
            fill(model, tensors, source=folder, dtype=dtype, device=device, ready=ready(model))
        return model

    def vae(self, *, dtype: torch.dtype, device: torch.device | str) -> Vae:
        causal = self.sizes.vae.decoder_causal
        return load_vae(self.folder / "vae", decoder_causal=causal, dtype=dtype, device=device)

    def refiner(
        self,
        config: RefinerConfig,
        *,
        dtype: torch.dtype,
        device: torch.device | str,
        ready: Callable[[nn.Module], Ready] = as_is,
    ) -> RefinerModel:
        """config: the release's own, but for the window, which is a choice.  ready: as in `world`."""
        model, folder = empty(lambda: RefinerModel(config)), self.folder / "refiner"
        with opened(folder) as tensors:
            fill(model, tensors, source=folder, dtype=dtype, device=device, ready=ready(model))
        return model


def read_parts(setup: Setup) -> Parts:
    """The converted release that a setup asks for. Raises ValueError naming the way to get it."""
    folder = setup.weights or models_folder() / setup.variant
    if not (folder / RECORD).is_file():
        raise ValueError(
            f"there are no weights of {setup.variant} in {folder}: run explorer download {setup.variant}, "
            "or add --random-weights to fly through noise at its true cost"
        )
    record = read_json(folder / RECORD)
    if record.get("format") != FORMAT:
        raise ValueError(
            f"{folder} has format {record.get('format')!r}, this program reads {FORMAT}: convert it again"
        )
    world = record.get("config")
    if not isinstance(world, dict):
        raise ValueError(f"{folder / RECORD} does not say how large its model is: convert it again")
    return Parts(folder=folder, sizes=_sizes(folder, record, from_record(ModelConfig, world)))


def _sizes(folder: Path, record: dict[str, Any], world: ModelConfig) -> Sizes:
    size = record.get("size")
    if not (
        isinstance(size, list) and len(size) == 2 and all(type(n) is int and 0 < n <= 8192 for n in size)
    ):
        raise ValueError(f"{folder / RECORD} has size={size!r}: two numbers of pixels belong there")
    vae = vae_config(read_json(folder / "vae" / "config.json"), decoder_causal=record.get("decoder_causal"))
    second = folder / "refiner" / "config.json"
    refiner = refiner_config(read_json(second)) if second.is_file() else LTX2_REFINER
    if vae.latent_channels != world.latent_channels or vae.stride != world.stride:
        raise ValueError(f"the codec in {folder} does not fit its world model: convert the release again")
    return Sizes(world=world, vae=vae, refiner=refiner, width=size[0], height=size[1])


def is_released(config: ModelConfig) -> bool:
    """Whether a config has the size of the released models."""
    return (config.dim, config.depth, config.heads) == (SANA_WM.dim, SANA_WM.depth, SANA_WM.heads)
