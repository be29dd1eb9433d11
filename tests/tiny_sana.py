"""sana-wm at tiny size: three latent frames per chunk, 32 pixels per cell, every part present."""

from __future__ import annotations

from dataclasses import replace

import torch

from engine.camera import Intrinsics
from engine.config import SANA_WM
from engine.ltx2 import RefinerConfig, VaeConfig
from engine.model import WorldModel
from engine.prompt import random_text
from engine.random_weights import random_module
from engine.sana import SanaEngine, sana_spec
from engine.setup import Setup, Sizes
from engine.vae import Vae

SIZES = Sizes(
    world=replace(
        SANA_WM,
        dim=48,
        heads=2,
        cross_heads=2,
        depth=3,
        softmax_blocks=(1,),
        latent_channels=8,
        caption_dim=16,
        caption_tokens=5,
    ),
    vae=VaeConfig(
        latent_channels=8,
        encoder_widths=(8, 16, 16, 32),
        encoder_layers=(1, 1, 1, 1, 1),
        decoder_widths=(32, 16, 8),
        decoder_layers=(1, 1, 1, 1),
    ),
    refiner=RefinerConfig(latent_channels=8, heads=2, head_dim=20, depth=2, caption_dim=12),
    width=96,
    height=64,
)
SETUP = Setup(random_weights=True, sizes=SIZES, refiner="on", memory=80)


def exact_engine(*, device: str = "cpu") -> SanaEngine:
    """Without refiner, in fp32 on every machine."""
    exact = dict(dtype=torch.float32, device=device)
    return SanaEngine(
        sana_spec(width=SIZES.width, height=SIZES.height, chunk_frames=24),
        model=random_module(lambda: WorldModel(SIZES.world), **exact, seed=1),
        vae=random_module(lambda: Vae(SIZES.vae), **exact, seed=2),
        text=random_text(SIZES),
    )


def forward_lens(engine: SanaEngine) -> Intrinsics:
    """A common lens at the size of the engine."""
    return Intrinsics.from_fov(1.2, width=engine.spec.width, height=engine.spec.height)
