"""A whole chunk of a world of single frames as one function of tensors: recalled, denoised, committed, decoded, remembered.

Nothing in it waits for a GPU or depends on what tensors hold, so that there a chunk is one launch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.codec import Codec
from engine.compiler import Form, as_it_is, compiled
from engine.composite import composite_bytes, to_bytes
from engine.conditioning import Conditioning
from engine.generator import Generator
from engine.graphed import Graphed
from engine.memory import SpatialMemory, insert
from engine.model import Words, plain
from engine.recall import Recalled, draw_on, frame_source, recall
from engine.state import BlockState, StreamState, timeless
from engine.steady import Mixers, SteadyChunk
from engine.values import mapped


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a chunk is asked for."""

    noise: Tensor  # [B, C, 1, h, w] fp32
    cond: Conditioning
    at: Tensor  # [] int64, index of the latent frame
    poses: Tensor  # [B, P, 4, 4] fp64, of the pixel frames
    intrinsics: Tensor  # [B, P, 4] fp64
    last: Tensor  # [B] int64, index of the last pixel frame

    def to(self, device: torch.device) -> Asked:
        return mapped(self, lambda x: x.to(device))


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What a chunk reads of the state before it."""

    blocks: tuple[BlockState, ...]  # without their bookkeeping
    text: Tensor
    text_mask: Tensor | None
    words: Words
    latent: Tensor
    spatial: SpatialMemory | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A chunk."""

    colors: Tensor  # uint8 [P, Y, X, 3]
    inverse_depth: Tensor  # fp16 [P, Y, X]
    latents: Tensor  # [B, C, 1, h, w] fp32
    finite: Tensor  # [] bool
    mixers: Mixers  # what each block remembers, keys not yet cut to the window
    tails: tuple[Tensor, ...]
    spatial: SpatialMemory | None


class WholeChunk:
    """Called for the chunks of a full window; compiles and captures on a GPU what comes back in the same shapes."""

    def __init__(self, generator: Generator, codec: Codec) -> None:
        if not generator.config.lone:
            raise ValueError(
                f"chunks of {generator.config.chunk} latent frames: only single ones are made whole"
            )
        self.generator, self.codec = generator, codec
        self._passes = SteadyChunk(generator.model, generator.levels)
        self._graphed = Graphed(self._compiled, eager=self._plain)

    def fits(self, state: StreamState) -> bool:
        """Whether the state after the coming chunk has the shapes of that before it."""
        return self._passes.fits(state.blocks)

    @property
    def ready(self) -> bool:
        """Whether a chunk is captured."""
        return self._graphed.captured > 0

    @torch.inference_mode()
    def __call__(self, state: StreamState, asked: Asked) -> Made:
        past = Past(
            blocks=timeless(state.blocks),
            text=state.text,
            text_mask=state.text_mask,
            words=self._passes.known(state.text),
            latent=state.latent,
            spatial=state.spatial,
        )
        return self._graphed(past, replace(asked, cond=at_no_time(asked.cond)))

    def after(self, state: StreamState, made: Made) -> tuple[BlockState, ...]:
        """What the blocks remember after the chunk."""
        return self.generator.model.committed(state.blocks, made.mixers, made.tails, chunks=(1,))

    def _plain(self, past: Past, asked: Asked) -> Made:
        return self._chunk(past, asked, as_it_is)

    def _compiled(self, past: Past, asked: Asked) -> Made:
        return self._chunk(past, asked, compiled)

    def _chunk(self, past: Past, asked: Asked, form: Form) -> Made:
        recalled = None
        if past.spatial is not None:
            views, draw = (asked.poses, asked.intrinsics), draw_on(past.latent.device, form)
            recalled = recall(past.spatial, *views, codec=self.codec, draw=draw, form=form)
        given = self.generator.model.given(
            text=past.text,
            text_mask=past.text_mask,
            words=past.words,
            cond=asked.cond,
            past=past.blocks,
            dtype=self.generator.dtype,
            at=asked.at,
            form=form,
        )
        memory = None if recalled is None else recalled.channels
        latents, finite, mixers, tails = self._passes.passes(asked.noise, given, form(plain), memory)
        colors, depth = shown(self.codec, past.latent, latents[:, :, -1], recalled, form=form)
        spatial = past.spatial
        if recalled is not None and spatial is not None:
            spatial = remembered(spatial, colors, depth, recalled, asked, form=form)
        return Made(
            colors=colors,
            inverse_depth=depth[0].half(),
            latents=latents,
            finite=finite,
            mixers=mixers,
            tails=tails,
            spatial=spatial,
        )


def at_no_time(cond: Conditioning) -> Conditioning:
    """The same without its time, and with a move of the anchor even where it stays: all that makes graphs differ."""
    G = cond.reanchor
    if G is None:
        G = torch.eye(4, device=cond.P.device).expand(cond.P.shape[0], 1, 4, 4)
    return replace(cond, frame=0, reanchor=G)


def shown(
    codec: Codec, previous: Tensor, latent: Tensor, recalled: Recalled | None, *, form: Form = as_it_is
) -> tuple[Tensor, Tensor]:
    """Two neighbouring latents [1, C, h, w] as the frames of the second, with what was recalled of them.

    form: of the decoder. Returns uint8 [P, Y, X, 3] and inverse depth [1, P, Y, X].
    """
    rgb, depth = form(decoded)(codec, previous, latent)
    if recalled is None:
        return to_bytes(rgb[0]), depth
    colors, depth = composite_bytes(rgb, depth, recalled.warped)
    return colors[0], depth


def decoded(codec: Codec, previous: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
    """Two neighbouring latents of any type as the frames of the second, and inverse depth."""
    dtype = codec.mean.dtype
    return codec.decode(previous.to(dtype), latent.to(dtype))


def remembered(
    spatial: SpatialMemory,
    colors: Tensor,
    depth: Tensor,
    recalled: Recalled,
    asked: Asked,
    *,
    look: bool = False,
    form: Form = as_it_is,
) -> SpatialMemory:
    """The spatial memory after a chunk, of which it sees the last frame. look: as in `insert`, whose form is given."""
    newest = frame_source(
        colors[-1:],
        depth[:, -1],
        recalled.warped.generation[:, -1],
        pose=asked.poses[:, -1],
        intrinsics=asked.intrinsics[:, -1],
        index=asked.last,
    )
    return form(insert)(spatial, newest, look=look)
