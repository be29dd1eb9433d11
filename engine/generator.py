"""The chunk loop: denoise from the frozen past, then commit the clean latents to memory."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from engine.conditioning import Anchor, Conditioning
from engine.config import ModelConfig
from engine.finite import Finite
from engine.model import Given, WorldModel, beside
from engine.schedule import chunk_noise, euler, steps, timestep
from engine.sent import sent
from engine.state import BlockState, StreamState
from engine.steady import SteadyChunk, all_finite


class Generator:
    """Turns noise into latent frames, chunk by chunk. Holds the model and nothing of any flight."""

    def __init__(
        self, model: WorldModel, *, levels: tuple[float, ...] | None = None, fast: bool = False
    ) -> None:
        """fast: compile and capture the chunks of a full window; on a GPU."""
        self.model = model
        self.config: ModelConfig = model.config
        self.levels = self.config.levels if levels is None else levels
        self.steady = SteadyChunk(model, self.levels) if fast else None
        self._written = SteadyChunk(model, ()) if fast else None

    @property
    def dtype(self) -> torch.dtype:
        return self.model.final_layer.linear.weight.dtype

    @torch.inference_mode()
    def start(
        self,
        first: Tensor,
        *,
        text: Tensor,
        text_mask: Tensor | None = None,
        cond: Conditioning,
        seed: int,
        anchor: Anchor | None = None,
        memory: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> tuple[Tensor, StreamState]:
        """Begin a flight with the latent of its first picture, which stays as it is.

        first: [B, C, h, w].  text: word ids or encoder states, as `WorldModel.embed_text` takes them.
        cond: of chunk 0: the first frame, and those that its chunk also holds (none for single-frame chunks).
        Returns the latents of chunk 0 [B, C, F, h, w], and the state. Raises NotFinite.
        """
        state = self.begin(first, text=text, text_mask=text_mask, seed=seed, anchor=anchor)
        return self.step(state, cond=cond, anchor=anchor, memory=memory, noise=noise)

    @torch.inference_mode()
    def begin(
        self,
        first: Tensor,
        *,
        text: Tensor,
        text_mask: Tensor | None = None,
        seed: int,
        anchor: Anchor | None = None,
    ) -> StreamState:
        """The state before chunk 0, which `step` then generates around its first latent. Arguments as in `start`."""
        return StreamState(
            blocks=(),
            frame=0,
            chunk=0,
            seed=seed,
            text=self._embedded(text),
            text_mask=text_mask,
            latent=first,
            anchor=anchor,
        )

    @torch.inference_mode()
    def step(
        self,
        state: StreamState,
        *,
        cond: Conditioning,
        anchor: Anchor | None = None,
        memory: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> tuple[Tensor, StreamState]:
        """Generate the next chunk: as many latent frames as `cond` describes.

        anchor: to be remembered with the new state, for the conditioning of the chunk after; None keeps the old one.
        memory: [B, memory_channels, F, h, w], None: zeros.  noise: [B, C, F, h, w], None: by seed and chunk index.
        Returns the latents [B, C, F, h, w] fp32 and the state after them; `state` itself stays valid. Raises NotFinite.
        """
        latents, after, finite = self.launch(state, cond=cond, anchor=anchor, memory=memory, noise=noise)
        finite.require()
        return latents, after

    @torch.inference_mode()
    def launch(
        self,
        state: StreamState,
        *,
        cond: Conditioning,
        anchor: Anchor | None = None,
        memory: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> tuple[Tensor, StreamState, Finite]:
        """`step` that does not wait for a GPU. Nothing of it is good before the answer that it adds was required."""
        if cond.frame != state.frame:
            raise ValueError(
                f"camera of latent frame {cond.frame} for a state that is at frame {state.frame}"
            )
        frames = cond.P.shape[1]
        if noise is None:
            noise = self.noise(state, frames=frames)
        noise = sent(noise, state.latent.device).to(torch.float32)
        if self.steady is not None and self.steady.fits(state.blocks):
            x, flag, blocks = self._at_once(self.steady, noise, state, cond, memory)
        else:
            given = self._given(state, cond)
            pinned = state.latent[:, :, None].float() if state.frame == 0 else None
            x = self._denoised(noise, given, pinned, memory)
            flow, blocks = self._pass(x, 0.0, given, pinned, memory)
            flag = all_finite(x, flow, *(b.mixer for b in blocks))
        said = f"chunk {state.chunk} is not finite: discard it and step again from its state"
        after = _after(state, x, blocks, state.anchor if anchor is None else anchor)
        return x, after, Finite(flag, otherwise=said)

    @torch.inference_mode()
    def sample(
        self, state: StreamState, *, cond: Conditioning, noise: Tensor, memory: Tensor | None = None
    ) -> Tensor:
        """What `step` would generate, without remembering it: latents [B, C, F, h, w] fp32. Arguments as there."""
        noise = noise.to(state.latent.device, torch.float32)
        if self.steady is not None and self.steady.fits(state.blocks):
            return self._at_once(self.steady, noise, state, cond, memory)[0]
        return self._denoised(noise, self._given(state, cond), None, memory)

    @torch.inference_mode()
    def first(self, noise: Tensor, *, text: Tensor, cond: Conditioning) -> Tensor:
        """Latents of frames that nothing came before, from words and noise [B, C, F, h, w] alone, like noise in fp32."""
        given = self.model.given(
            text=self._embedded(text), text_mask=None, cond=cond, past=None, dtype=self.dtype
        )
        return self._denoised(noise.to(torch.float32), given, None, None)

    @torch.inference_mode()
    def commit(
        self, state: StreamState, latents: Tensor, *, cond: Conditioning, memory: Tensor | None = None
    ) -> StreamState:
        """The state after a chunk that was made elsewhere, `latents` [B, C, F, h, w]."""
        if self._written is not None and self._written.fits(state.blocks):
            _, _, blocks = self._at_once(self._written, latents, state, cond, memory)
        else:
            _, blocks = self._pass(latents, 0.0, self._given(state, cond), None, memory)
        return _after(state, latents, blocks, state.anchor)

    @torch.inference_mode()
    def retell(self, state: StreamState, *, text: Tensor, text_mask: Tensor | None = None) -> StreamState:
        """The same flight under another prompt from the next chunk on; arguments as in `start`.

        Keys and values of the text are worked out once per chunk and are in no state. What was seen under the old
        prompt stays remembered as it was: a flight that changes at chunk k is the one whose text switches there.
        """
        if text.shape[0] != state.latent.shape[0]:
            raise ValueError(
                f"{text.shape[0]} prompts for a state of {state.latent.shape[0]} flights: give one each"
            )
        return replace(state, text=self._embedded(text), text_mask=text_mask)

    def noise(self, state: StreamState, *, frames: int, attempt: int = 0) -> Tensor:
        """What the next chunk starts from, [B, C, F, h, w] fp32 on the CPU: decided by seed, chunk and attempt."""
        B, C, h, w = state.latent.shape
        return chunk_noise((B, C, frames, h, w), seed=state.seed + (attempt << 32), chunk=state.chunk)

    def _embedded(self, text: Tensor) -> Tensor:
        return self.model.embed_text(text if self.config.words else text.to(self.dtype))

    def _at_once(
        self, chunk: SteadyChunk, x: Tensor, state: StreamState, cond: Conditioning, memory: Tensor | None
    ) -> tuple[Tensor, Tensor, tuple[BlockState, ...]]:
        """Latents, whether all is finite, and the new blocks."""
        return chunk(
            x, text=state.text, text_mask=state.text_mask, cond=cond, past=state.blocks, memory=memory
        )

    def _given(self, state: StreamState, cond: Conditioning) -> Given:
        return self.model.given(
            text=state.text,
            text_mask=state.text_mask,
            cond=cond,
            past=state.blocks or None,
            dtype=self.dtype,
        )

    def _denoised(self, x: Tensor, given: Given, pinned: Tensor | None, memory: Tensor | None) -> Tensor:
        """Euler steps from noise; the pinned first frame is put back after each.

        Latents stay in fp32 between passes; the release rounds them to bfloat16 there.
        """
        if pinned is not None:
            x = torch.cat((pinned, x[:, :, 1:]), dim=2)
            if x.shape[2] == 1:
                return x
        for level, target in steps(self.levels):
            flow, _ = self._pass(x, level, given, pinned, memory)  # reads the past; its new state is dropped
            moved = euler(x, flow.float(), level=level, target=target)
            x = moved if pinned is None else torch.cat((pinned, moved[:, :, 1:]), dim=2)
        return x

    def _pass(
        self, x: Tensor, level: float, given: Given, pinned: Tensor | None, memory: Tensor | None
    ) -> tuple[Tensor, tuple[BlockState, ...]]:
        t = x.new_full((x.shape[0], x.shape[2]), timestep(level))
        if pinned is not None:
            t[:, 0] = 0.0
        x = beside(x, memory, self.config).to(self.dtype)
        return self.model.denoise(x, timestep=t, given=given)


def _after(
    state: StreamState, latents: Tensor, blocks: tuple[BlockState, ...], anchor: Anchor | None
) -> StreamState:
    """The state after a chunk of `latents` that the blocks have remembered."""
    return replace(
        state,
        blocks=blocks,
        frame=state.frame + latents.shape[2],
        chunk=state.chunk + 1,
        latent=latents[:, :, -1],
        anchor=anchor,
    )
