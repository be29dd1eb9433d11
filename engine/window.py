"""Which chunks there are, and which of them a chunk may look at. Pure."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.config import ModelConfig


def chunk_lengths(frames: int, config: ModelConfig) -> tuple[int, ...]:
    """Cut a clip of latent frames into the chunks of a stream; chunk 0 also takes what is left over.

    A bidirectional model sees one chunk.
    """
    if not config.causal or frames <= config.first_chunk:
        return (frames,)
    rest = (frames - config.first_chunk) % config.chunk
    first = config.first_chunk + rest
    return (first, *[config.chunk] * ((frames - first) // config.chunk))


def visible_chunks(index: int, config: ModelConfig) -> tuple[int, ...]:
    """Earlier chunks that the softmax blocks of chunk `index` see, oldest first.

    With a sink, chunk 0 takes a place in the window: of two places, one is chunk 0 and one the chunk before.
    """
    if config.window < 0:
        return tuple(range(index))
    first = max(index - config.window, 0)
    if config.sink and config.window > 0 and index - config.window + 1 > 0:
        return (0, *range(max(index - config.window + 1, 1), index))
    return tuple(range(first, index))


def attention_mask(
    *, index: int, cached: tuple[int, ...], chunks: tuple[int, ...], config: ModelConfig, device: torch.device
) -> Tensor | None:
    """Frames [F, cached + F] that a frame of this call may look at; None: all of them.

    index: of the call's first chunk.  cached, chunks: frames in each remembered chunk, and in each of the call's.
    """
    if not config.causal:
        return None
    inside = range(index, index + len(chunks))
    keys = [*zip(visible_chunks(index, config), cached, strict=True), *zip(inside, chunks, strict=True)]
    rows = []
    for chunk, length in zip(inside, chunks, strict=True):
        sees = {*visible_chunks(chunk, config), chunk}
        rows += [[key in sees for key, n in keys for _ in range(n)]] * length
    if all(map(all, rows)):
        return None
    return torch.tensor(rows, device=device)
