"""Tiled decoding: tiles cover everything, weights sum to one, and a decoder without surroundings comes out exactly."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from engine.vae import Vae
from engine.vae_tiling import Tiling, blend, decode_tiled, spans
from tests.checks.ltx2 import SMALL_VAE, filled, normal


@given(size=st.integers(1, 60), tile=st.integers(1, 20), share=st.floats(0, 1))
def test_tiles_cover_all_and_leave_no_sliver(size: int, tile: int, share: float) -> None:
    step = max(1, round(tile * share))
    found = spans(size, tile, step)
    assert found[0][0] == 0
    assert found[-1][1] == size
    assert {b - a for a, b in found} == {min(size, tile)}
    assert all(0 < c - a <= step for (a, _), (c, _) in itertools.pairwise(found))
    weights = blend(found, ramp=tile - step, like=torch.empty(0))
    total = torch.zeros(size)
    for w, (a, b) in zip(weights, found, strict=True):
        assert (w > 0).all()
        total[a:b] += w
    torch.testing.assert_close(total, torch.ones(size))


class Local(Vae):
    """Each pixel is its cell's first channel, in its own frame: what lies around does not matter."""

    def decode_clip(self, latents: Tensor) -> Tensor:
        t, y, x = self.config.stride
        big = latents[:, :3].repeat_interleave(t, 2).repeat_interleave(y, 3).repeat_interleave(x, 4)
        return big[:, :, t - 1 :]  # latent 0 is one frame


@pytest.mark.parametrize("shape", [(1, 2, 2), (4, 5, 3), (9, 3, 7), (12, 2, 2)])
def test_without_surroundings_tiles_change_nothing(shape: tuple[int, int, int]) -> None:
    vae, latents = Local(SMALL_VAE), normal(1, 1, 8, *shape)
    tiling = Tiling(frames=24, frame_step=16, side=96, side_step=64)
    pieces = list(decode_tiled(vae, latents, tiling=tiling))
    assert max(p.shape[2] for p in pieces) <= 25
    torch.testing.assert_close(torch.cat(pieces, dim=2), vae.decode_clip(latents), rtol=1e-5, atol=1e-5)


def test_one_tile_is_the_clip_and_the_first_of_many_stands_alone() -> None:
    vae = filled(Vae(replace(SMALL_VAE, decoder_causal=False)))
    assert isinstance(vae, Vae)
    latents = normal(2, 1, 8, 5, 3, 4)
    with torch.no_grad():
        whole = vae.decode_clip(latents)
        (one,) = decode_tiled(vae, latents)
        first = vae.decode_clip(latents[:, :, :4])
        cut = torch.cat(list(decode_tiled(vae, latents, tiling=Tiling(frames=24, frame_step=16))), dim=2)
    torch.testing.assert_close(one, whole)
    torch.testing.assert_close(cut[:, :, :8], first[:, :, :8])  # where the second tile does not reach
    assert cut.shape == whole.shape


def test_steps_beyond_the_tile_are_refused() -> None:
    with pytest.raises(ValueError, match="tiles of 96 at steps of 97"):
        Tiling(frame_step=97)
