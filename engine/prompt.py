"""The one door through which text enters sana-wm: embeddings as a value, made before any other model is loaded."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine import container
from engine.setup import Setup, Sizes
from engine.snapshot import flatten, rebuild
from engine.text import Request, embed

REFINER_TOKENS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A prompt as the two stages read it."""

    world: Tensor  # [1, L, caption_dim] states of the encoder of stage 1
    world_mask: Tensor | None  # [1, L] bool, True: a word; None: all are
    refiner: Tensor | None = None  # [1, M, caption_dim] of the refiner's connectors; None: no second stage
    refiner_mask: Tensor | None = None  # [1, M]
    negative: Tensor | None = None  # [1, L, caption_dim] of stage 1, for guidance
    negative_mask: Tensor | None = None

    def to(self, device: torch.device | str) -> Text:
        return Text(**{f.name: _moved(getattr(self, f.name), device) for f in fields(self)})


def _moved(x: Any, device: torch.device | str) -> Any:
    return None if x is None else x.to(device)


def embedded(
    setup: Setup,
    *,
    sizes: Sizes,
    folder: Path | None,
    refiner: bool,
    device: torch.device | str = "cpu",
    on_step: Callable[[str], None] = lambda step: None,
) -> Text:
    """The prompt of a flight, and the empty one that guidance leads away from. Encoders are freed again.

    folder: the converted release, None with random weights.  Raises ValueError where its encoders are missing.
    """
    if folder is None:
        return random_text(sizes, seed=zlib.crc32(setup.prompt.encode()))
    from engine.instruction import instruction
    from engine.text_cache import TextCache, cache_folder
    from engine.text_gemma import Gemma2
    from engine.text_ltx2 import Gemma3

    stage_1 = Gemma2(folder=folder / "text", tokens=sizes.world.caption_tokens, device=str(device))
    read = partial(embed, cache=TextCache(cache_folder()), on_step=on_step)
    world, negative = read([Request(setup.prompt, instruction(folder)), Request("")], stage_1)
    text = Text(
        world=world.states,
        world_mask=world.mask,
        negative=negative.states,
        negative_mask=negative.mask,
    )
    if not refiner:
        return text
    stage_2 = Gemma3(folder=folder / "encoder", connectors=folder / "connectors", device=str(device))
    (second,) = read([Request(setup.prompt)], stage_2)
    return replace(text, refiner=second.states, refiner_mask=second.mask)


def read_text(setup: Setup, *, refiner: bool, on_step: Callable[[str], None] = lambda step: None) -> Text:
    """The prompt of a setup, read in main memory for a flight that goes on meanwhile. Raises ValueError.

    refiner: whether the second stage of that flight reads too.
    """
    from engine.converted import read_parts

    if setup.random_weights:
        return embedded(setup, sizes=setup.sizes, folder=None, refiner=refiner)
    parts = read_parts(setup)
    return embedded(setup, sizes=parts.sizes, folder=parts.folder, refiner=refiner, on_step=on_step)


def keep_text(path: Path, text: Text) -> None:
    """Raises OSError."""
    arrays, record = flatten(text)
    container.write(path, arrays, {"state": record})


def kept_text(path: Path) -> Text:
    """What `keep_text` wrote. Raises ValueError."""
    arrays, record = container.read(path)
    state = record.get("state")
    return rebuild(Text, arrays, state if isinstance(state, dict) else {})


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
        negative=torch.randn(1, world.caption_tokens, world.caption_dim, generator=g),
        negative_mask=mask,
    )
