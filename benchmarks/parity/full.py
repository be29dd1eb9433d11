"""The released sizes with random weights, drawn in bf16: in every form the same numbers, so that only arithmetic differs."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.parity.fixtures import decoded, memories, numbers
from benchmarks.parity.form import EXACT, FAST, PLAIN, Form, Part, Parts
from engine.bench.sana import bend, scene
from engine.camera import Pose
from engine.compiler import release_compiler
from engine.conditioning import Anchor, pose_tensor
from engine.generator import Generator
from engine.model import WorldModel
from engine.pictures import PictureDecoder
from engine.prompt import random_text
from engine.random_weights import random_module
from engine.refiner import Refiner
from engine.refiner_model import RefinerModel
from engine.sana import SanaEngine, sana_spec
from engine.setup import Sizes
from engine.vae import Vae
from engine.values import tensors

Say = Callable[[str], None]
Made = dict[Form, Parts]
ORDER = (FAST, PLAIN, EXACT)  # weights grow last
BLOCKS = 6  # of the refiner: in fp32 all 48 take 52 GB
FILLED = 3  # chunks until what blocks remember is as long as it gets; the next is measured


@contextmanager
def alone(device: torch.device) -> Iterator[None]:
    """Afterwards the memory of a GPU is empty again."""
    try:
        yield
    finally:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def opened(sizes: Sizes, device: torch.device) -> SanaEngine:
    drawn = dict(dtype=torch.bfloat16, device=device)
    return SanaEngine(
        sana_spec(width=sizes.width, height=sizes.height, chunk_frames=8 * sizes.world.chunk),
        model=random_module(lambda: WorldModel(sizes.world), **drawn, seed=1),
        vae=random_module(lambda: Vae(sizes.vae), **drawn, seed=2),
        text=random_text(sizes),
    )


def normal(*shape: int, device: torch.device, seed: int) -> Tensor:
    """In fp32, of numbers that bf16 holds."""
    drawn = torch.randn(shape, generator=torch.Generator(device).manual_seed(seed), device=device)
    return drawn.bfloat16().float()


def stage1(sizes: Sizes, device: torch.device, say: Say) -> Made:
    """A chunk behind full windows, four passes and one that commits. The fast path is compiled and captured."""
    engine, made = opened(sizes, device), Made()
    world, model = engine.generator.config, engine.generator.model
    lens, _ = scene(engine)
    camera = pose_tensor([Pose()])[:, 0]
    first = normal(1, world.latent_channels, *engine.grid, device=device, seed=3)
    eager = Generator(model)
    with FAST.paths():
        say("stage 1: filling the window")
        text = dict(text=engine.text.world, text_mask=engine.text.world_mask)
        state = eager.begin(first, **text, seed=1, anchor=Anchor(pose=camera, camera=camera))
        for k in range(FILLED):
            cond, anchor = engine.condition(state, pose_tensor(bend(k, engine.spec.chunk_frames)), lens)
            _, state = eager.step(state, cond=cond.to(device), anchor=anchor)
        cond, _ = engine.condition(state, pose_tensor(bend(FILLED, engine.spec.chunk_frames)), lens)
        cond = cond.to(device)
    noise = normal(1, world.latent_channels, world.chunk, *engine.grid, device=device, seed=4)
    for form in ORDER:
        say(f"stage 1: {named(form)}")
        with form.paths():
            if form is not FAST:
                form.model(model, device)
            generator = engine.generator if form is FAST else eager
            past = replace(state, blocks=form.value(state.blocks), text=form.value(state.text))
            latents, after = generator.step(past, cond=cond, noise=noise)
            own = world.chunk * engine.grid[0] * engine.grid[1]
            fast = generator.steady
            assert fast is None or fast.captured  # else it was no steady chunk
            made[form] = {"latents": Part([latents]), **memories(after.blocks, own=own)}
    release_compiler()
    return made


def codec(sizes: Sizes, device: torch.device, say: Say) -> Made:
    """A chunk of latents decoded behind another."""
    say("codec: drawing weights")
    vae = random_module(lambda: Vae(sizes.vae), dtype=torch.bfloat16, device=device, seed=2)
    h, w = sizes.grid
    shape = (1, sizes.vae.latent_channels, 1 + 2 * sizes.world.chunk, h, w)
    latents, made = normal(*shape, device=device, seed=5), Made()
    first, before, chunk = latents.split([1, sizes.world.chunk, sizes.world.chunk], dim=2)
    with FAST.paths():
        decoder = PictureDecoder(vae, together=sizes.world.chunk)
        _, state = decoder.decode(first, None)
        _, state = decoder.decode(before, state)
    for form in ORDER:
        say(f"codec: {named(form)}")
        with form.paths():
            if form is not FAST:
                decoder = PictureDecoder(form.model(vae, device), together=sizes.world.chunk)
            pictures, after = decoder.decode(chunk, form.value(state))
            made[form] = decoded(numbers(pictures, device), after)
    return made


def refiner(sizes: Sizes, device: torch.device, say: Say) -> Made:
    """A block behind a full window, through the first blocks of the model."""
    say("refiner: drawing weights")
    config = replace(sizes.refiner, depth=min(BLOCKS, sizes.refiner.depth))
    model = random_module(lambda: RefinerModel(config), dtype=torch.bfloat16, device=device, seed=3)
    second, text, made = Refiner(model), random_text(sizes).to(device), Made()
    assert text.refiner is not None
    full = -(-config.history // config.block)
    frames = config.sink + (full + 1) * config.block
    latents = normal(1, config.latent_channels, frames, *sizes.grid, device=device, seed=6)
    sink, *parts = latents.split([config.sink, *(full + 1) * [config.block]], dim=2)
    with FAST.paths():
        words = second.prompt(text.refiner, text.refiner_mask)
        state = second.start(sink, prompt=words)
        for part in parts[:-1]:
            _, state = second.step(state, part)
    noise = normal(*parts[-1].shape, device=device, seed=7)
    for form in ORDER:
        say(f"refiner: {named(form)}")
        with form.paths():
            if form is not FAST:
                form.model(model, device)
            refined, after = second.step(form.value(state), parts[-1], noise=noise)
            keys = [x for blocks in after.history for x in tensors(blocks[-1])]  # of the last block
            made[form] = {"latents": Part([refined]), "keys": Part(keys)}
    return made


def named(form: Form) -> str:
    if form is FAST:
        return "kernels in bf16"
    return f"plain torch in {'fp32' if form is EXACT else 'bf16'}"


SIZED = (("stage 1", stage1), ("codec", codec), (f"refiner, {BLOCKS} blocks", refiner))
