"""sana-wm as an engine: pictures and poses in, 24 frames and the state after them out, stage by stage.

Stage 1 makes three latent frames from the frozen past, the refiner sharpens them if it is on, the causal decoder
turns them into pictures. The same interface as `engine.engine.Engine`, and like it without memory of its own.
All three are launched before the first is waited for, so that a GPU goes from one to the next.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.camera import Intrinsics, Pose
from engine.compiler import release_compiler
from engine.conditioning import (
    Anchor,
    Conditioning,
    condition_chunk,
    from_rows,
    latent_intrinsics,
    pose_tensor,
    rigid_inverse,
)
from engine.config import FPS, WorldSpec
from engine.engine import Chunk
from engine.finite import Finite
from engine.frame import Frame
from engine.generator import Generator
from engine.graphed import Graphed
from engine.laps import Laps
from engine.model import WorldModel
from engine.pictures import PictureDecoder
from engine.prompt import Text
from engine.refiner import Prompt, Refiner
from engine.refiner_model import RefinerModel
from engine.sent import sent
from engine.state import StreamState
from engine.vae import Vae
from engine.values import form

UNTIL_STEADY = (
    3  # chunks: chunk 0, one while the window fills, the first of the steady shape, which is captured
)


class SanaEngine:
    """Holds weights and the text of its prompt, and nothing of any flight."""

    def __init__(
        self,
        spec: WorldSpec,
        *,
        model: WorldModel,
        vae: Vae,
        text: Text,
        refiner: RefinerModel | None = None,
        refining: bool = True,
        decode_together: int = 3,
        steady: bool = True,
        weights: str = "",
    ) -> None:
        """text: of flights that bring none.  refining: whether flights start with the second stage on.

        decode_together: latent frames decoded at once.  steady: whether there is memory to capture the refiner's blocks.
        weights: a hash of the files of the models.
        """
        if not (model.config.causal and vae.config.decoder_causal):
            raise ValueError(
                "this release looks ahead and cannot be flown: render it, or fly the streaming one"
            )
        self.spec, self.vae, self.weights = spec, vae, weights
        self._form: StreamState | None = None
        self.generator = Generator(model, fast=vae.latents_mean.is_cuda)
        self.pictures = PictureDecoder(vae, together=decode_together)
        self.device = vae.latents_mean.device
        self.refiner = None
        if refiner is not None:
            fast = self.device.type == "cuda" and refiner.config.hold and steady
            self.refiner = Refiner(refiner, fast=fast)
        self.text, self.refining = text.to(self.device), refining
        _, y, x = vae.config.stride
        self.grid = (spec.height // y, spec.width // x)
        self._seen = Graphed(self._see)

    @torch.inference_mode()
    def start(
        self,
        picture: NDArray[np.uint8] | None,
        *,
        pose: Pose,
        intrinsics: Intrinsics,
        words: Sequence[int] | None = None,
        seed: int = 0,
        inverse_depth: NDArray[np.float16] | None = None,
        prompt: Text | None = None,
    ) -> Chunk:
        """Begin a flight: frame 0 is the picture itself.

        picture: [Y, X, 3] at the world's size, seen from `pose` through `intrinsics`.  prompt: another text than that
        of the engine.  words: of the vocabulary of `pocket`, which means nothing here; nor does
        inverse_depth, for which this world has no place.
        """
        begun = time.perf_counter()
        spec = self.spec
        if picture is None:
            raise ValueError(f"{spec.name} draws no first picture of words: give it one")
        if picture.shape != (spec.height, spec.width, 3) or picture.dtype != np.uint8:
            raise ValueError(
                f"a first picture of shape {picture.shape} and type {picture.dtype}: "
                f"{spec.name} takes ({spec.height}, {spec.width}, 3) uint8"
            )
        text = self.text if prompt is None else prompt.to(self.device)
        still = self.vae.encode_picture(self._pixels(picture))
        still = still.to(self.generator.dtype).float()  # the release keeps latents in the dtype of the model
        camera = pose_tensor([pose]).to(self.device)
        state = self.generator.begin(
            still,
            text=text.world,
            text_mask=text.world_mask,
            seed=seed,
            anchor=Anchor(pose=camera[:, 0], camera=camera[:, 0]),
        )
        # Its one frame is the picture, seen through the codec.
        _, decoder = self.pictures.decode(still[:, :, None], None)
        state = replace(state, decoder=decoder, refining=self.refining)
        if self.refiner is not None:
            words_of = self._refiner_words(text)
            state = replace(state, refiner=self.refiner.start(still[:, :, None], prompt=words_of, seed=seed))
        frame = Frame(pixels=picture, pose=pose, intrinsics=intrinsics, index=0, world=spec.name)
        return Chunk(frames=(frame,), state=state, timing={"start": time.perf_counter() - begun})

    @torch.inference_mode()
    def step(
        self, state: StreamState, poses: Sequence[Pose], *, intrinsics: Intrinsics, attempt: int = 0
    ) -> Chunk:
        """Generate the next chunk as seen from `poses`, one per frame. Raises FloatingPointError like `Engine.step`."""
        if len(poses) != self.spec.chunk_frames:
            raise ValueError(f"{len(poses)} poses for a chunk of {self.spec.chunk_frames} frames")
        if state.decoder is None or state.anchor is None:
            raise ValueError("a state without a decoder's tails: pass what `start` or `step` returned")
        laps = Laps(self.device)
        cond, anchor = self.condition(state, pose_tensor(poses), intrinsics)
        noise = self.generator.noise(state, frames=cond.P.shape[1], attempt=attempt)
        latents, after, made = self.generator.launch(state, cond=cond, anchor=anchor, noise=noise)
        latents = latents[:, :, -self.generator.config.chunk :]  # chunk 0 opens with the picture
        latents, after, refined = self._refined(after, latents)
        pictures, decoder = self.pictures.decode(latents, state.decoder)
        laps.lap("denoise", at=made.require())
        if refined is not None:
            laps.lap("refine", at=refined.require())
        pixels = list(pictures)
        laps.lap("decode")
        first = self.next_frame(state)
        frames = tuple(
            Frame(pixels=x, pose=pose, intrinsics=intrinsics, index=first + i, world=self.spec.name)
            for i, (x, pose) in enumerate(zip(pixels, poses, strict=True))
        )
        return Chunk(frames=frames, state=replace(after, decoder=decoder), timing=laps.seconds)

    @torch.inference_mode()
    def retold(self, state: StreamState, text: Text) -> StreamState:
        """The same flight under another prompt from the next chunk on, in both stages.

        What either remembers was seen under the old prompt and stays. Raises ValueError for a text of another shape.
        """
        for name in ("world", "world_mask"):
            here, there = getattr(self.text, name), getattr(text, name)
            if (here is None) != (there is None) or (there is not None and here.shape != there.shape):
                raise ValueError("this text was read for another model: embed it again")
        text = text.to(self.device)
        state = self.generator.retell(state, text=text.world, text_mask=text.world_mask)
        if state.refiner is None:
            return state
        return replace(state, refiner=replace(state.refiner, prompt=self._refiner_words(text)))

    def next_frame(self, state: StreamState) -> int:
        """Index of the first pixel frame after `state`."""
        return 1 + (max(state.frame, 1) - 1) * self.vae.config.stride[0]

    @property
    def pattern(self) -> StreamState:
        """What a state of this engine looks like, on no device: saved ones are judged by it."""
        if self._form is None:
            self.warm_up()
        assert self._form is not None
        return self._form

    def warm_up(self) -> None:
        """Run chunks until real ones are as fast as they get: the first are longer, and on a GPU one compiles."""
        spec = self.spec
        lens = Intrinsics.from_fov(1.2, width=spec.width, height=spec.height)
        grey = np.full((spec.height, spec.width, 3), 128, np.uint8)
        chunk = self.start(grey, pose=Pose(), intrinsics=lens)
        for _ in range(self._until_steady()):
            chunk = self.step(chunk.state, [Pose()] * spec.chunk_frames, intrinsics=lens)
        self._form = form(chunk.state)
        release_compiler()

    def _until_steady(self) -> int:
        """Chunks until all that can be captured is. A block of the refiner: when it comes with a full window again."""
        chunks = 2 if self.generator.steady is None else UNTIL_STEADY
        if self.refiner is None or self.refiner.steady is None or not self.refining:
            return chunks
        config = self.refiner.config
        return max(chunks, -(-config.history // config.block) + 2)

    def condition(
        self, state: StreamState, poses: Tensor, intrinsics: Intrinsics
    ) -> tuple[Conditioning, Anchor]:
        """The camera of a chunk; chunk 0 also holds that of the picture.

        poses: [1, n, 4, 4].  Ray matrices are computed in the dtype of the model, as released: in bfloat16 rays turn
        by up to 0.44°, and the weights have known no others.
        """
        opens = state.frame == 0
        assert state.anchor is not None
        poses = sent(poses, self.device)
        if opens:
            poses = torch.cat([state.anchor.camera[:, None].to(poses), poses], dim=1)
        row = sent(torch.from_numpy(intrinsics.row), self.device)
        anchor = None if opens else state.anchor.to(poses)
        cond, anchor = self._seen(poses, row, anchor)
        return replace(cond, frame=state.frame), anchor

    def _see(self, poses: Tensor, row: Tensor, anchor: Anchor | None) -> tuple[Conditioning, Anchor]:
        """The same of tensors, at a frame that only tells whether it is the first. row: [4] intrinsics."""
        config, frame = self.generator.config, 0 if anchor is None else 1
        rows = row.expand(1, poses.shape[1], 4)
        cond, anchor = condition_chunk(anchor, poses, rows, frame=frame, grid=self.grid, config=config)
        t = config.stride[0]
        last = poses[:, (t - 1 if frame else 0) :: t]
        relative = rigid_inverse(anchor.pose.to(poses))[:, None] @ last
        latent = latent_intrinsics(rows[:, : last.shape[1]], config)
        told = torch.cat([relative.flatten(-2), latent], dim=-1).float()
        cond = from_rows(
            told, cond.plucker, grid=self.grid, config=config, frame=frame, dtype=self.generator.dtype
        )
        return cond, anchor

    def _refiner_words(self, text: Text) -> Prompt:
        assert self.refiner is not None
        if text.refiner is None:
            raise ValueError("this text was not read for the refiner: embed it again with the refiner on")
        return self.refiner.prompt(text.refiner, text.refiner_mask)

    def _refined(self, state: StreamState, latents: Tensor) -> tuple[Tensor, StreamState, Finite | None]:
        """Latents through the second stage if it is there and on; its window forgets what it did not make."""
        if state.refiner is None:
            return latents, state, None
        assert self.refiner is not None
        if not state.refining:
            skipped = self.refiner.skip(state.refiner, latents.shape[2])
            return latents, replace(state, refiner=skipped), None
        latents, refiner = self.refiner.step(state.refiner, latents)
        said = f"chunk {state.chunk - 1} is not finite after refining: step again from its state"
        return latents, replace(state, refiner=refiner), Finite(latents.isfinite().all(), otherwise=said)

    def _pixels(self, picture: NDArray[np.uint8]) -> Tensor:
        """[1, 3, Y, X] in [-1, 1]."""
        x = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None]
        return x.to(self.device, torch.float32) / 127.5 - 1


def sana_spec(*, width: int, height: int, chunk_frames: int) -> WorldSpec:
    return WorldSpec(name="sana-wm", width=width, height=height, fps=FPS, chunk_frames=chunk_frames)
