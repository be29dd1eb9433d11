"""Stage 2: sharpen latents of stage 1, block by block, over a window of blocks already refined.

The sink, the first latent frame, stays as stage 1 made it. Its keys are kept before rotation, because it always
stands right before the window, however far the flight has come. Refined frames are kept after rotation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from engine.ltx2 import RefinerConfig
from engine.refiner_model import KV, Prefix, RefinerModel, join
from engine.refiner_rope import Turn, turns
from engine.schedule import chunk_noise


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A text as the layers see it. Replace it in a state to change the prompt from the next block on."""

    words: tuple[KV, ...]  # per layer
    mask: Tensor | None  # [B, 1, 1, L] bool, True: a word


@dataclass(frozen=True, slots=True, kw_only=True)
class RefinerState:
    """All that survives a block. An old one stays valid."""

    prompt: Prompt
    sink: tuple[KV, ...]  # per layer, keys before rotation
    history: tuple[KV, ...]  # per layer, keys after rotation; empty before the first block
    frame: int  # absolute index of the next latent frame
    held: int  # latent frames in the history
    grid: tuple[int, int]  # latent rows and columns
    seed: int


class Refiner:
    """Holds the model and nothing of any flight."""

    def __init__(self, model: RefinerModel) -> None:
        self.model = model
        self.config: RefinerConfig = model.config

    @property
    def dtype(self) -> torch.dtype:
        return self.model.proj_in.weight.dtype

    @torch.inference_mode()
    def prompt(self, embeds: Tensor, mask: Tensor | None = None) -> Prompt:
        """embeds: [B, L, caption_dim] of the text connectors.  mask: [B, L], non-zero: a word; None: all are."""
        return Prompt(
            words=self.model.words(embeds), mask=None if mask is None else mask.bool()[:, None, None]
        )

    @torch.inference_mode()
    def start(self, sink: Tensor, *, prompt: Prompt, seed: int = 42) -> RefinerState:
        """Begin with the first latent frames [B, C, sink, h, w] of stage 1, which are seen but not refined."""
        if sink.shape[2] != self.config.sink:
            raise ValueError(
                f"{sink.shape[2]} latent frames to start with: this refiner takes {self.config.sink}"
            )
        grid = (sink.shape[3], sink.shape[4])
        kept: list[KV] = []
        self.model(
            tokens(sink).to(self.dtype),
            sigma=0.0,
            at=self._turns(0, sink.shape[2], grid, sink.device),
            prefix=None,
            words=prompt.words,
            mask=prompt.mask,
            capture=lambda _before, raw, _own: kept.append(raw),
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
        for _x, _clean, out in self.steps(state, latents, noise=noise):
            refined = out
        return refined, self.commit(state, refined)

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
        if (latents.shape[3], latents.shape[4]) != state.grid:
            raise ValueError(f"latents on a grid of {tuple(latents.shape[3:])} for a state on {state.grid}")
        frames, first = latents.shape[2], self.config.sigmas[0]
        if noise is None:
            noise = chunk_noise(
                tuple(latents.shape), seed=state.seed, chunk=~state.frame
            )  # never that of stage 1
        noise = noise.to(latents.device, self.dtype)
        x = ((1 - first) * latents.float() + first * noise.float()).to(self.dtype)
        at, prefix = self._turns(state.frame, frames, state.grid, x.device), self._prefix(state)
        for sigma, target in pairwise((*self.config.sigmas, 0.0)):
            flow = self.model(
                tokens(x), sigma=sigma, at=at, prefix=prefix, words=state.prompt.words, mask=state.prompt.mask
            )
            clean = x.float() - sigma * latents_of(flow, frames, state.grid).float()
            clean = clean.to(self.dtype).float()  # the release rounds here
            moved = ((target / sigma) * x.float() + (1 - target / sigma) * clean).to(self.dtype)
            yield x, clean, moved.float()
            x = moved

    def skip(self, state: RefinerState, frames: int) -> RefinerState:
        """Let latent frames pass as they are. The window is forgotten: the next block sees only the sink before it."""
        return replace(state, history=(), held=0, frame=state.frame + frames)

    @torch.inference_mode()
    def commit(self, state: RefinerState, refined: Tensor) -> RefinerState:
        """Remember refined latents [B, C, F, h, w], and forget the oldest frames beyond the window, inside a block too."""
        frames, cells = refined.shape[2], state.grid[0] * state.grid[1]
        held = min(state.held + frames, self.config.history)
        kept: list[KV] = []

        def capture(before: Prefix | None, _raw: KV, own: KV) -> None:
            old = None if before is None else before.history
            kept.append(newest(old, own, held * cells))

        self.model(
            tokens(refined).to(self.dtype),
            sigma=0.0,
            at=self._turns(state.frame, frames, state.grid, refined.device),
            prefix=self._prefix(state),
            words=state.prompt.words,
            mask=state.prompt.mask,
            capture=capture,
        )
        history = tuple(kept) if held else ()
        return replace(state, history=history, frame=state.frame + frames, held=held)

    def _prefix(self, state: RefinerState) -> tuple[Prefix, ...]:
        sink = self.config.sink
        at = self._turns(state.frame - state.held - sink, sink, state.grid, state.sink[0].k.device)
        history = state.history or (None,) * len(state.sink)
        return tuple(Prefix(sink=s, at=at, history=h) for s, h in zip(state.sink, history, strict=True))

    def _turns(self, frame: int, frames: int, grid: tuple[int, int], device: torch.device) -> Turn:
        return turns(self.config, frame=frame, frames=frames, grid=grid, device=device)


def newest(old: KV | None, own: KV, count: int) -> KV:
    """The last `count` tokens of both, without ever holding more than those."""
    new = min(own.k.shape[1], count)
    own = KV(own.k[:, own.k.shape[1] - new :], own.v[:, own.v.shape[1] - new :])
    if old is None or count == new:
        return KV(own.k.clone(), own.v.clone())  # a view would keep the whole block alive
    start = old.k.shape[1] - (count - new)
    return join(KV(old.k[:, start:], old.v[:, start:]), own)


def tokens(x: Tensor) -> Tensor:
    """[B, C, F, h, w] -> [B, T, C], frame-major."""
    return x.flatten(2).mT


def latents_of(x: Tensor, frames: int, grid: tuple[int, int]) -> Tensor:
    """The inverse of `tokens`."""
    return x.mT.unflatten(2, (frames, *grid))
