"""Tiny models with weights and inputs in files, and what they compute: the inputs of `tests.checks`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.parity.form import Form, Part, Parts, distance
from engine.generator import Generator
from engine.model import WorldModel
from engine.pictures import PictureDecoder, Pictures
from engine.refiner import Refiner
from engine.refiner_model import RefinerModel
from engine.state import BlockState, Keys, Memory
from engine.vae import DecoderState
from engine.values import tensors
from kernels.gdn_chunk import gdn_chunk, suits
from kernels.gdn_scan import gdn_scan
from kernels.gdn_stream import gdn_stream, streams
from tests.checks import model as stage1
from tests.checks import refiner as stage2
from tests.checks import scan as scans
from tests.checks import vae as codec
from tests.checks.check import by_head

Case = Callable[[Path, Form, torch.device], Parts]


@dataclass(frozen=True, slots=True)
class Fixture:
    """What is computed, and the files it needs."""

    name: str
    files: tuple[str, ...]
    run: Case

    def missing(self, folder: Path) -> list[str]:
        return [name for name in self.files if not (folder / name).is_file()]


def read(file: Path, device: torch.device) -> dict[str, Tensor]:
    return {name: x.to(device) for name, x in load_file(file).items()}


def world(folder: Path, form: Form, device: torch.device, **other: Any) -> WorldModel:
    return form.model(stage1.tiny(folder, replace(stage1.TINY, **other)), device)


def bidirectional(folder: Path, form: Form, device: torch.device) -> Parts:
    t = read(folder / stage1.BIDIRECTIONAL, device)
    model = world(folder, form, device, causal=False)
    flow, _ = model(
        t["x"].to(form.dtype),
        timestep=t["timestep"][:, 0],
        text=model.embed_text(t["y"].squeeze(1).to(form.dtype)),
        text_mask=t["mask"].bool(),
        cond=stage1.cut(t, 0, t["x"].shape[2], model.config),
    )
    return {"flow": Part([flow], distance([flow], [t["out"]]))}


def streaming(folder: Path, form: Form, device: torch.device) -> Parts:
    """All chunks of the stream with a window, each denoised once and committed."""
    t, model = read(folder / stage1.STREAMING, device), world(folder, form, device)
    text, mask = model.embed_text(t["y"].squeeze(1).to(form.dtype)), t["mask"].bool()
    past: tuple[BlockState, ...] | None = None
    flows, known, start = list[Tensor](), list[Tensor](), 0
    for name in chunk_names(t, "window.chunk{}", "x_in"):
        x = t[f"{name}.x_in"]
        stop = start + x.shape[2]
        given = dict(text=text, text_mask=mask, cond=stage1.cut(t, start, stop, model.config), past=past)
        flow, _ = model(x.to(form.dtype), timestep=t[f"{name}.timestep"][:, 0], **given)
        clean = t["clean"][:, :, start:stop].to(form.dtype)
        written, past = model(clean, timestep=torch.zeros(1, stop - start, device=device), **given)
        flows += [flow, written]
        known += [t[f"{name}.denoise_out"], t[f"{name}.write_out"]]
        off = [c.error for c in stage1.states(t, name, past, frames=stop - start)]
        start = stop
    assert past is not None
    return {"flow": Part(flows, distance(flows, known)), **memories(past, off=max(off, default=None))}


def memories(blocks: tuple[BlockState, ...], *, own: int | None = None, off: float | None = None) -> Parts:
    """own: tokens of the newest chunk, where only its keys count.  off: from a fixture."""
    recurrent = [b.mixer for b in blocks if isinstance(b.mixer, Memory)]
    keys = [x for b in blocks if isinstance(b.mixer, Keys) for x in tensors(b.mixer)]
    tails = [x for m in recurrent for x in (m.conv, m.cam_conv) if x is not None]
    return {
        "recurrent memory": Part([x for m in recurrent for x in (m.S, m.z, m.cam_S)], off),
        "keys": Part([x[:, :, -(own or 0) :] for x in keys]),
        "tails": Part([*tails, *(b.ffn for b in blocks)]),
    }


def sampler(folder: Path, form: Form, device: torch.device) -> Parts:
    """Chunks out of noise, four passes and one that commits each."""
    t = read(folder / stage1.SAMPLER, device)
    generator = Generator(world(folder, form, device))
    state, made, known = None, list[Tensor](), list[Tensor]()
    for name in chunk_names(t, "chunk{}", "range"):
        start, stop = t[f"{name}.range"].tolist()
        given = dict(
            cond=stage1.cut(t, start, stop, generator.config),
            noise=t["noise"][:, :, start:stop],
        )
        if state is None:
            first = t["first_latent"][:, :, 0]
            x, state = generator.start(
                first, text=t["y"].squeeze(1), text_mask=t["mask"].bool(), seed=0, **given
            )
        else:
            x, state = generator.step(state, **given)
        made.append(x)
        known.append(t[f"{name}.latents"])
    return {"latents": Part(made, distance(made, known))}


def chunk_names(t: dict[str, Tensor], form: str, needs: str) -> Iterator[str]:
    c = 0
    while f"{form.format(c)}.{needs}" in t:
        yield form.format(c)
        c += 1


def scan(folder: Path, form: Form, device: torch.device) -> Parts:
    """The camera branch's memory alone: a clip's frames as one chunk, and each as its own."""
    t = read(folder / scans.FILE, device)
    one, one_known, each, each_known = (list[Tensor]() for _ in range(4))
    for case in json.loads((folder / "gdn_scan.json").read_text())["cases"]:
        name = f"case{case['case']}."
        x = {k.removeprefix(name): v for k, v in t.items() if k.startswith(name)}
        if not x:
            continue
        given, frames = scan_inputs(x), case["frames"]
        blank = torch.zeros_like(given["S"])
        o, _ = scanned(form, **{**given, "S": blank}, chunks=(frames,))
        one.append(o.flatten(2, 3).mT)
        one_known.append(x["cam.out_bidirectional"])
        o, end = scanned(form, **given, chunks=(1,) * frames)
        each += [o.flatten(2, 3).mT, end]
        each_known += [x["cam.out_forward"], x["cam.state_final"]]
    return {
        "one chunk": Part(one, distance(one, one_known)),
        "single frames": Part(each, distance(each, each_known)),
    }


def scan_inputs(x: dict[str, Tensor]) -> dict[str, Tensor]:
    frames = x["decay"].shape[-1]
    q, k, v = (by_head(x[n], frames).contiguous() for n in ("q_rot", "k_rot", "v"))
    beta = x["beta"] if x["beta"].ndim == 4 else x["beta"][..., None].expand(*k.shape[:-1])
    S = x["state0_kv"] if "state0_kv" in x else q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1])
    return dict(q=q, k=k, v=v, beta=beta.contiguous(), decay=x["decay"], S=S)


def scanned(
    form: Form,
    *,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    decay: Tensor,
    S: Tensor,
    chunks: tuple[int, ...],
) -> tuple[Tensor, Tensor]:
    """As a block of such a model calls it; by plain torch in fp32 of what each token brings, rounded to the form."""
    q, k, v = (x.to(form.dtype) for x in (q, k, v))
    for fits, kernel in ((streams, gdn_stream), (suits, gdn_chunk)):
        if form.kernels and fits(v, width=k.shape[-1], chunks=chunks):
            return kernel(q=q, k=k, v=v, beta=beta, decay=decay, S=S)
    q, k, v, beta = (x.to(form.dtype).float() for x in (q, k, v, beta))
    o, end = gdn_scan(q=q, k=k, v=v, beta=beta, decay=decay, S=S, chunks=chunks)
    return o.to(form.dtype), end


def decoding(folder: Path, form: Form, device: torch.device) -> Parts:
    """A stream of latents to pictures, two latent frames and then three."""
    t, model = read(folder / codec.FILE, device), form.model(codec.tiny_vae(folder), device)
    clip = model.decode_clip(t["latent"])
    decoder, state, made = PictureDecoder(model, together=2), None, list[Tensor]()
    for part in t["latent"].split([2, t["latent"].shape[2] - 2], dim=2):
        pictures, state = decoder.decode(part, state)
        made.append(numbers(pictures, device))
    off = distance([clip], [t["decode_full"]])
    return decoded(torch.cat(made), state, off=off)


def decoded(pictures: Tensor, state: DecoderState | None, *, off: float | None = None) -> Parts:
    assert state is not None
    return {"pictures": Part([pictures], off), "tails": Part(state.tails)}


def numbers(pictures: Pictures, device: torch.device) -> Tensor:
    """[P, Y, X, 3] in [-1, 1]."""
    return torch.from_numpy(np.stack(list(pictures))).to(device).float() / 127.5 - 1


def encoding(folder: Path, form: Form, device: torch.device) -> Parts:
    t, model = read(folder / codec.FILE, device), form.model(codec.tiny_vae(folder), device)
    made = [model.mode(t["encode_in_video"])]
    return {"latents": Part(made, distance(made, [t["encode_mode_video"]]))}


def refiner(folder: Path, form: Form, device: torch.device) -> Parts:
    """All blocks of the stream, and what is remembered after them."""
    t, config = read(folder / stage2.FILE, device), stage2.tiny_config(folder)
    model = RefinerModel(config)
    model.load_state_dict(load_file(folder / stage2.WEIGHTS))
    second = Refiner(form.model(model, device))
    words = second.prompt(t["prompt_embeds"], t["prompt_mask"])
    state = second.start(t["latent"][:, :, : config.sink], prompt=words)
    made, known = list[Tensor](), list[Tensor]()
    for name in chunk_names(t, "block{}", "refined"):
        latents = t["latent"][:, :, state.frame : state.frame + config.block]
        x, state = second.step(state, latents, noise=t[f"{name}.noise"])
        made.append(x)
        known.append(t[f"{name}.refined"])
    return {"latents": Part(made, distance(made, known)), "keys": Part(tensors(state.history))}


FIXTURES = (
    Fixture("bidirectional", (stage1.BIDIRECTIONAL, stage1.WEIGHTS), bidirectional),
    Fixture("streaming", (stage1.STREAMING, stage1.WEIGHTS), streaming),
    Fixture("sampler", (stage1.SAMPLER, stage1.WEIGHTS), sampler),
    Fixture("gdn scan", (scans.FILE, "gdn_scan.json"), scan),
    Fixture("codec, decode", (codec.FILE, codec.FACTS, codec.WEIGHTS), decoding),
    Fixture("codec, encode", (codec.FILE, codec.FACTS, codec.WEIGHTS), encoding),
    Fixture("refiner", (stage2.FILE, stage2.FACTS, stage2.WEIGHTS), refiner),
)
