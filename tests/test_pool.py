"""The pool of encoded clips: what it keeps is what the codec makes of chunks with depth, and of pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.codec import Codec
from engine.config import POCKET_CODEC
from engine.train.data import Clips
from engine.train.pool import LatentPool
from engine.train.world import keep_pool, read_pool
from engine.words import SLOTS

TINY = replace(
    POCKET_CODEC,
    width=48,
    height=32,
    encoder_widths=(8, 8, 16),
    decoder_widths=(16, 16, 8, 8),
    latent_channels=4,
)


@torch.no_grad()
def test_chunks_carry_their_depth_and_first_pictures_sometimes() -> None:
    torch.manual_seed(0)
    codec = Codec(TINY).eval()
    frames = torch.randint(256, (1, 17, 32, 48, 3), dtype=torch.uint8)
    clips = Clips(
        frames=frames,
        inverse_depth=torch.rand(1, 17, 32, 48).half(),
        poses=torch.eye(4).expand(1, 17, 4, 4),
        intrinsics=torch.ones(1, 17, 4),
        words=torch.zeros(1, SLOTS, dtype=torch.int64),
    )
    pool = LatentPool(2, 2, codec=codec, device=torch.device("cpu"))
    pool.add(clips)
    telling = LatentPool(
        16, 2, codec=codec, device=torch.device("cpu"), memory=torch.Generator().manual_seed(0)
    )
    for _ in range(16):
        telling.add(clips)
    seen = frames.permute(0, 1, 4, 2, 3).float() / 127.5 - 1
    depth = clips["inverse_depth"].float()
    with torch.autocast("cpu", torch.bfloat16):
        chunk = codec.encode(seen[:, 9:17], depth[:, 9:17]).bfloat16()
        blind = codec.encode(seen[:, 9:17]).bfloat16()
        still = codec.encode_picture(seen[:, 8]).bfloat16()
        told = codec.encode_picture(seen[:, 8], depth[:, 8]).bfloat16()
    # bfloat16 keeps 8 bits, and a batch of two may be summed in another order than one
    torch.testing.assert_close(pool.moving[0, 2], chunk[0], rtol=2**-6, atol=2**-6)
    torch.testing.assert_close(pool.still[0, 1], still[0], rtol=2**-6, atol=2**-6)
    close = [
        [torch.allclose(x[1], y[0], rtol=2**-6, atol=2**-6) for y in (still, told)] for x in telling.still
    ]
    assert [True, False] in close
    assert [False, True] in close
    assert all(sum(one) == 1 for one in close)
    assert (pool.moving[0, 2] - blind[0]).float().norm() > 4 * (pool.moving[0, 2] - chunk[0]).float().norm()


def test_a_pool_is_kept_for_the_next_stage(tmp_path: Path) -> None:
    codec = Codec(TINY).eval()
    first, second, other = (LatentPool(n, 2, codec=codec, device=torch.device("cpu")) for n in (2, 2, 3))
    g = torch.Generator().manual_seed(0)
    for x in (first.moving, first.still, first.poses, first.intrinsics):
        x.copy_(torch.randn(x.shape, generator=g))
    first.filled = 2
    path = tmp_path / "runs" / "pool.0.pt"
    keep_pool(path, first)
    read_pool(path, second)
    a, b = (p.draw(4, 3, generator=torch.Generator().manual_seed(1)) for p in (first, second))
    assert torch.equal(a.latents, b.latents)
    assert torch.equal(a.poses, b.poses)
    with pytest.raises(ValueError, match=r"pool\.0\.pt .*another size"):
        read_pool(path, other)
    path.write_bytes(b"no pool")
    with pytest.raises(ValueError, match="remove it"):
        read_pool(path, second)
