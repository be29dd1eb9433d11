"""tiny_vae*: the LTX-2 autoencoder with small random weights, whole clips and streams in chunks of every size."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from engine.ltx2 import LTX2_VAE, vae_config
from engine.release import empty
from engine.vae import DecoderState, Vae
from tests.checks.check import WHOLE, Check, exact, relative

FILE, FACTS, WEIGHTS = "tiny_vae.safetensors", "tiny_vae.json", "tiny_vae_weights.safetensors"


def tiny_vae(folder: Path, *, causal: bool = True) -> Vae:
    record = json.loads((folder / FACTS).read_text())["config"]
    model = Vae(vae_config(record, decoder_causal=causal))
    model.load_state_dict(load_file(folder / WEIGHTS))
    return model.eval()


def streamed(model: Vae, latents: Tensor, chunk: int) -> tuple[Tensor, list[DecoderState]]:
    """Decode in chunks; the frames, and the state after each chunk."""
    out, states = [], list[DecoderState]()
    for part in latents.split(chunk, dim=2):
        frames, state = model.decode(part, states[-1] if states else None)
        out.append(frames)
        states.append(state)
    return torch.cat(out, dim=2), states


def count(part: nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())


@torch.no_grad()
def vae(folder: Path) -> Iterator[Check]:
    t, said = load_file(folder / FILE), json.loads((folder / FACTS).read_text())
    model = tiny_vae(folder)
    yield exact(FACTS, f"{said['n_parameters']} parameters", count(model) == said["n_parameters"])
    yield relative(FILE, "latents, not normalised", model.unnormalise(t["latent"]), t["latent_unnormalised"])
    yield relative(FILE, "decoded at once", model.decode_clip(t["latent"]), t["decode_full"], WHOLE)
    for chunk in (1, 2, 3, 5):
        frames, states = streamed(model, t["latent"], chunk)
        yield relative(FILE, f"decoded in chunks of {chunk}", frames, t["decode_full"], WHOLE)
        shapes = [list(tail.shape) for tail in states[0].tails]
        kept = [s for s in said["cache_shapes_after_first_chunk"] if s is not None]
        yield exact(FACTS, f"tails after a chunk of {chunk}", shapes == kept)
    ahead = tiny_vae(folder, causal=False).decode_clip(t["latent"])
    yield relative(FILE, "decoded looking ahead", ahead, t["decode_bidirectional_diffusers"], WHOLE)
    clip = t["encode_in_video"]
    yield relative(FILE, "clip encoded", model.mode(clip), t["encode_mode_video"], WHOLE)
    yield relative(
        FILE, "picture encoded", model.mode(clip[:, :, :1]), t["encode_mode_first_frame_only"], WHOLE
    )
    latent = model.encode_picture(clip[:, :, 0]).unsqueeze(2)
    yield relative(FILE, "picture encoded, normalised", latent, t["encode_normalised_first_frame"], WHOLE)
    full = empty(lambda: Vae(LTX2_VAE))
    sizes = (count(full.encoder), count(full.decoder))
    yield exact(FACTS, "released size: 694 and 528 million", sizes == (694_098_881, 528_380_720))
