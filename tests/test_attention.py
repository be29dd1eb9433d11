"""Attention in the forms that GPUs train with: the same as the plain form, gradients included."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from engine.attention import attend_few
from engine.config import ModelConfig
from engine.layout import window_band
from engine.window import attention_mask
from tests.flights import CHUNKY, SMALL, distance, inputs, random_model


def band_of(frames: int, config: ModelConfig) -> int:
    chunks = (1,) * frames
    visible = attention_mask(index=0, cached=(), chunks=chunks, config=config, device=torch.device("cpu"))
    return window_band(frames, visible, config)


@pytest.mark.parametrize("frames", [5, 9])
def test_a_band_is_the_mask(frames: int) -> None:
    """The whole model by bands: flow and all gradients."""
    model = random_model()
    x = inputs(model, frames)
    text = x["text"].detach()
    given = model.given(
        text=text, text_mask=None, cond=x["cond"], past=None, chunks=None, dtype=torch.float64
    )
    band = band_of(frames, SMALL)
    assert band == SMALL.window + 1
    results = []
    for width in (0, band):
        model.zero_grad()
        place = replace(given, layout=replace(given.layout, band=width))
        flow, _ = model.denoise(x["x"], timestep=x["timestep"], given=place)
        flow.square().sum().backward(retain_graph=True)
        results.append([flow.detach(), *(p.grad for p in model.blocks.parameters() if p.grad is not None)])
    assert len(results[0]) > 50
    assert all(distance(a, b) < 1e-12 for a, b in zip(*results, strict=True))


def test_only_bands_of_one_width_count() -> None:
    assert band_of(4, SMALL) == 0  # everything is seen as soon as it has happened
    assert band_of(9, replace(SMALL, window=-1)) == 0
    assert band_of(9, replace(SMALL, sink=True)) == 0
    mask = attention_mask(
        index=0, cached=(), chunks=(4, 3, 3), config=replace(CHUNKY, window=1), device=torch.device("cpu")
    )
    assert window_band(10, mask, replace(CHUNKY, window=1)) == 0


@pytest.mark.parametrize("masked", [False, True])
def test_few_keys(masked: bool) -> None:
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, 8, generator=g, dtype=torch.float64) for n in (7, 5, 5))
    mask = (torch.rand(2, 1, 1, 5, generator=g) < 0.7) | (torch.arange(5) == 0) if masked else None
    assert distance(attend_few(q, k, v, mask), F.scaled_dot_product_attention(q, k, v, mask)) < 1e-14
