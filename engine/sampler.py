"""Denoise a whole clip, bidirectional or chunk-causal, with guidance: one pass after the other, each a value.

Where the release makes one dense call over all chunks that have started, this makes one per chunk, each reading the
state that the chunk before it left. Both compute the same (`tests/test_model.py`), but no mask over all pairs of
tokens is needed, and what finished chunks left is computed once. The two texts of guidance go through the model one
after the other and not as a batch, which halves what is in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.conditioning import Conditioning
from engine.finite import NotFinite
from engine.model import WorldModel
from engine.sampling import Pass, Sampling, passes
from engine.schedule import chunk_noise, euler
from engine.state import BlockState
from engine.text import Embedding


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """What a clip is made from; the same in every pass."""

    first: Tensor  # [B, C, h, w] latent of the first picture, which stays as it is
    cond: Conditioning  # of all latent frames
    prompt: Embedding
    negative: Embedding | None = None  # what guidance leads away from

    @property
    def frames(self) -> int:
        """Latent frames."""
        return self.cond.P.shape[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerState:
    """Where a clip stands between two passes: with its `Clip` all that is needed to go on, here or elsewhere."""

    latents: Tensor  # [B, C, F, h, w] in the model's dtype, as the release rounds it after every pass
    done: int  # passes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """One text, and what the chunks finished so far left behind under it."""

    text: Tensor
    mask: Tensor | None
    past: tuple[BlockState, ...] | None = None
    chunks: int = 0


class Sampler:
    """Turns noise into the latents of a clip. Holds the model and nothing of any clip."""

    def __init__(self, model: WorldModel, sampling: Sampling | None = None) -> None:
        self.model = model
        self.sampling = Sampling() if sampling is None else sampling

    @property
    def dtype(self) -> torch.dtype:
        return self.model.final_layer.linear.weight.dtype

    def plan(self, clip: Clip) -> tuple[Pass, ...]:
        """What `run` will do: its length is the number of passes."""
        return passes(clip.frames, config=self.model.config, sampling=self.sampling)

    def start(self, clip: Clip, *, seed: int = 42, noise: Tensor | None = None) -> SamplerState:
        """noise: [B, C, F, h, w], None: by seed. The release draws it on the GPU in bfloat16: other numbers."""
        B, C, h, w = clip.first.shape
        shape = (B, C, clip.frames, h, w)
        if noise is None:
            noise = chunk_noise(shape, seed=seed, chunk=0)
        if noise.shape != shape:
            raise ValueError(f"noise of shape {tuple(noise.shape)} for a clip of {shape}")
        x = torch.cat((clip.first[:, :, None], noise[:, :, 1:].to(clip.first)), dim=2)
        return SamplerState(latents=x.to(self.dtype), done=0)

    @torch.inference_mode()
    def run(self, clip: Clip, state: SamplerState) -> Iterator[SamplerState]:
        """The state after each pass that is left; the last one holds the clip. Raises NotFinite.

        To interrupt, stop iterating; to go on, pass the last state again: what finished chunks left is then worked
        out anew, and comes out the same.
        """
        if state.latents.shape[2] != clip.frames:
            raise ValueError(f"{state.latents.shape[2]} latent frames for a camera of {clip.frames}")
        told = self._told(clip)
        for now in self.plan(clip)[state.done :]:
            flows = []
            for i, each in enumerate(told):
                flow, told[i] = self._flow(clip, state.latents, now, each)
                flows.append(flow)
            state = SamplerState(
                latents=self._moved(clip, state.latents, now, self._guided(flows)), done=state.done + 1
            )
            if not bool(state.latents.isfinite().all()):
                raise NotFinite(
                    f"pass {state.done} of the clip is not finite: try another seed or less guidance"
                )
            yield state

    def _told(self, clip: Clip) -> list[_Told]:
        """The negative prompt first, where there is guidance."""
        texts = [clip.prompt]
        if self.sampling.guided:
            if clip.negative is None:
                raise ValueError(
                    f"guidance={self.sampling.guidance} needs a negative prompt, which may be empty"
                )
            texts.insert(0, clip.negative)
        device = clip.first.device
        return [
            _Told(text=self.model.embed_text(e.states.to(device, self.dtype)), mask=e.mask.to(device))
            for e in texts
        ]

    def _flow(self, clip: Clip, x: Tensor, now: Pass, told: _Told) -> tuple[Tensor, _Told]:
        """Flow of the chunks under way [B, C, F', h, w], and the text with what newly finished chunks left."""
        past, stop, flows = told.past, sum(now.chunks[: told.chunks]), []
        for i in range(told.chunks, len(now.chunks)):
            start, stop = stop, stop + now.chunks[i]
            timestep = torch.full((x.shape[0], stop - start), now.rungs[i].timestep, device=x.device)
            if start == 0:
                timestep[:, 0] = 0.0
            flow, past = self.model(
                self._input(x[:, :, start:stop]),
                timestep=timestep,
                text=told.text,
                text_mask=told.mask,
                cond=clip.cond.part(start, stop),
                past=past,
            )
            if i < now.finished:
                told = replace(told, past=past, chunks=i + 1)
            else:
                flows.append(flow)
        return torch.cat(flows, dim=2), told

    def _input(self, x: Tensor) -> Tensor:
        """Latents as the model takes them: nothing is remembered of a clip that is made at once."""
        blank = x.new_zeros(x.shape[0], self.model.config.memory_channels, *x.shape[2:])
        return torch.cat((x, blank), dim=1)

    def _guided(self, flows: list[Tensor]) -> Tensor:
        if len(flows) == 1:
            return flows[0]
        negative, positive = flows
        return negative + self.sampling.guidance * (positive - negative)  # in the model's dtype, as released

    def _moved(self, clip: Clip, x: Tensor, now: Pass, flow: Tensor) -> Tensor:
        """Euler step of the chunks under way in fp32, then back to the model's dtype."""
        start = sum(now.chunks[: now.finished])
        stop = start + flow.shape[2]
        rungs = [rung for n, rung in zip(now.chunks, now.rungs, strict=True) for _ in range(n)][start:]
        level, target = (
            torch.tensor(values, device=x.device)[:, None, None]
            for values in ([r.level for r in rungs], [r.target for r in rungs])
        )
        moved = euler(x[:, :, start:stop].float(), flow.float(), level=level, target=target).to(x.dtype)
        if start == 0:
            moved = torch.cat((clip.first[:, :, None].to(x.dtype), moved[:, :, 1:]), dim=2)
        return torch.cat((x[:, :, :start], moved, x[:, :, stop:]), dim=2)
