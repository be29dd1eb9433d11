"""Diffusion forcing and the pool of training clips, against closed forms."""

from __future__ import annotations

import pytest
import torch

from engine.codec import Codec
from engine.train.forcing import ForcingConfig, add_noise, draw_levels, flow_loss
from engine.train.pool import LatentPool
from tests.tiny import CODEC


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_levels_are_levels_and_every_clip_teaches():
    levels, weights = draw_levels(400, 13, ForcingConfig(), generator=seeded())
    assert ((levels >= 0) & (levels <= 1)).all()
    assert (weights.amax(dim=1) == 1.0).all()
    context = weights < 1
    assert (levels[context] <= 0.2).all()
    assert context[:, 0].float().mean().item() == pytest.approx(0.95, abs=0.04)
    assert (weights[context & (levels == 0)] == 0).all()


def test_a_clip_that_is_given_whole_still_learns_its_last_frame():
    config = ForcingConfig(context=(1.0, 1.0), first_context=1.0)
    _, weights = draw_levels(50, 5, config, generator=seeded())
    assert (weights[:, -1] == 1).all()
    assert (weights[:, :-1] < 1).all()


def test_noise_and_flow_agree():
    """x at a level, minus the level times the true flow, is clean; the loss of the true flow is zero."""
    clean, noise = (torch.randn(2, 3, 4, 2, 2, generator=seeded(s)) for s in (1, 2))
    levels = torch.rand(2, 4, generator=seeded(3))
    x = add_noise(clean, noise, levels)
    t = levels[:, None, :, None, None]
    torch.testing.assert_close(x - t * (noise - clean), clean)
    assert flow_loss(noise - clean, clean=clean, noise=noise, weights=torch.ones(2, 4)).item() == 0
    shifted = flow_loss(noise - clean + 2.0, clean=clean, noise=noise, weights=levels)
    assert shifted.item() == pytest.approx(
        4.0 * levels.sum().item() / max(1.0, levels.sum().item()), rel=1e-5
    )


def test_the_pool_cuts_what_the_codec_would_encode():
    """A clip entered at chunk s is the static latent of frame 8s, then the encoded chunks after it, and their poses."""
    torch.manual_seed(0)
    codec = Codec(CODEC).eval()
    pool = LatentPool(2, 3, codec=codec, device=torch.device("cpu"))
    frames = torch.randint(0, 256, (1, 25, 160, 256, 3), dtype=torch.uint8, generator=seeded())
    poses = torch.arange(25.0)[None, :, None, None].expand(1, 25, 4, 4)
    pool.add(
        {
            "frames": frames,
            "inverse_depth": torch.zeros(1, 25, 160, 256, dtype=torch.float16),
            "poses": poses,
            "intrinsics": torch.ones(1, 25, 4),
            "words": torch.arange(8)[None],
        }
    )
    batch = pool.draw(6, 3, generator=seeded())
    pictures = frames.permute(0, 1, 4, 2, 3).float() / 127.5 - 1
    for latents, path in zip(batch.latents, batch.poses, strict=True):
        start = int(path[0, 0, 0])
        assert path[:, 0, 0].tolist() == list(range(start, start + 17))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            told = torch.zeros(1, 17, 160, 256)
            told[:, 0] = -1  # of the picture that a clip starts from nobody knows the depth
            expected = codec.encode_clip(pictures[:, start : start + 17], told)[0]
        error = (latents.transpose(0, 1).float() - expected.float()).norm() / expected.float().norm()
        assert error < 2e-2  # one rounding to bfloat16, and batches of another size
    assert len(pool) == 1
    with pytest.raises(ValueError, match="2 to 4"):
        pool.draw(1, 5, generator=seeded())
