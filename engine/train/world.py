"""Train the dynamics of `pocket`: diffusion forcing on latents of freshly rendered flights, then export.

    python -m engine.train.world --codec runs/codec/codec.safetensors --minutes 15 --out runs/world

Under torchrun every process renders and encodes its own clips, and gradients are averaged.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from engine.checkpoint import load_module, save_module
from engine.codec import load_codec
from engine.conditioning import Conditioning, condition_clip
from engine.config import POCKET, as_record
from engine.engine import load_world
from engine.evaluate import Truth, measure_rollouts, render_truth, rollout_sheet
from engine.model import WorldModel
from engine.schedule import clean_of
from engine.train.data import clip, training_seeds
from engine.train.forcing import ForcingConfig, add_noise, draw_levels, flow_loss
from engine.train.host import Host, host
from engine.train.loop import Loop, Plan, Stateful
from engine.train.optim import Ema, OptimConfig, Optimiser
from engine.train.pool import Batch, LatentPool
from engine.train.speed import matmul_rate
from engine.worlds.renderer import Renderer

OPTIM = OptimConfig(muon=0.02, adam=5e-4, momentum=0.95, warmup=0.02, decay=0.55)
RADII = (
    2.0,
    16.0,
)  # metres: every training clip moves its anchor at a radius of its own, around the one of a flight
DROP = 0.1  # of clips lose all words, and of the rest each slot
CORRUPT = 0.6  # share of the given frames that are replaced by the model's own estimate, on every second step
CORRUPT_LEVELS = (0.35, 0.95)
OTHER_LEVELS = ((1.0,), (1.0, 0.8), (1.0, 0.85, 0.6, 0.3))  # measured beside those of the config


@dataclass(frozen=True, kw_only=True)
class WorldTraining:
    """Train the world model on latents of rendered flights. Ctrl-C saves; the same command continues."""

    out: Path = Path("runs/world")
    """folder for state, metrics, sample sheets and, at the end, world.safetensors and world.json"""
    codec: Path = Path("runs/codec/codec.safetensors")
    """trained codec"""
    init: Path | None = None
    """weights to start from instead of random ones"""
    minutes: float = 15.0
    """wall clock, compilation included, filling the pool not"""
    steps: int | None = None
    """count steps instead of minutes"""
    batch: int = 64
    """clips per step and process"""
    frames: int = 13
    """latent frames of a clip, the first picture included"""
    long_frames: int = 25
    """the same at the end of the run, with fewer clips per step"""
    long_after: float = 0.7
    """share of the run after which clips are long"""
    corrupt_after: float = 0.5
    """share of the run after which some given frames are the model's own"""
    pool: int = 2048
    """clips kept encoded on each device"""
    chunks: int = 24
    """chunks of a rendered clip, 0.5 s each"""
    fresh: int = 8
    """clips rendered at a time to replace the oldest"""
    fresh_every: int = 12
    """steps between them; 0: never"""
    held_out: int = 12
    """flights to measure on, never trained on"""
    measure_chunks: int = 40
    """length of the measured flights"""
    seed: int = 0
    """of weights, clips and noise"""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """where to train"""
    compile: bool = True
    """compile the blocks on a GPU"""
    warm_only: bool = False
    """fill the compiler's cache and leave: run beside the training of the codec"""

    def __post_init__(self) -> None:
        if not 2 <= self.frames <= self.long_frames <= self.chunks + 1:
            raise ValueError(
                f"frames={self.frames} and long_frames={self.long_frames}: at least 2, and at most "
                f"chunks + 1 = {self.chunks + 1}"
            )


class Learner:
    """The model being trained and what one step does with it."""

    def __init__(self, model: WorldModel, options: WorldTraining, host: Host) -> None:
        self.model, self.options, self.host = model, options, host
        self.grid = (10, 16)
        if options.compile and host.device.type == "cuda":
            torch._dynamo.config.cache_size_limit = 64
            for block in model.blocks:
                block.compile(dynamic=False)

    def loss(self, batch: Batch, *, corrupt: bool, generator: torch.Generator) -> Tensor:
        """Diffusion forcing: every latent frame at its own noise level, given the ones before as they are."""
        clean = batch.latents if batch.latents.is_cuda else batch.latents.float()
        count, _, frames = clean.shape[:3]
        levels, weights = draw_levels(count, frames, ForcingConfig(), generator=generator)
        low, high = RADII
        radius = low + (high - low) * torch.rand(count, device=clean.device, generator=generator)
        cond = condition_clip(
            batch.poses, batch.intrinsics, grid=self.grid, config=self.model.config, radius=radius
        )
        words = self.words(batch.words, generator)
        if corrupt:
            clean_input, weights = self.corrupted(clean, weights, words, cond, generator)
        else:
            clean_input = clean
        noise = torch.randn(clean.shape, device=clean.device, dtype=clean.dtype, generator=generator)
        x = add_noise(clean_input, noise, levels)
        flow = self.flow(x, levels, words, cond)
        return flow_loss(flow, clean=clean, noise=noise, weights=weights)

    def flow(self, x: Tensor, levels: Tensor, words: Tensor, cond: Conditioning) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=x.is_cuda):
            text = self.model.embed_text(words)
            return self.model(x, timestep=1000 * levels, text=text, text_mask=None, cond=cond)[0]

    def corrupted(
        self, clean: Tensor, weights: Tensor, words: Tensor, cond: Conditioning, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Replace most of the given frames (never the first) by the model's one-pass estimates, and do not learn them."""
        low, high = CORRUPT_LEVELS
        levels = low + (high - low) * torch.rand(weights.shape, device=clean.device, generator=generator)
        levels[:, 0] = 0.0
        noise = torch.randn(clean.shape, device=clean.device, dtype=clean.dtype, generator=generator)
        x = add_noise(clean, noise, levels)
        with torch.no_grad():
            flow = self.flow(x, levels, words, cond)
        estimate = clean_of(x, flow, levels[:, None, :, None, None].to(x.dtype))
        swap = torch.rand(weights.shape, device=clean.device, generator=generator) < CORRUPT
        swap = swap & (weights < 1)
        swap[:, 0] = False
        return torch.where(
            swap[:, None, :, None, None], estimate.to(clean.dtype), clean
        ), weights.masked_fill(swap, 0.0)

    def words(self, words: Tensor, generator: torch.Generator) -> Tensor:
        """Forget all words of a clip in 10 % of clips, and a word in 10 % of slots."""
        clips = torch.rand(words.shape[0], 1, device=words.device, generator=generator)
        slots = torch.rand(words.shape, device=words.device, generator=generator)
        return words * ((clips >= DROP) & (slots >= DROP))


class Training:
    """A run: pool, learner, averaged weights, and what is written while it goes."""

    def __init__(self, options: WorldTraining, host: Host) -> None:
        self.options, self.host = options, host
        torch.manual_seed(options.seed)
        torch.set_float32_matmul_precision("high")
        self.codec = load_codec(options.codec, device=host.device)
        model = WorldModel(POCKET)
        if options.init is not None:
            load_module(options.init, model, kind="world")
        self.model = model.to(host.device)
        host.share_weights(self.model)
        self.ema = Ema(self.model, decay=0.999)
        self.optimiser = Optimiser(self.model, OPTIM, adam=is_edge)
        self.learner = Learner(self.model, options, host)
        self.renderer: Renderer | None = None
        self.pool = LatentPool(options.pool, options.chunks, codec=self.codec, device=host.device)
        self.truth: Truth | None = None

    def fill(self) -> None:
        """Render and encode the first clips."""
        self.renderer = Renderer(self.host.device)
        o, slice_ = self.options, min(self.options.pool, 32)
        for at in range(0, o.pool, slice_):
            self.add(at // slice_, slice_)
        if self.host.leads:
            self.truth = render_truth(self.renderer, count=o.held_out, chunks=o.measure_chunks)

    def add(self, draw: int, count: int) -> None:
        assert self.renderer is not None
        seeds = training_seeds(
            draw, count, rank=self.host.rank, ranks=self.host.world, run=1 + self.options.seed
        )
        frames = 8 * self.options.chunks + 1
        self.pool.add(clip(self.renderer, seeds, frames, player=draw))

    def step(self, step: int, fraction: float) -> Mapping[str, Tensor]:
        o = self.options
        if o.fresh_every and step % o.fresh_every == o.fresh_every - 1:
            self.add(100_000 + step // o.fresh_every, o.fresh)
        generator = self.host.generator(o.seed, step)
        long = fraction >= o.long_after
        frames = o.long_frames if long else o.frames
        batch = self.pool.draw(max(1, o.batch * o.frames // frames), frames, generator=generator)
        loss = self.learner.loss(
            batch, corrupt=fraction >= o.corrupt_after and step % 2 == 1, generator=generator
        )
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step(fraction)
        self.ema.update(self.model)
        return {"loss": loss.detach()}

    def warm(self) -> None:
        """Compile what a run needs, on made-up clips."""
        o, generator = self.options, self.host.generator(0, 0)
        rest = torch.eye(4, device=self.host.device).expand(1, 8 * o.chunks + 1, 4, 4)
        self.pool.poses[:], self.pool.filled = rest, o.pool
        self.pool.intrinsics[:] = torch.tensor([200.0, 200.0, 128.0, 80.0], device=self.host.device)
        for frames in (o.frames, o.long_frames):
            batch = self.pool.draw(max(1, o.batch * o.frames // frames), frames, generator=generator)
            for corrupt in (False, True):
                self.learner.loss(batch, corrupt=corrupt, generator=generator).backward()

    def sample(self) -> None:
        """Fly four held-out worlds with the averaged weights and draw them beside the truth."""
        if self.truth is None:
            return
        rollout_sheet(
            self.options.out / "sheet.png",
            self.averaged(),
            self.codec,
            self.truth.part(4, 12),
            picks=(1, 2, 4, 8, 12),
        )

    def averaged(self) -> WorldModel:
        """The averaged weights in the precision they are flown in."""
        model = copy.deepcopy(self.ema.module).to(self.dtype).eval()
        assert isinstance(model, WorldModel)
        return model

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.host.device.type == "cuda" else torch.float32

    def finish(self) -> None:
        """Export the averaged weights and measure them."""
        if not self.host.leads:
            return
        o = self.options
        save_module(o.out / "world.safetensors", self.ema.module, kind="world", config=as_record(POCKET))
        if self.truth is None:
            return
        model = load_world(o.out / "world.safetensors", dtype=self.dtype, device=self.host.device)
        codec, truth = self.codec, self.truth
        report: dict[str, Any] = measure_rollouts(model, codec, truth)
        report["other_levels"] = [
            measure_rollouts(model, codec, truth, levels=levels) for levels in OTHER_LEVELS
        ]
        part = o.out / "world.json.part"
        part.write_text(json.dumps(report, indent=1))
        os.replace(part, o.out / "world.json")
        rollout_sheet(o.out / "flights.png", model, codec, truth.part(8, 20), picks=(1, 2, 4, 8, 12, 20))


def is_edge(name: str) -> bool:
    """First and last layers, embeddings and tables, which AdamW trains."""
    return any(
        part in name for part in ("embedder", "t_block", "final_layer", "table", "depth_conv", "conv_k")
    )


def train_world(options: WorldTraining) -> None:
    """Run the whole training. Raises ValueError for a codec that cannot be read or a state that does not fit."""
    with host(options.device) as here:
        run = Training(options, here)
        if options.warm_only:
            run.warm()
            return
        run.fill()
        tokens = here.world * options.batch * options.frames * 160
        weights = sum(p.numel() for p in run.model.parameters())
        plan = Plan(
            out=options.out,
            name="world",
            minutes=options.minutes,
            steps=options.steps,
            units=here.world * options.batch * (options.frames - 1),
            flop=6.0 * weights * tokens,
            peak=here.world * matmul_rate(here.device),
        )
        parts: dict[str, Stateful] = {"model": run.model, "ema": run.ema, "optimiser": run.optimiser}
        Loop(plan, here, parts).run(run.step, sample=run.sample)
        run.finish()


def main() -> None:
    import tyro

    train_world(tyro.cli(WorldTraining, description=__doc__))


if __name__ == "__main__":
    main()
