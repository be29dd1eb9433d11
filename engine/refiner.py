"""Stage 2: sharpen latents of stage 1, block by block, over a window of blocks already refined.

The sink, the first latent frame, stays as stage 1 made it. Its keys are kept before rotation, because it always
stands right before the window, however far the flight has come. Refined frames are kept after rotation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.ltx2 import RefinerConfig
from engine.refiner_model import RefinerModel
from engine.refiner_passes import Told, denoised, remembered, tokens
from engine.refiner_room import KV, Past, Room, Rooms, first_room, newest
from engine.refiner_rope import Turn, turns
from engine.refiner_steady import SteadyBlock
from engine.schedule import chunk_noise
from engine.sent import sent


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A text as the layers see it. Replace it in a state to change the prompt from the next block on."""

    words: tuple[KV, ...]  # per layer
    mask: Tensor | None  # [B, 1, 1, L] bool, True: a word; None: all are


@dataclass(frozen=True, slots=True, kw_only=True)
class RefinerState:
    """All that survives a block. An old one stays valid: what both remember they share."""

    prompt: Prompt
    sink: tuple[KV, ...]  # per layer, keys before rotation
    history: tuple[
        tuple[KV, ...], ...
    ]  # per layer its blocks, keys after rotation; empty before the first one
    frame: int  # absolute index of the next latent frame
    held: int  # latent frames in the history
    grid: tuple[int, int]  # latent rows and columns
    seed: int


class Refiner:
    """Holds the model and nothing of any flight."""

    def __init__(self, model: RefinerModel, *, fast: bool = False) -> None:
        """fast: keep memory for the rooms of a block, and capture blocks behind a full window, on a GPU.

        For a model whose weights do not travel, and a config that holds keys from pass to pass.
        """
        self.model = model
        self.config: RefinerConfig = model.config
        self.steady = SteadyBlock(model) if fast else None

    @property
    def dtype(self) -> torch.dtype:
        return self.model.proj_in.weight.dtype

    @torch.inference_mode()
    def prompt(self, embeds: Tensor, mask: Tensor | None = None) -> Prompt:
        """embeds: [B, L, caption_dim] of the text connectors.  mask: [B, L], non-zero: a word; None: all are.

        Padding on either side is cut off, so that it costs nothing.
        """
        if mask is not None:
            embeds, mask = unpadded(embeds, mask.bool())
        return Prompt(words=self.model.words(embeds), mask=None if mask is None else mask[:, None, None])

    @torch.inference_mode()
    def start(self, sink: Tensor, *, prompt: Prompt, seed: int = 42) -> RefinerState:
        """Begin with the first latent frames [B, C, sink, h, w] of stage 1, which are seen but not refined."""
        if sink.shape[2] != self.config.sink:
            raise ValueError(
                f"{sink.shape[2]} latent frames to start with: this refiner takes {self.config.sink}"
            )
        grid = (sink.shape[3], sink.shape[4])
        kept: list[KV] = []

        def keep(room: Room) -> None:
            assert room.raw is not None
            kept.append(KV(room.raw, room.own.v))

        x = tokens(sink).to(self.dtype)
        like = x.new_empty(x.shape[0], 0, self.config.heads, self.config.head_dim)
        self.model.remember(
            x,
            at=self._turns(0, sink.shape[2], grid, sink.device),
            rooms=(first_room(like, x.shape[1]) for _ in prompt.words),
            words=prompt.words,
            mask=prompt.mask,
            keep=keep,
        )
        return RefinerState(
            prompt=prompt, sink=tuple(kept), history=(), frame=self.config.sink, held=0, grid=grid, seed=seed
        )

    @torch.inference_mode()
    def step(
        self, state: RefinerState, latents: Tensor, *, noise: Tensor | None = None
    ) -> tuple[Tensor, RefinerState]:
        """Refine the next latent frames of stage 1 and remember them.

        latents: [B, C, F, h, w]. F is `block` by habit; any other length works, also a whole clip at once.
        noise: of that shape; None: by seed and frame.  Returns refined latents in fp32 and the state after them.
        """
        self._check(state, latents)
        past = self._past(state, latents.device)
        if self.steady is not None and self.steady.fits(latents, state.held):
            entered = self.steady.enter(past, state.grid[0] * state.grid[1])
            # Made while a GPU is at work.
            noise, told = self._noise(state, latents, noise), self._told(state, latents)
            refined = self.steady(latents, noise, told, entered)
            return refined, self._after(state, refined, [self._newest(refined, r) for r in entered])
        rooms, told = self._rooms(past, latents), self._told(state, latents)
        for _x, _clean, out in denoised(self.model, told, rooms, latents, self._noise(state, latents, noise)):
            refined = out
        return refined, self._committed(state, refined, told, rooms)

    def refine_clip(
        self, latents: Tensor, *, prompt: Prompt, seed: int = 42, noise: Tensor | None = None
    ) -> Tensor:
        """The bidirectional variant: the sink sees itself, all other frames see everything. [B, C, F, h, w], fp32.

        Nothing is committed, so that this costs three passes. The sink comes back as it was.
        """
        n = self.config.sink
        state = self.start(latents[:, :, :n], prompt=prompt, seed=seed)
        for _x, _clean, out in self.steps(state, latents[:, :, n:], noise=noise):
            refined = out
        return torch.cat((latents[:, :, :n].float(), refined), dim=2)

    @torch.inference_mode()
    def steps(
        self, state: RefinerState, latents: Tensor, *, noise: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """One denoising step after the other: what went in, the clean block it predicts, and what comes out."""
        self._check(state, latents)
        rooms = self._rooms(self._past(state, latents.device), latents)
        noise = self._noise(state, latents, noise)
        yield from denoised(self.model, self._told(state, latents), rooms, latents, noise)

    def _check(self, state: RefinerState, latents: Tensor) -> None:
        if (latents.shape[3], latents.shape[4]) != state.grid:
            raise ValueError(f"latents on a grid of {tuple(latents.shape[3:])} for a state on {state.grid}")

    def _noise(self, state: RefinerState, latents: Tensor, noise: Tensor | None) -> Tensor:
        """That given, else by seed and frame, never that of stage 1. On its way to the GPU without waiting for it."""
        if noise is None:
            noise = chunk_noise(tuple(latents.shape), seed=state.seed, chunk=~state.frame)
        return sent(noise, latents.device).to(self.dtype)

    def skip(self, state: RefinerState, frames: int) -> RefinerState:
        """Let latent frames pass as they are. The window is forgotten: the next block sees only the sink before it."""
        return replace(state, history=(), held=0, frame=state.frame + frames)

    @torch.inference_mode()
    def commit(self, state: RefinerState, refined: Tensor) -> RefinerState:
        """Remember refined latents [B, C, F, h, w], and forget the oldest frames beyond the window, inside a block too."""
        rooms = self._rooms(self._past(state, refined.device), refined)
        return self._committed(state, refined, self._told(state, refined), rooms)

    def _committed(self, state: RefinerState, refined: Tensor, told: Told, rooms: Rooms) -> RefinerState:
        kept: list[KV] = []
        remembered(
            self.model,
            told,
            rooms.last(),
            refined,
            dtype=self.dtype,
            keep=lambda room: kept.append(self._newest(refined, room)),
        )
        return self._after(state, refined, kept)

    def _newest(self, refined: Tensor, room: Room) -> KV:
        """What is remembered of a layer's own tokens."""
        frames, cells = refined.shape[2], refined.shape[3] * refined.shape[4]
        count = min(frames, self.config.history) * cells
        return room.own.part(frames * cells - count, count).copied()

    def _after(self, state: RefinerState, refined: Tensor, kept: list[KV]) -> RefinerState:
        """With `kept` of every layer behind what is left of the history."""
        frames, limit = refined.shape[2], self.config.history
        older = min(state.held, max(limit - frames, 0))
        held, cells = older + min(frames, limit), state.grid[0] * state.grid[1]
        layers = zip(state.history or ((),) * len(kept), kept, strict=True)
        history = tuple((*newest(blocks, older * cells), kv) for blocks, kv in layers) if held else ()
        return replace(state, history=history, frame=state.frame + frames, held=held)

    def _past(self, state: RefinerState, device: torch.device) -> list[Past]:
        """What a block sees before itself, layer by layer. Behind a full window by the number of every latent frame."""
        sink, cells = self.config.sink, state.grid[0] * state.grid[1]
        first = (state.frame - state.held) * cells if state.held == self.config.history else 0
        where = self._turns(state.frame - state.held - sink, sink, state.grid, device)
        history, split = state.history or ((),) * len(state.sink), self.config.rope == "split"
        return [
            Past(sink=s, at=where, history=h, first=first, split=split)
            for s, h in zip(state.sink, history, strict=True)
        ]

    def _told(self, state: RefinerState, latents: Tensor) -> Told:
        """Of the next block, latents [B, C, F, h, w]."""
        at = self._turns(state.frame, latents.shape[2], state.grid, latents.device)
        return Told(at=at, words=state.prompt.words, mask=state.prompt.mask)

    def _rooms(self, past: list[Past], latents: Tensor) -> Rooms:
        own, cells = latents[0, 0].numel(), latents.shape[3] * latents.shape[4]
        return Rooms(past, own, window=self.config.window * cells, hold=self.config.hold)

    def _turns(self, frame: int, frames: int, grid: tuple[int, int], device: torch.device) -> Turn:
        return turns(self.config, frame=frame, frames=frames, grid=grid, device=device)


def unpadded(embeds: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
    """Embeddings [B, L, ·] and mask [B, L] from the first to the last place where any text has a word; None: all have."""
    used = mask.any(0).nonzero().flatten().tolist()
    if used:
        embeds, mask = embeds[:, used[0] : used[-1] + 1], mask[:, used[0] : used[-1] + 1]
    return embeds, None if bool(mask.all()) else mask
