"""A small pocket model of random weights and a flight for it, in fp64: what the model's tests share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from engine.conditioning import Conditioning, condition_clip
from engine.config import POCKET, ModelConfig
from engine.model import WorldModel
from engine.state import BlockState

GRID = (2, 3)
SMALL = replace(
    POCKET,
    dim=64,
    heads=2,
    cross_heads=2,
    depth=4,
    softmax_blocks=(1, 3),
    latent_channels=6,
    caption_dim=8,
    caption_tokens=3,
    words=5,
    window=3,
)
CHUNKY = replace(SMALL, chunk=3, first_chunk=4, window=2, sink=True, anchor="first", words=0)


@torch.no_grad()
def random_model(
    config: ModelConfig = SMALL, *, seed: int = 0, dtype: torch.dtype = torch.float64
) -> WorldModel:
    """No parameter is zero, so that nothing is switched off."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = WorldModel(config)
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model.to(dtype).eval()


def flight(frames: int, config: ModelConfig = SMALL, *, radius: float = 4.0) -> Conditioning:
    """Camera of two clips that turn and move on, far enough for the anchor to move every other chunk."""
    n = 1 + 8 * (frames - 1)
    t = 0.35 * torch.arange(n, dtype=torch.float64)
    poses = torch.eye(4, dtype=torch.float64).repeat(2, n, 1, 1)
    poses[:, :, 2, 3] = t
    poses[1, :, 0, 3] = t
    c, s = (0.2 * t).cos(), (0.2 * t).sin()
    poses[:, :, 0, 0], poses[:, :, 0, 2], poses[:, :, 2, 0], poses[:, :, 2, 2] = c, s, -s, c
    lens = torch.tensor([60.0, 60.0, 24.0, 16.0], dtype=torch.float64).expand(2, n, 4)
    limit = torch.tensor([radius, 1.5 * radius], dtype=torch.float64)
    cond = condition_clip(poses, lens, grid=GRID, config=config, radius=limit).to(dtype=torch.float64)
    if cond.reanchor is not None:  # rigid to the last digit, where the program rounds to fp32
        U, _, Vt = torch.linalg.svd(cond.reanchor[..., :3, :3])
        cond.reanchor[..., :3, :3] = U @ Vt
    return cond


def inputs(model: WorldModel, frames: int) -> dict[str, Any]:
    """Arguments of `WorldModel.forward` for a clip, camera included."""
    generator = torch.Generator().manual_seed(frames)
    config = model.config
    words = torch.tensor([[1, 2, 0], [0, 3, 4]])
    caption = words if config.words else torch.randn(2, 3, config.caption_dim, generator=generator).double()
    channels = config.latent_channels + config.memory_channels
    return dict(
        x=torch.randn(2, channels, frames, *GRID, generator=generator, dtype=torch.float64),
        timestep=torch.randint(0, 1000, (2, frames), generator=generator).double(),
        text=model.embed_text(caption),
        text_mask=None,
        cond=flight(frames, config),
    )


def run(
    model: WorldModel, given: dict[str, Any], lengths: tuple[int, ...], *, dense: int = 0
) -> tuple[Tensor, tuple[BlockState, ...]]:
    """Chunk by chunk, each committed as it was read. dense: how many chunks the first call takes together."""
    calls = [lengths[:dense], *[(n,) for n in lengths[dense:]]] if dense else [(n,) for n in lengths]
    past: tuple[BlockState, ...] | None = None
    out, a = [], 0
    for chunks in calls:
        b = a + sum(chunks)
        flow, past = model(
            given["x"][:, :, a:b],
            timestep=given["timestep"][:, a:b],
            text=given["text"],
            text_mask=given["text_mask"],
            cond=given["cond"].part(a, b),
            past=past,
            chunks=chunks,
        )
        out.append(flow)
        a = b
    assert past is not None
    return torch.cat(out, dim=2), past


def distance(a: Tensor, b: Tensor) -> float:
    """‖a - b‖ / ‖b‖."""
    return ((a.double() - b.double()).norm() / b.double().norm()).item()
