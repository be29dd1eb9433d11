"""What survives a chunk, as values: dropping a new state is an undo, keeping two is two worlds.

How the names map to those of foreign files (SANA-WM fixtures, sglang slots): see `Memory` and `Keys`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.conditioning import Anchor
from engine.config import ModelConfig
from engine.memory import SpatialMemory
from engine.refiner import RefinerState
from engine.ucpe import move_vectors
from engine.vae import DecoderState
from engine.window import visible_chunks


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What a GDN block remembers: everything so far, in a fixed size. N = tokens per frame."""

    S: Tensor  # [B, H, K, V] fp32; `S_kv` of the fixtures is its transpose
    z: Tensor  # [B, H, K, 1] fp32; `S_z`
    cam_S: Tensor  # [B, H, K, V] fp32; `cam_S_kv`, not transposed
    conv: Tensor  # [B, taps-1, N, D] last keys before the convolution; `conv_k_tail` is [B*N, taps-1, D]
    cam_conv: Tensor | None  # the same of the camera branch; None where semantics do not carry it


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """What a softmax block remembers: keys and values of the chunks in its window, [B, H, n·N, K], oldest first."""

    k: Tensor  # after the norm and the rotary embedding
    v: Tensor
    cam_k: Tensor  # in the coordinates of the anchor
    cam_v: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Room(Keys):
    """Keys with room behind them for those of a chunk, which every pass over it overwrites."""

    own: int  # tokens of the chunk

    def filled(self, new: Keys) -> Keys:
        """All keys, those of the chunk being the new ones: the same memory for every pass."""
        for there, x in zip(_parts(self), _parts(new), strict=True):
            there[:, :, -self.own :].copy_(x)
        return Keys(k=self.k, v=self.v, cam_k=self.cam_k, cam_v=self.cam_v)


def with_room(keys: Keys, own: int) -> Room:
    """A copy with room for `own` tokens."""
    old = _parts(keys)
    k, v, cam_k, cam_v = (x.new_empty(*x.shape[:2], x.shape[2] + own, x.shape[3]) for x in old)
    for there, x in zip((k, v, cam_k, cam_v), old, strict=True):
        there[:, :, : x.shape[2]].copy_(x)
    return Room(k=k, v=v, cam_k=cam_k, cam_v=cam_v, own=own)


def _parts(keys: Keys) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return keys.k, keys.v, keys.cam_k, keys.cam_v


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockState:
    """One block after a chunk."""

    mixer: Memory | Keys
    ffn: Tensor  # [B, N, D] last frame of the FFN before its temporal convolution; `ffn_tail` is [B, D, 1, N]
    chunks: tuple[int, ...]  # latent frames of each chunk that the window holds
    index: int  # chunks committed so far


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamState:
    """Made by `Generator.start`, replaced by `step`, never edited."""

    blocks: tuple[BlockState, ...]
    frame: int  # latent frames so far
    chunk: int  # chunks so far; with `seed` it decides the noise of the next one
    seed: int
    text: Tensor  # [B, L, D] embedded words
    text_mask: Tensor | None  # [B, L] bool, True: a word
    latent: Tensor  # [B, C, h, w] the last one, which the decoder starts from
    anchor: Anchor | None  # for whoever makes the next chunk's conditioning
    spatial: SpatialMemory | None = None  # pictures with depth; None in worlds without spatial memory
    decoder: DecoderState | None = None  # of a streaming autoencoder; `pocket` decodes from `latent` alone
    refiner: RefinerState | None = None  # None where there is no second stage
    refining: bool = True  # whether the second stage, where there is one, works on the coming chunks


def timeless(blocks: tuple[BlockState, ...]) -> tuple[BlockState, ...]:
    """What blocks remember, without how much and since when: the same from chunk to chunk but for what tensors hold."""
    return tuple(replace(block, chunks=(), index=0) for block in blocks)


def reanchor(blocks: tuple[BlockState, ...], G: Tensor) -> tuple[BlockState, ...]:
    """Express the camera memory relative to another anchor: X_new = G X_old, G rigid [B, 4, 4] in model units.

    S becomes Ĝ S Ĝᵀ, cached keys and values Ĝk and Ĝv. What is read from the past stays the same. Under a pure
    rotation so does all that is written later; after a translation later writes differ, by the delta rule's nature.
    """
    return tuple(replace(block, mixer=_moved(block.mixer, G)) for block in blocks)


def _moved(mixer: Memory | Keys, G: Tensor) -> Memory | Keys:
    if isinstance(mixer, Keys):
        return replace(mixer, cam_k=move_vectors(mixer.cam_k, G), cam_v=move_vectors(mixer.cam_v, G))
    return replace(mixer, cam_S=move_vectors(move_vectors(mixer.cam_S, G).mT, G).mT)


def within_window(
    keys: Keys, *, cached: tuple[int, ...], chunks: tuple[int, ...], index: int, config: ModelConfig
) -> tuple[Keys, tuple[int, ...]]:
    """Keep the keys of the chunks that the chunk after this call may see; evicted ones are gone for good.

    keys: of the remembered chunks, then of the call's.  index: of the call's first chunk.
    """
    ids = (*visible_chunks(index, config), *range(index, index + len(chunks)))
    lengths = (*cached, *chunks)
    wanted = set(visible_chunks(index + len(chunks), config))
    if wanted.issuperset(ids):
        return keys, lengths
    tokens = keys.k.shape[2] // sum(lengths)
    stay = [i for i, chunk in enumerate(ids) if chunk in wanted]

    def select(x: Tensor) -> Tensor:
        parts = x.split([n * tokens for n in lengths], dim=2)
        return torch.cat([parts[i] for i in stay], dim=2)

    kept = Keys(k=select(keys.k), v=select(keys.v), cam_k=select(keys.cam_k), cam_v=select(keys.cam_v))
    return kept, tuple(lengths[i] for i in stay)
