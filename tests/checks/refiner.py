"""tiny_refiner*: stage 2 with small random weights, four blocks through a window of eight frames, and a whole clip."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from engine.ltx2 import LTX2_REFINER, RefinerConfig, refiner_config
from engine.refiner import Refiner
from engine.refiner_model import RefinerModel
from engine.refiner_passes import tokens
from engine.refiner_room import KV
from engine.refiner_rope import turns
from engine.release import empty
from kernels.norm_turn import of_tokens
from tests.checks.check import PART, WHOLE, Check, exact, relative
from tests.checks.vae import count

FILE, FACTS, WEIGHTS = "tiny_refiner.safetensors", "tiny_refiner.json", "tiny_refiner_weights.safetensors"


def tiny_config(folder: Path) -> RefinerConfig:
    said = json.loads((folder / FACTS).read_text())
    return replace(
        refiner_config(said["config"]),
        sink=said["sink_frames"],
        block=said["block_size"],
        window=said["kv_max_frames"],
        fps=said["fps"],
        sigmas=tuple(said["sigmas"][:-1]),
    )


def compared(name: str, kv: KV, t: dict[str, Tensor], *, k: str, v: str) -> Iterator[Check]:
    for part, ours in ((k, kv.k), (v, kv.v)):
        if f"{name}{part}" in t:
            yield relative(FILE, f"{name}{part}", ours.flatten(2), t[f"{name}{part}"], WHOLE)


@torch.no_grad()
def refiner(folder: Path) -> Iterator[Check]:
    t, config = load_file(folder / FILE), tiny_config(folder)
    model = RefinerModel(config)
    model.load_state_dict(load_file(folder / WEIGHTS))
    said = json.loads((folder / FACTS).read_text())["n_video_parameters"]
    yield exact(FACTS, f"{said} parameters", count(model) == said)
    yield from rope(t, config)
    yield from stream(t, Refiner(model))
    yield from whole(t, model)
    full = count(empty(lambda: RefinerModel(LTX2_REFINER)))
    yield exact(FACTS, "released size: 13.04 billion", full == 13_041_520_768)


def rope(t: dict[str, Tensor], config: RefinerConfig) -> Iterator[Check]:
    at = turns(config, frame=4, frames=3, grid=(3, 4), device=torch.device("cpu"))
    for name, ours in (("cos", at.cos), ("sin", at.sin)):
        ref = t[f"rope_frames_4_5_6.{name}"]
        ours = of_tokens(ours, at.columns).transpose(0, 1)[None]
        yield relative(FILE, f"rope of frames 4…6, {name}", ours, ref, PART)


def stream(t: dict[str, Tensor], refiner: Refiner) -> Iterator[Check]:
    config = refiner.config
    prompt = refiner.prompt(t["prompt_embeds"], t["prompt_mask"])
    state = refiner.start(t["latent"][:, :, : config.sink], prompt=prompt)
    for i, kv in enumerate(state.sink):
        yield from compared(f"sink.layer{i}.", kv, t, k="k_before_rope", v="v")
    b = 0
    while f"block{b}.refined" in t:
        name = f"block{b}"
        latents = t["latent"][:, :, state.frame : state.frame + config.block]
        for i, (x, clean, out) in enumerate(refiner.steps(state, latents, noise=t[f"{name}.noise"])):
            yield relative(FILE, f"{name}.step{i}.x_in", x, t[f"{name}.step{i}.x_in"], WHOLE)
            yield relative(FILE, f"{name}.step{i}.x0", clean, t[f"{name}.step{i}.x0"], WHOLE)
            refined = out
        yield relative(FILE, f"{name}.refined", refined, t[f"{name}.refined"], WHOLE)
        state = refiner.commit(state, refined)
        yield exact(FILE, f"{name}.history_frames", state.held == t[f"{name}.history_frames"].item())
        for i, blocks in enumerate(state.history):
            kv = KV(*(torch.cat(x, dim=1) for x in zip(*((b.k, b.v) for b in blocks), strict=True)))
            yield from compared(f"{name}.layer{i}.history_", kv, t, k="k", v="v")
        b += 1


def whole(t: dict[str, Tensor], model: RefinerModel) -> Iterator[Check]:
    """The bidirectional variant. `steps` blends latents and noise itself: latents equal to both leave the given mix."""
    refiner = Refiner(model)
    prompt = refiner.prompt(t["prompt_embeds"], t["prompt_mask"])
    state = refiner.start(t["latent"][:, :, : model.config.sink], prompt=prompt)
    x = t["full.current_noisy"]
    _, clean, _ = next(refiner.steps(state, x, noise=x))
    yield relative(FILE, "whole clip, clean tokens", tokens(clean), t["full.x0_tokens"], WHOLE)
