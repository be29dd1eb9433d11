"""Train the dynamics of `pocket`: diffusion forcing on latents of freshly rendered flights, then export.

    python -m engine.train.world --codec runs/codec/codec.safetensors --minutes 15 --out runs/world

Under torchrun every process renders and encodes its own clips, and gradients are averaged.
"""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.bench.ceilings import matmul_rate
from engine.checkpoint import save_module
from engine.codec import Codec, load_codec
from engine.conditioning import Conditioning, condition_clip
from engine.config import POCKET, POCKET_CODEC, POCKET_MEMORY, ModelConfig, as_record
from engine.engine import load_world
from engine.evaluate import Truth, measure_return, measure_rollouts, render_truth, rollout_sheet
from engine.model import WorldModel, beside, with_memory
from engine.recall import known_share
from engine.schedule import clean_of
from engine.train.data import clip, training_seeds
from engine.train.forcing import ForcingConfig, add_noise, draw_levels, flow_loss
from engine.train.host import Host, host
from engine.train.loop import Loop, Plan, Stateful
from engine.train.optim import Ema, OptimConfig, Optimiser
from engine.train.pool import Batch, LatentPool
from engine.train.rollout import SelfMade
from engine.train.run import RunOptions
from engine.worlds.renderer import Renderer

OPTIM = OptimConfig(muon=0.02, adam=5e-4, momentum=0.95, warmup=0.02, decay=0.55)
RADII = (
    2.0,
    16.0,
)  # metres: every training clip moves its anchor at a radius of its own, around the one of a flight
DROP = 0.1  # of clips lose all words, and of the rest each slot
FORGET = 0.15  # of clips lose their memory
KNOWN_WEIGHT = 0.3  # of a token whose whole cell the memory shows; one that must be invented weighs 1
CORRUPT = 0.6  # share of the given frames that are replaced by the model's own estimate, on every second step
CORRUPT_LEVELS = (0.35, 0.95)
PATIENCE = 90.0  # seconds that a run whose clips are there waits for what compiles beside it
OTHER_LEVELS = ((1.0,), (1.0, 0.8), (1.0, 0.85, 0.6, 0.3))  # measured beside those of the config


@dataclass(frozen=True, kw_only=True)
class WorldTraining(RunOptions):
    """Train the world model on latents of rendered flights. Ctrl-C saves; the same command continues."""

    frames: int = 13
    """latent frames of a clip, the first picture included"""
    long_frames: int = 25
    """the same at the end of the run, with fewer clips per step"""
    long_after: float = 0.7
    """share of the run after which clips are long"""
    corrupt_after: float = 0.5
    """share of the run after which some given frames are the model's own"""

    def __post_init__(self) -> None:
        if not 2 <= self.frames <= self.long_frames <= self.chunks + 1:
            raise ValueError(
                f"frames={self.frames} and long_frames={self.long_frames}: at least 2, and at most "
                f"chunks + 1 = {self.chunks + 1}"
            )


class Learner:
    """The model being trained and what one step does with it."""

    def __init__(self, model: WorldModel, options: RunOptions, host: Host) -> None:
        self.model, self.options, self.host = model, options, host
        self.grid = (10, 16)
        if options.compile and host.device.type == "cuda":
            torch._dynamo.config.cache_size_limit = 64
            for block in model.blocks:
                block.compile(dynamic=False)

    def loss(
        self, batch: Batch, *, corrupt: bool, generator: torch.Generator, own: SelfMade | None = None
    ) -> Tensor:
        """Diffusion forcing: every latent frame at its own noise level, given the ones before as they are.

        own: frames that the model made itself, to be given in place of the true ones.
        """
        clean = batch.latents if batch.latents.is_cuda else batch.latents.float()
        count, _, frames = clean.shape[:3]
        levels, weights = draw_levels(count, frames, ForcingConfig(), generator=generator)
        low, high = RADII
        radius = low + (high - low) * torch.rand(count, device=clean.device, generator=generator)
        cond = condition_clip(
            batch.poses, batch.intrinsics, grid=self.grid, config=self.model.config, radius=radius
        )
        words = self.words(batch.words, generator)
        memory = self.recalled(batch, generator)
        if corrupt:
            clean_input, weights = self.corrupted(clean, weights, words, cond, generator, memory)
        else:
            clean_input = clean
        noise = torch.randn(clean.shape, device=clean.device, dtype=clean.dtype, generator=generator)
        if own is not None:
            clean_input, levels, weights = own.given(clean_input, levels, weights, generator=generator)
        x = add_noise(clean_input, noise, levels)
        flow = self.flow(x, levels, words, cond, memory)
        return flow_loss(flow, clean=clean, noise=noise, weights=weights, cells=self.cells(memory))

    def recalled(self, batch: Batch, generator: torch.Generator) -> Tensor | None:
        """What the clips remember, 15 % of them nothing: [B, memory_channels, F, h, w]."""
        if batch.memory is None:
            return None
        keep = torch.rand(len(batch.memory), device=batch.memory.device, generator=generator) >= FORGET
        return batch.memory * keep[:, None, None, None, None]

    def cells(self, memory: Tensor | None) -> Tensor | None:
        """Loss weights [B, F, h, w]: what memory shows is easy."""
        if memory is None:
            return None
        return 1 - (1 - KNOWN_WEIGHT) * known_share(memory, POCKET_CODEC).float()

    def flow(
        self, x: Tensor, levels: Tensor, words: Tensor, cond: Conditioning, memory: Tensor | None = None
    ) -> Tensor:
        x = beside(x, memory, self.model.config)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=x.is_cuda):
            text = self.model.embed_text(words)
            return self.model(x, timestep=1000 * levels, text=text, text_mask=None, cond=cond)[0]

    def corrupted(
        self,
        clean: Tensor,
        weights: Tensor,
        words: Tensor,
        cond: Conditioning,
        generator: torch.Generator,
        memory: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Replace most of the given frames (never the first) by the model's one-pass estimates, and do not learn them."""
        low, high = CORRUPT_LEVELS
        levels = low + (high - low) * torch.rand(weights.shape, device=clean.device, generator=generator)
        levels[:, 0] = 0.0
        noise = torch.randn(clean.shape, device=clean.device, dtype=clean.dtype, generator=generator)
        x = add_noise(clean, noise, levels)
        with torch.no_grad():
            flow = self.flow(x, levels, words, cond, memory)
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
    """A run: pool, learner, averaged weights, and what is written while it goes. Later stages differ in `step`."""

    name = "world"
    optim = OPTIM
    decay = 0.999  # of the averaged weights
    remembers = True  # whether clips of the pool come with what a player would have remembered
    other_levels: tuple[tuple[float, ...], ...] = OTHER_LEVELS

    def __init__(self, options: RunOptions, host: Host) -> None:
        self.options, self.host = options, host
        torch.manual_seed(options.seed)
        torch.set_float32_matmul_precision("high")
        self.codec = self.stored_codec()
        self.model = self.started(self.built()).to(host.device)
        host.share_weights(self.model)
        self.ema = Ema(self.model, decay=self.decay)
        self.optimiser = Optimiser(self.model, self.optim, adam=self.by_adam)
        self.learner = Learner(self.model, options, host)
        self.renderer: Renderer | None = None
        doubt = host.generator(options.seed, 999_983) if self.model.config.memory_channels else None
        self.pool = LatentPool(
            options.pool,
            options.chunks,
            codec=self.codec,
            device=host.device,
            memory=doubt,
            kept=self.remembers,
        )
        self.truth: Truth | None = None
        self.returning: Truth | None = None

    def stored_codec(self) -> Codec:
        """The codec of the run; a random one of its size where only the compiler's cache is to be filled."""
        if self.options.warm_only:
            return Codec(POCKET_CODEC).to(self.host.device).eval().requires_grad_(False)
        return load_codec(self.options.codec, device=self.host.device)

    def built(self) -> WorldModel:
        """The model that the run starts from."""
        return initial_model(POCKET_MEMORY if self.options.memory else POCKET, self.options.init)

    def started(self, model: WorldModel) -> WorldModel:
        """The same; where only the compiler's cache is to be filled, with one block of each kind, which is all it needs."""
        if self.options.warm_only:
            last = min(model.config.softmax_blocks, default=0)
            model.blocks = model.blocks[max(last - 1, 0) : last + 1]
        return model

    def by_adam(self, name: str) -> bool:
        """Which parameters AdamW trains, beside the vectors."""
        return is_edge(name)

    def parts(self) -> dict[str, Stateful]:
        """What is saved and resumed."""
        return {"model": self.model, "ema": self.ema, "optimiser": self.optimiser}

    def frames(self) -> int:
        """Latent frames of a clip, for the report of speed."""
        o = self.options
        assert isinstance(o, WorldTraining)
        return o.frames

    def fill(self) -> None:
        """Render and encode the first clips, or read those that an earlier stage has kept."""
        self.renderer = Renderer(self.host.device)
        o, slice_ = self.options, min(self.options.pool, 64)
        kept = None if o.pool_file is None else o.pool_file.with_suffix(f".{self.host.rank}.pt")
        if kept is not None and kept.is_file():
            read_pool(kept, self.pool)
        else:
            for at in range(0, o.pool, slice_):
                self.add(at // slice_, slice_)
            if kept is not None:
                keep_pool(kept, self.pool)
        if self.host.leads:
            self.truth = render_truth(self.renderer, count=o.held_out, chunks=o.measure_chunks)
            self.returning = render_truth(
                self.renderer, count=o.held_out, chunks=o.measure_chunks, returning=True
            )

    def add(self, draw: int, count: int) -> None:
        assert self.renderer is not None
        seeds = training_seeds(
            draw, count, rank=self.host.rank, ranks=self.host.world, run=1 + self.options.seed
        )
        frames = 8 * self.options.chunks + 1
        self.pool.add(clip(self.renderer, seeds, frames, player=draw))

    def freshen(self, step: int) -> None:
        """Render new clips when it is time."""
        o = self.options
        if o.fresh_every and step % o.fresh_every == o.fresh_every - 1:
            self.add(100_000 + step // o.fresh_every, o.fresh)

    def step(self, step: int, fraction: float) -> Mapping[str, Tensor]:
        o = self.options
        assert isinstance(o, WorldTraining)
        self.freshen(step)
        generator = self.host.generator(o.seed, step)
        long = fraction >= o.long_after
        frames = o.long_frames if long else o.frames
        batch = self.pool.draw(max(1, o.batch * o.frames // frames), frames, generator=generator)
        loss = self.learner.loss(
            batch, corrupt=fraction >= o.corrupt_after and step % 2 == 1, generator=generator
        )
        loss.backward()
        self.learn(fraction)
        return {"loss": loss.detach()}

    def learn(self, fraction: float) -> None:
        """Follow the gradients that have gathered."""
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step(fraction)
        self.ema.update(self.model)

    def warmings(self) -> tuple[Callable[[], None], ...]:
        """What compiles all that a run needs, on made-up clips, in parts that know nothing of each other."""
        o = self.options
        assert isinstance(o, WorldTraining)
        return tuple(partial(self.warm, frames) for frames in (o.frames, o.long_frames))

    def warm(self, frames: int) -> None:
        o, generator = self.options, self.host.generator(0, 0)
        assert isinstance(o, WorldTraining)
        batch = self.made_up(max(1, o.batch * o.frames // frames), frames)
        for corrupt in (False, True):
            self.learner.loss(batch, corrupt=corrupt, generator=generator).backward()

    def made_up(self, count: int, frames: int) -> Batch:
        """Clips of nothing."""
        self.make_up()
        return self.pool.draw(count, frames, generator=self.host.generator(0, 0))

    def make_up(self) -> None:
        """Fill the pool with them."""
        o = self.options
        rest = torch.eye(4, device=self.host.device).expand(1, 8 * o.chunks + 1, 4, 4)
        self.pool.poses[:], self.pool.filled = rest, o.pool
        self.pool.intrinsics[:] = torch.tensor([200.0, 200.0, 128.0, 80.0], device=self.host.device)

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
        config = as_record(self.model.config)
        save_module(o.out / "world.safetensors", self.ema.module, kind="world", config=config)
        if self.truth is None:
            return
        model = load_world(o.out / "world.safetensors", dtype=self.dtype, device=self.host.device)
        codec, truth = self.codec, self.truth
        report: dict[str, Any] = measure_rollouts(model, codec, truth)
        report["other_levels"] = [
            measure_rollouts(model, codec, truth, levels=levels) for levels in self.other_levels
        ]
        if self.returning is not None:
            report["returning"] = measure_return(model, codec, self.returning)
        part = o.out / "world.json.part"
        part.write_text(json.dumps(report, indent=1))
        os.replace(part, o.out / "world.json")
        rollout_sheet(o.out / "flights.png", model, codec, truth.part(8, 20), picks=(1, 2, 4, 8, 12, 20))


def keep_pool(path: Path, pool: LatentPool) -> None:
    """Write the clips beside the file that is there, and put them in its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(pool.state_dict(), part)
    os.replace(part, path)


def read_pool(path: Path, pool: LatentPool) -> None:
    """Fill a pool with kept clips. Raises ValueError for a file that is none or does not fit."""
    try:
        pool.load_state_dict(torch.load(path, map_location=pool.moving.device, weights_only=True))
    except Exception as error:  # a foreign file can fail in any way
        raise ValueError(f"cannot read the clips in {path} ({error}): remove it") from error


def initial_model(config: ModelConfig, weights: Path | None) -> WorldModel:
    """A new model, or one that starts from `weights`, whose lack of memory is made up with zeros. Raises ValueError."""
    model = WorldModel(config)
    if weights is None:
        return model
    old = load_world(weights, dtype=torch.float32, device=torch.device("cpu"))
    state: Mapping[str, Tensor] = old.state_dict()
    if config.memory_channels and not old.config.memory_channels:
        state = with_memory(state, config.memory_channels)
    elif config.memory_channels != old.config.memory_channels:
        raise ValueError(
            f"{weights} has {old.config.memory_channels} memory channels and this run {config.memory_channels}: "
            "give --memory or --no-memory to match"
        )
    model.load_state_dict(state)
    return model


def is_edge(name: str) -> bool:
    """First and last layers, embeddings and tables, which AdamW trains."""
    return any(
        part in name for part in ("embedder", "t_block", "final_layer", "table", "depth_conv", "conv_k")
    )


def carry_out(kind: type[Training], options: RunOptions) -> None:
    """Run a whole stage. Raises ValueError for weights that cannot be read or a state that does not fit."""
    with host(options.device) as here:
        run = kind(options, here)
        if options.warm_only:
            for warm in run.warmings():
                warm()
            return
        with compiling(run):
            run.fill()
        learn_through(run)
        run.finish()


@contextmanager
def compiling(run: Training) -> Iterator[None]:
    """Compile beside the body, a process for each part: what they leave on disk the run finds. Their failure costs only time."""
    o, here = run.options, run.host
    if not (o.compile and here.device.type == "cuda"):
        yield
        return
    beside = compilers(run)
    try:
        yield
        end = time.monotonic() + PATIENCE
        for process in beside:
            process.join(max(0.0, end - time.monotonic()))
    finally:
        for process in beside:
            process.kill()


def compilers(run: Training) -> list[SpawnProcess]:
    """Processes that do a part each, and end."""
    spawn = multiprocessing.get_context("spawn")
    given = type(run), replace(run.options, warm_only=True), run.host.device
    parts = range(len(run.warmings()))
    processes = [spawn.Process(target=_compile, args=(*given, part), daemon=True) for part in parts]
    for process in processes:
        process.start()
    return processes


def _compile(kind: type[Training], options: RunOptions, device: torch.device, part: int) -> None:
    """One part of what a run needs, in a process of its own."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    kind(options, Host(device=device)).warmings()[part]()


def learn_through(run: Training) -> None:
    """Train until the budget is spent."""
    options, here = run.options, run.host
    clips, frames = here.world * options.batch, run.frames()
    weights = sum(p.numel() for p in run.model.parameters())
    plan = Plan(
        out=options.out,
        name=run.name,
        minutes=options.minutes,
        steps=options.steps,
        units=clips * (frames - 1),
        flop=6.0 * weights * clips * frames * 160,
        peak=here.world * matmul_rate(here.device),
    )
    Loop(plan, here, run.parts()).run(run.step, sample=run.sample)


def train_world(options: WorldTraining) -> None:
    """Run the whole training. Raises ValueError for a codec that cannot be read or a state that does not fit."""
    carry_out(Training, options)


def main() -> None:
    import tyro

    train_world(tyro.cli(WorldTraining, description=__doc__))


if __name__ == "__main__":
    main()
