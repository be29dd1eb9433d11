"""sana-wm releases that make a whole clip at once: the stages of a render, each resumable between its steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.camera import Intrinsics, Pose
from engine.conditioning import from_rows, pose_tensor, prepare
from engine.model import WorldModel
from engine.prompt import Text
from engine.refiner import Refiner
from engine.refiner_model import RefinerModel
from engine.sampler import Clip, Sampler, SamplerState
from engine.sampling import Sampling
from engine.text import Embedding
from engine.vae import Vae, to_uint8
from engine.vae_tiling import decode_tiled


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipState:
    """A render between two steps."""

    sampled: SamplerState
    refined: Tensor | None = None  # [1, C, F, h, w]; None: not yet, or not wanted


class SanaClips:
    """Holds weights and the text of its prompt, and nothing of any clip."""

    def __init__(
        self,
        size: tuple[int, int],
        *,
        model: WorldModel,
        vae: Vae,
        text: Text,
        refiner: RefinerModel | None = None,
        sampling: Sampling | None = None,
    ) -> None:
        """size: width and height of the pictures."""
        self.size, self.vae, self.text = size, vae, text
        self.sampler = Sampler(model, sampling)
        self.refiner = None if refiner is None else Refiner(refiner)
        self.device = vae.latents_mean.device
        _, y, x = vae.config.stride
        self.grid = (size[1] // y, size[0] // x)

    @torch.inference_mode()
    def clip(self, picture: NDArray[np.uint8], poses: Sequence[Pose], intrinsics: Intrinsics) -> Clip:
        """What the clip is made from. picture: [Y, X, 3] seen from the first of 1 + 8k poses. Raises ValueError."""
        width, height = self.size
        if picture.shape != (height, width, 3):
            raise ValueError(f"a first picture of shape {picture.shape}: this takes ({height}, {width}, 3)")
        config, dtype = self.sampler.model.config, self.sampler.dtype
        x = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None]
        first = self.vae.encode_picture(x.to(self.device, torch.float32) / 127.5 - 1)
        rows = torch.from_numpy(intrinsics.row).expand(1, len(poses), 4)
        told, plucker = prepare(pose_tensor(poses), rows, grid=self.grid, config=config)
        cond = from_rows(told, plucker, grid=self.grid, config=config, dtype=dtype)
        t, none = self.text, torch.ones(1, config.caption_tokens, dtype=torch.bool)
        negative = None
        if t.negative is not None:
            negative = Embedding(states=t.negative, mask=none if t.negative_mask is None else t.negative_mask)
        mask = none if t.world_mask is None else t.world_mask
        return Clip(
            first=first.to(dtype).float(),
            cond=cond.to(self.device),
            prompt=Embedding(states=t.world, mask=mask),
            negative=negative,
        )

    def start(self, clip: Clip, *, seed: int) -> ClipState:
        return ClipState(sampled=self.sampler.start(clip, seed=seed))

    def steps(self, clip: Clip) -> int:
        """Passes of stage 1, and one for the refiner."""
        return len(self.sampler.plan(clip)) + (self.refiner is not None)

    def run(self, clip: Clip, state: ClipState, *, seed: int) -> Iterator[ClipState]:
        """The state after each step that is left. Raises FloatingPointError."""
        for sampled in self.sampler.run(clip, state.sampled):
            state = replace(state, sampled=sampled)
            yield state
        if self.refiner is not None and state.refined is None:
            assert self.text.refiner is not None
            text = self.text.to(self.device)
            assert text.refiner is not None
            prompt = self.refiner.prompt(text.refiner, text.refiner_mask)
            latents = state.sampled.latents.float()
            yield replace(state, refined=self.refiner.refine_clip(latents, prompt=prompt, seed=seed))

    @torch.inference_mode()
    def frames(self, state: ClipState) -> Iterator[NDArray[np.uint8]]:
        """Decoded pieces [P, Y, X, 3] of the finished clip, in order."""
        latents = state.sampled.latents if state.refined is None else state.refined
        if self.vae.config.decoder_causal:
            raise ValueError("this release streams: fly it, or render it as such")
        for piece in decode_tiled(self.vae, latents.float()):
            yield to_uint8(piece)[0].cpu().numpy()
