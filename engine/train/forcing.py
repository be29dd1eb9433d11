"""Diffusion forcing: a noise level of its own for every latent frame of a clip, and what each one weighs in the loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.schedule import flow_of


@dataclass(frozen=True, kw_only=True)
class ForcingConfig:
    """How noisy the frames of a training clip are. Source: Chen et al. 2024, arXiv 2407.01392, and our own runs."""

    context: tuple[float, float] = (0.30, 0.85)  # share of context frames, drawn per clip
    context_level: float = 0.2  # context frames are noised up to here
    context_clean: float = 0.5  # share of the context frames without any noise, as at run time
    context_weight: float = 0.15  # of a context frame in the loss
    pure_noise: float = 0.15  # share of the other frames at level 1
    logit_mean: float = 0.5  # the rest: sigmoid of a normal
    logit_std: float = 1.3
    first_context: float = 0.95  # clips whose first frame is given


def draw_levels(
    batch: int, frames: int, config: ForcingConfig, *, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Noise levels and loss weights, both [B, F] in [0, 1]. Every clip has at least one frame to learn from."""
    device = generator.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, device=device, generator=generator)

    low, high = config.context
    is_context = uniform(batch, frames) < low + (high - low) * uniform(batch, 1)
    is_context[:, 0] = uniform(batch) < config.first_context
    is_context[:, -1] &= ~is_context.all(dim=1)
    noisy = torch.sigmoid(
        config.logit_mean + config.logit_std * torch.randn(batch, frames, device=device, generator=generator)
    )
    noisy = torch.where(uniform(batch, frames) < config.pure_noise, 1.0, noisy)
    context = config.context_level * uniform(batch, frames) * (uniform(batch, frames) >= config.context_clean)
    levels = torch.where(is_context, context, noisy)
    weights = torch.where(is_context, config.context_weight * (context > 0), 1.0)
    return levels, weights


def add_noise(clean: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
    """Straight path from clean (level 0) to noise (level 1). clean, noise: [B, C, F, h, w]; levels: [B, F]."""
    t = levels[:, None, :, None, None].to(clean.dtype)
    return torch.lerp(clean, noise, t)


def flow_loss(
    flow: Tensor, *, clean: Tensor, noise: Tensor, weights: Tensor, cells: Tensor | None = None
) -> Tensor:
    """Weighted mean squared error of the predicted flow against noise - clean. Returns a scalar.

    weights: of frames [B, F], or of their cells [B, F, h, w].  cells: [B, F, h, w], what each token counts within its
    frame; None: all the same.
    """
    error = (flow.float() - flow_of(clean, noise).float()).square().mean(dim=1)
    error = error if cells is None else error * cells
    if weights.ndim == 2:
        error = error.mean(dim=(2, 3))
    whole = weights.numel() / (weights.shape[0] * weights.shape[1])  # what the weights of a frame add up to
    return (error * weights).sum() / weights.sum().clamp_min(whole)
