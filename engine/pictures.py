"""Latents to pictures on the host, some latent frames at a time: those that are finished travel while others are made.

By `engine.vae_fused` where its kernels can be built, else by `Vae.decode`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.vae import DecoderState, Vae, to_uint8
from engine.vae_fused import rise, trunk, trunk_length
from kernels.program import builds

Part = tuple[Tensor, torch.cuda.Event | None]  # uint8 [P, Y, X, 3] on the host, and when it is there


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures of a chunk, of which the last may still be in the making. Iterating waits only for what it gives."""

    parts: tuple[Part, ...]

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        for pixels, arrived in self.parts:
            if arrived is not None:
                arrived.synchronize()
            yield from pixels.numpy()


class PictureDecoder:
    """Decodes a stream of latents of one clip at a time, holding nothing of it."""

    def __init__(self, vae: Vae, *, together: int) -> None:
        """together: latent frames decoded at once above the size of the latents. More need more memory.

        Raises ValueError for a decoder that looks ahead. Its weights become channels last in memory on a GPU.
        """
        if not vae.config.decoder_causal:
            raise ValueError("this autoencoder looks ahead and cannot stream: decode the whole clip")
        self.vae, self.together = vae, together
        device = vae.latents_mean.device
        self.fused = builds(device)
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        if self.fused:
            for weight in vae.decoder.parameters():
                if weight.ndim == 5:
                    weight.data = weight.data.contiguous(memory_format=torch.channels_last_3d)

    @torch.inference_mode()
    def decode(self, latents: Tensor, state: DecoderState | None) -> tuple[Pictures, DecoderState]:
        """latents: [1, C, F, h, w] normalised.  state: as in `Vae.decode`.

        Nothing here waits for a GPU.
        """
        return (self._fused if self.fused else self._plain)(latents, state)

    def _plain(self, latents: Tensor, state: DecoderState | None) -> tuple[Pictures, DecoderState]:
        parts = []
        for part in latents.split(self.together, dim=2):
            frames, state = self.vae.decode(part, state)
            parts.append(self._sent(to_uint8(frames)[0]))
        assert state is not None
        return Pictures(tuple(parts)), state

    def _fused(self, latents: Tensor, state: DecoderState | None) -> tuple[Pictures, DecoderState]:
        decoder, low = self.vae.decoder, trunk_length(self.vae.decoder)
        before, high = (None, None) if state is None else (state.tails[:low], state.tails[low:])
        x, tails = trunk(decoder, self.vae.raw(latents), before)
        parts = []
        for a in range(0, latents.shape[2], self.together):
            pixels, high = rise(decoder, x.frames(a, a + self.together), high)
            parts.append(self._sent(pixels[0]))
        assert high is not None
        return Pictures(tuple(parts)), DecoderState(tails + high)

    def _sent(self, pixels: Tensor) -> Part:
        """On its way to the host."""
        if self._copies is None:
            return pixels, None
        made, arrived = torch.cuda.Event(), torch.cuda.Event()
        host = torch.empty(pixels.shape, dtype=pixels.dtype, pin_memory=True)
        made.record()
        with torch.cuda.stream(self._copies):
            made.wait()
            host.copy_(pixels, non_blocking=True)
            arrived.record()
        pixels.record_stream(self._copies)
        return host, arrived
