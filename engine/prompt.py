"""The one door through which text enters sana-wm: embeddings as a value, made before any other model is loaded."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.setup import Setup, Sizes

REFINER_TOKENS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A prompt as the two stages read it."""

    world: Tensor  # [1, L, caption_dim] states of the encoder of stage 1
    world_mask: Tensor | None  # [1, L] bool, True: a word; None: all are
    refiner: Tensor | None = None  # [1, M, caption_dim] of the refiner's connectors; None: no second stage
    refiner_mask: Tensor | None = None  # [1, M]

    def to(self, device: torch.device | str) -> Text:
        mask, refiner, other = (
            None if x is None else x.to(device) for x in (self.world_mask, self.refiner, self.refiner_mask)
        )
        return Text(world=self.world.to(device), world_mask=mask, refiner=refiner, refiner_mask=other)


def embedded(setup: Setup, *, refiner: bool) -> Text:
    """The prompt of a flight. Raises ValueError where its encoders are missing."""
    if setup.random_weights:
        return random_text(setup.sizes)
    raise ValueError(
        f"the text encoders of {setup.variant} are not installed, so '{setup.prompt[:40]}' cannot be read: "
        "use --random-weights to fly without them"
    )


def random_text(sizes: Sizes, *, seed: int = 0) -> Text:
    """Embeddings of true shape that mean nothing; every token counts, which is what costs most."""
    g = torch.Generator().manual_seed(seed)
    world, refiner = sizes.world, sizes.refiner
    mask = torch.ones(1, world.caption_tokens, dtype=torch.bool)
    return Text(
        world=torch.randn(1, world.caption_tokens, world.caption_dim, generator=g),
        world_mask=mask,
        refiner=torch.randn(1, REFINER_TOKENS, refiner.caption_dim, generator=g),
        refiner_mask=torch.ones(1, REFINER_TOKENS, dtype=torch.bool),
    )
