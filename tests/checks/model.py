"""tiny_stage1_*: the whole model with small random weights, streaming, bidirectional and through the sampler."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from engine.conditioning import Conditioning, from_rows
from engine.config import DIFFUSERS, RELEASE_2026, SANA_WM, ModelConfig
from engine.generator import Generator
from engine.model import WorldModel
from engine.native import is_unused, load_native
from engine.state import BlockState, Keys, Memory
from tests.checks.check import PART, WHOLE, Check, exact, relative

GRID = (4, 6)
WEIGHTS = "tiny_stage1_weights.safetensors"
STREAMING = "tiny_stage1_streaming.safetensors"
BIDIRECTIONAL = "tiny_stage1_bidirectional.safetensors"
SAMPLER = "tiny_stage1_sampler.safetensors"
NOT_PARAMETERS = ("pos_embed", "y_embedder.y_embedding")
TINY = ModelConfig(
    dim=72,
    heads=3,
    cross_heads=3,
    depth=4,
    softmax_blocks=(3,),
    latent_channels=16,
    caption_dim=32,
    caption_tokens=12,
    semantics=RELEASE_2026,
)


def tiny(folder: Path, config: ModelConfig) -> WorldModel:
    model = WorldModel(config)
    load_native(model, load_file(folder / WEIGHTS))
    return model.eval()


def facts(folder: Path) -> Iterator[Check]:
    """tiny_stage1.json: sizes, kinds of blocks, number of parameters."""
    file, said = "tiny_stage1.json", json.loads((folder / "tiny_stage1.json").read_text())
    c = said["config"]
    theirs = (
        c["depth"],
        c["hidden"],
        c["head_dim"],
        c["cross_heads"],
        c["in_channels"],
        c["caption_channels"],
    )
    ours = (TINY.depth, TINY.dim, TINY.head_dim, TINY.cross_heads, TINY.latent_channels, TINY.caption_dim)
    yield exact(file, "sizes", ours == theirs)
    kinds = ["softmax" if i in TINY.softmax_blocks else "gdn" for i in range(TINY.depth)]
    yield exact(file, "kinds of blocks", kinds == said["block_kinds"])
    yield exact(
        file,
        "window",
        said["streaming"]["window"] == {"num_cached_blocks": TINY.window, "sink_token": TINY.sink},
    )
    levels = [round(1000 * level) for level in TINY.levels]
    yield exact(file, "levels", [*levels, 0] == said["sampler"]["denoising_step_list"])
    weights = load_file(folder / WEIGHTS)
    count = sum(
        w.numel() for name, w in weights.items() if name not in NOT_PARAMETERS and "recall_gate" not in name
    )
    yield exact(file, f"{said['n_parameters']} parameters", count == said["n_parameters"])


def cut(t: dict[str, Tensor], start: int, stop: int, config: ModelConfig) -> Conditioning:
    """Camera of latent frames [start, stop) of a fixture."""
    rows, plucker = t["camera_conditions"][:, start:stop], t["chunk_plucker"][:, :, start:stop]
    return from_rows(rows, plucker, grid=GRID, config=config, frame=start)


@torch.no_grad()
def streaming(folder: Path) -> Iterator[Check]:
    t = load_file(folder / STREAMING)
    for mode, config in (("window", TINY), ("full_history", replace(TINY, window=-1))):
        model = tiny(folder, config)
        text, mask = model.embed_text(t["y"].squeeze(1)), t["mask"].bool()
        past: tuple[BlockState, ...] | None = None
        start, c = 0, 0
        while f"{mode}.chunk{c}.x_in" in t:
            name = f"{mode}.chunk{c}"
            x = t[f"{name}.x_in"]
            stop = start + x.shape[2]
            given = dict(text=text, text_mask=mask, cond=cut(t, start, stop, config), past=past)
            with Watch(model) as seen:
                flow, _ = model(x, timestep=t[f"{name}.timestep"][:, 0], **given)
            yield relative(STREAMING, f"{name} denoising flow", flow, t[f"{name}.denoise_out"], WHOLE)
            yield from seen.compared(STREAMING, f"{name}.mid.", t)
            clean = t["clean"][:, :, start:stop]
            flow, past = model(clean, timestep=torch.zeros(1, stop - start), **given)
            yield relative(STREAMING, f"{name} committing flow", flow, t[f"{name}.write_out"], WHOLE)
            yield from states(t, name, past, frames=stop - start)
            start, c = stop, c + 1


def states(
    t: dict[str, Tensor], name: str, blocks: tuple[BlockState, ...], *, frames: int
) -> Iterator[Check]:
    """What the blocks remember after a chunk. Of a softmax block only the chunk's own keys are stored."""
    for i, block in enumerate(blocks):
        ours = {"ffn_tail": block.ffn.mT.unsqueeze(2)}
        match block.mixer:
            case Memory() as m:
                ours |= {"S_kv": m.S.mT, "S_z": m.z, "cam_S_kv": m.cam_S}
                ours["conv_k_tail"] = m.conv.transpose(1, 2).flatten(0, 1)
            case Keys() as m:
                n = frames * GRID[0] * GRID[1]
                ours |= {k: getattr(m, k)[:, :, -n:] for k in ("k", "v", "cam_k", "cam_v")}
        found = {k: v for k, v in ours.items() if f"{name}.block{i}.{k}" in t}
        for k, v in found.items():
            yield relative(STREAMING, f"{name} block {i} {k}", v, t[f"{name}.block{i}.{k}"], WHOLE)


class Watch:
    """Keeps what goes in and out of the parts of a model, under the names of the fixtures."""

    def __init__(self, model: WorldModel) -> None:
        self.seen: dict[str, Tensor] = {}
        self.stack = ExitStack()
        for part in ("x_embedder", "plucker_embedder", "t_embedder", "t_block"):
            name = {"t_embedder": "t_embed", "t_block": "t_mod"}.get(part, part.removesuffix("der"))
            self.watch(getattr(model, part), None, name)
        for i, block in enumerate(model.blocks):
            self.watch(block, None, f"block{i}.out")
            for part, name in (("attn", "attn"), ("cross_attn", "cross"), ("mlp", "mlp")):
                # The fixture's mlp_in is the residual stream before norm and modulation: ours starts after them.
                goes_in = None if part == "mlp" else f"block{i}.{name}_in"
                self.watch(getattr(block, part), goes_in, f"block{i}.{name}_out")

    def watch(self, part: nn.Module, goes_in: str | None, comes_out: str) -> None:
        def keep(_: nn.Module, args: tuple[Tensor, ...], out: Tensor | tuple[Tensor, ...]) -> None:
            self.seen[comes_out] = out if isinstance(out, Tensor) else out[0]
            if goes_in is not None:
                self.seen[goes_in] = args[0]

        self.stack.callback(part.register_forward_hook(keep).remove)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def compared(self, file: str, prefix: str, t: dict[str, Tensor]) -> Iterator[Check]:
        for name, ours in self.seen.items():
            if prefix + name in t:
                ref = t[prefix + name]
                yield relative(file, f"{prefix}{name}", ours.reshape(ref.shape), ref, PART)


@torch.no_grad()
def bidirectional(folder: Path) -> Iterator[Check]:
    t = load_file(folder / BIDIRECTIONAL)
    whole = replace(TINY, causal=False)
    model = tiny(folder, whole)
    given = dict(text_mask=t["mask"].bool(), cond=cut(t, 0, t["x"].shape[2], whole))
    with Watch(model) as seen:
        text = model.embed_text(t["y"].squeeze(1))
        flow, _ = model(t["x"], timestep=t["timestep"][:, 0], text=text, **given)
    yield relative(BIDIRECTIONAL, "flow", flow, t["out"], WHOLE)
    if "mid.y_embed" in t:
        yield relative(BIDIRECTIONAL, "embedded caption", text.unsqueeze(1), t["mid.y_embed"])
    yield from seen.compared(BIDIRECTIONAL, "mid.", t)
    same = t["timestep_1d"][:, None].expand(-1, t["x"].shape[2])
    flow, _ = model(t["x"], timestep=same, text=text, **given)
    yield relative(BIDIRECTIONAL, "flow, one timestep", flow, t["out_timestep_1d"], WHOLE)
    capped = tiny(folder, replace(whole, semantics=DIFFUSERS))
    flow, _ = capped(t["x"], timestep=t["timestep"][:, 0], text=text, **given)
    yield relative(BIDIRECTIONAL, "flow, diffusers' cap", flow, t["out_diffusers_with_camera_rms_cap"], WHOLE)


def sampler(folder: Path) -> Iterator[Check]:
    t = load_file(folder / SAMPLER)
    model = tiny(folder, TINY)
    generator = Generator(model)
    state, done, c = None, [], 0
    while f"chunk{c}.range" in t:
        start, stop = t[f"chunk{c}.range"].tolist()
        cond, noise = cut(t, start, stop, TINY), t["noise"][:, :, start:stop]
        with Calls(model) as calls:
            if state is None:
                text, mask, first = t["y"].squeeze(1), t["mask"].bool(), t["first_latent"][:, :, 0]
                out, state = generator.start(first, text=text, text_mask=mask, cond=cond, seed=0, noise=noise)
            else:
                out, state = generator.step(state, cond=cond, noise=noise)
        names = [f"chunk{c}.step{i}" for i in range(len(calls.seen) - 1)] + [f"chunk{c}.write"]
        for name, (x, timestep, flow) in zip(names, calls.seen, strict=True):
            yield relative(SAMPLER, f"{name} input", x, t[f"{name}.x_in"], WHOLE)
            yield relative(SAMPLER, f"{name} flow", flow, t[f"{name}.model_out"], WHOLE)
            told = t[f"{name}.timestep"].reshape(1, -1).expand_as(timestep)  # one for all frames, or one each
            yield exact(SAMPLER, f"{name} timestep", torch.equal(timestep, told))
        yield relative(SAMPLER, f"chunk{c} latents", out, t[f"chunk{c}.latents"], WHOLE)
        done.append(out)
        c += 1
    yield relative(SAMPLER, "latents", torch.cat(done, dim=2), t["latents_final"], WHOLE)


class Calls:
    """Keeps input, timestep and flow of every pass that a generator makes."""

    def __init__(self, model: WorldModel) -> None:
        self.model, self.seen = model, list[tuple[Tensor, Tensor, Tensor]]()

    def __enter__(self) -> Calls:
        self.denoise: Callable[..., tuple[Tensor, tuple[BlockState, ...]]] = self.model.denoise

        def watched(x: Tensor, *, timestep: Tensor, given: object) -> tuple[Tensor, tuple[BlockState, ...]]:
            flow, blocks = self.denoise(x, timestep=timestep, given=given)
            self.seen.append((x, timestep, flow))
            return flow, blocks

        self.model.__dict__["denoise"] = watched
        return self

    def __exit__(self, *_: object) -> None:
        del self.model.__dict__["denoise"]


def manifest(folder: Path) -> Iterator[Check]:
    """stage1_native_manifest.json: parameters and buffers apart."""
    facts = json.loads((folder / "stage1_native_manifest.json").read_text())
    stored = facts["parameters"] | facts["buffers"]
    yield from names_and_shapes(
        "stage1_native_manifest.json", stored, facts["parameters"], facts["total_parameters"]
    )


def listed(folder: Path) -> Iterator[Check]:
    """sana_wm_stage1_manifest.json: one entry per tensor, with the names of diffusers beside the native ones."""
    file = "sana_wm_stage1_manifest.json"
    facts = json.loads((folder / file).read_text())
    entries = facts["entries"]
    parameters = {e["native"]: e["shape"] for e in entries if e["kind"] == "parameter"}
    stored = {e["native"]: e["shape"] for e in entries}
    yield exact(file, "number of tensors", len(stored) == facts["native_total_tensors"])
    yield from names_and_shapes(file, stored, parameters, facts["total_parameters"])


def names_and_shapes(
    file: str, stored: dict[str, list[int]], parameters: dict[str, list[int]], total: int
) -> Iterator[Check]:
    """Every stored tensor is ours, in name and shape, or one that the release never reads."""
    with torch.device("meta"):
        ours = {name: list(p.shape) for name, p in WorldModel(SANA_WM).state_dict().items()}
    used = {name: shape for name, shape in stored.items() if not is_unused(name, SANA_WM)}
    yield exact(file, "names", ours.keys() == used.keys())
    yield exact(file, "shapes", all(used.get(name) == shape for name, shape in ours.items()))
    unread = {name: shape for name, shape in parameters.items() if name not in ours}
    count = sum(torch.Size(s).numel() for s in (*ours.values(), *unread.values()))
    yield exact(file, f"{total} parameters, {len(unread)} of the tensors never read", count == total)
