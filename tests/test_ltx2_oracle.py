"""The other side of ltx2.safetensors: diffusers on the same weights. `python tests/test_ltx2_oracle.py` writes the file."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.refiner_model import is_unread
from tests.checks.ltx2 import (
    FILE,
    GRID,
    LAYOUTS,
    SMALL_REFINER,
    SMALL_VAE,
    normal,
    refiner_inputs,
    seeded,
    thinned,
)

ORACLE = Path(__file__).parent / "oracles" / FILE


@torch.no_grad()
def theirs() -> dict[str, Tensor]:
    out = dict(autoencoder())
    for layout in LAYOUTS:
        out[f"refined_{layout}"] = refined(transformer(layout))
    return {name: t.contiguous() for name, t in out.items()}


def autoencoder() -> Iterator[tuple[str, Tensor]]:
    from diffusers import AutoencoderKLLTX2Video

    c = SMALL_VAE
    for name, causal in (("decoded", True), ("decoded_ahead", False)):
        vae = AutoencoderKLLTX2Video(
            latent_channels=c.latent_channels,
            block_out_channels=c.encoder_widths,
            layers_per_block=c.encoder_layers,
            decoder_block_out_channels=c.decoder_widths[::-1],
            decoder_layers_per_block=c.decoder_layers[::-1],
            decoder_causal=causal,
            spatial_compression_ratio=32,
            temporal_compression_ratio=8,
        ).eval()
        vae.load_state_dict(seeded({n: tuple(t.shape) for n, t in vae.state_dict().items()}))
        latents = normal(9001, 1, 8, 4, *GRID)
        scale = (v.view(1, -1, 1, 1, 1) for v in (vae.latents_std, vae.latents_mean))
        std, mean = scale
        yield name, thinned(vae.decode(latents * std + mean).sample)
    yield "encoded", vae.encode(normal(9002, 1, 3, 9, 64, 96)).latent_dist.mode()


def transformer(layout: str) -> Any:
    from diffusers.models.transformers.transformer_sana_wm_refiner import SanaWMLTX2RefinerTransformer3DModel

    c = SMALL_REFINER
    model = SanaWMLTX2RefinerTransformer3DModel(
        in_channels=c.latent_channels,
        out_channels=c.latent_channels,
        num_attention_heads=c.heads,
        attention_head_dim=c.head_dim,
        cross_attention_dim=c.dim,
        audio_in_channels=8,
        audio_out_channels=8,
        audio_num_attention_heads=2,
        audio_attention_head_dim=8,
        audio_cross_attention_dim=16,
        num_layers=c.depth,
        caption_channels=c.caption_dim,
        rope_type=layout,
    ).eval()
    shapes = {n: tuple(t.shape) for n, t in model.state_dict().items() if not is_unread(n)}
    left = model.load_state_dict(seeded(shapes), strict=False)
    assert not left.unexpected_keys
    assert all(is_unread(name) for name in left.missing_keys)
    return model


def refined(model: Any) -> Tensor:
    """Block by block as its pipeline does, which cannot be called without a text encoder."""
    from diffusers.models.transformers.transformer_sana_wm_refiner import SanaWMRefinerKVCache

    c = SMALL_REFINER
    latents, noise, embeds, mask = refiner_inputs()
    cache, cells = SanaWMRefinerKVCache(c.depth), GRID[0] * GRID[1]

    def rope(frames: range) -> Any:
        return model.build_rotary_emb_for_absolute_positions(
            1, list(frames), *GRID, torch.device("cpu"), c.fps
        )

    def call(x: Tensor, sigma: float, frames: range, mode: str) -> Tensor:
        v = model(
            x.flatten(2).mT,
            embeds,
            torch.full((1, len(frames) * cells), 1000 * sigma),
            rope(frames),
            mask,
            kv_cache=cache,
            kv_cache_mode=mode,
            return_dict=False,
        )[0]
        return v.mT.unflatten(2, (len(frames), *GRID))

    call(latents[:, :, :1], 0.0, range(1), "capture_pre_rope")
    layers = [cache.get(i) for i in range(c.depth)]
    for layer in layers:
        layer.store_sink(*layer.get_captured_pre_rope())
    held, out = 0, []
    for a in range(1, latents.shape[2], c.block):
        frames = range(a, min(a + c.block, latents.shape[2]))
        cache.sink_pe = rope(range(a - held - 1, a - held))
        eps, sigmas = noise[:, :, frames.start - 1 : frames.stop - 1], (*c.sigmas, 0.0)
        x = (1 - sigmas[0]) * latents[:, :, frames.start : frames.stop] + sigmas[0] * eps
        for s, after in pairwise(sigmas):
            x = x + (after - s) * call(x, s, frames, "inject")
        call(x, 0.0, frames, "inject_and_capture_post_rope")
        for layer in layers:
            new, old = layer.get_captured_post_rope(), layer.get_history()
            both = (
                new if old is None else tuple(torch.cat(pair, dim=1) for pair in zip(old, new, strict=True))
            )
            layer.store_history(*(t[:, -c.history * cells :] for t in both))
        held = min(held + len(frames), c.history)
        out.append(x)
    return torch.cat(out, dim=2)


@pytest.mark.filterwarnings("ignore")
def test_the_oracle_is_what_diffusers_says() -> None:
    pytest.importorskip("diffusers", reason="diffusers is not installed: pip install '.[oracle]'")
    stored = load_file(ORACLE)
    for name, t in theirs().items():
        torch.testing.assert_close(t, stored[name], rtol=1e-4, atol=1e-5)


if __name__ == "__main__":
    save_file(theirs(), ORACLE)
