"""Memory conditions of training clips: what the engine would make, from frames of the past only."""

from __future__ import annotations

from dataclasses import replace

import torch

from engine.codec import Codec
from engine.config import memory_channels
from engine.evaluate import Truth, measure_return, there_and_back, warp_only
from engine.generator import Generator
from engine.memory import begin, insert
from engine.model import WorldModel
from engine.recall import frame_source, recall
from engine.train.data import Clips
from engine.train.forcing import flow_loss
from engine.train.pool import Batch, LatentPool
from engine.train.remember import Doubts, conditions, entries, last_frame
from engine.train.rollout import fly_on
from engine.warp import Warped
from tests.tiny import CODEC, MODEL

SURE = Doubts(decoded_depth=0.0, decoded_color=0.0, wrong_poses=0.0, partial=0.0)
CHUNKS, CPU = 4, torch.device("cpu")
SMALL = replace(CODEC, width=64, height=32)


def codec() -> Codec:
    torch.manual_seed(0)
    return Codec(SMALL).eval().requires_grad_(False)


def clips(count: int = 2) -> Clips:
    """Flights along a textured wall."""
    generator, frames = torch.Generator().manual_seed(1), 8 * CHUNKS + 1
    poses = torch.eye(4).repeat(count, frames, 1, 1)
    poses[:, :, 0, 3] = 0.02 * torch.arange(frames) * torch.arange(1, count + 1)[:, None]
    return Clips(
        frames=torch.randint(256, (count, frames, 32, 64, 3), generator=generator).to(torch.uint8),
        inverse_depth=torch.full((count, frames, 32, 64), 0.25).half(),
        poses=poses,
        intrinsics=torch.tensor([60.0, 60.0, 32.0, 16.0]).expand(count, frames, 4),
        words=torch.zeros(count, 8, dtype=torch.int64),
    )


def latents(count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(count, CHUNKS + 1, 32, *SMALL.grid, generator=generator)


def test_conditions_are_those_of_the_engine() -> None:
    made, some, z = codec(), clips(), latents()
    got = conditions(some, z, z, codec=made, generator=torch.Generator().manual_seed(0), doubts=SURE)
    assert got.shape == (2, 2, CHUNKS + 1, memory_channels(SMALL), *SMALL.grid)
    assert entries(CHUNKS) == (0, 2)
    assert not got[:, 0, 0].any()
    assert not got[:, 1, :3].any()

    def seen(i: int, age: torch.Tensor):
        f = 8 * i
        return frame_source(
            some["frames"][:, f],
            some["inverse_depth"][:, f],
            age,
            pose=some["poses"][:, f],
            intrinsics=some["intrinsics"][:, f],
            index=torch.full((2,), f),
        )

    memory = begin(seen(0, torch.zeros(2, 32, 64, dtype=torch.uint8)))
    for i in range(1, CHUNKS + 1):
        views = slice(8 * i - 7, 8 * i + 1)
        want = recall(memory, some["poses"][:, views], some["intrinsics"][:, views], codec=made, half=True)
        assert torch.equal(got[:, 0, i], want.channels[:, :, 0].bfloat16())
        memory = insert(memory, seen(i, want.warped.generation[:, -1]))


def test_what_was_flown_is_remembered() -> None:
    """A flight's own memory, chunk by chunk, against the engine's functions on the frames it decodes to."""
    some, z, codec_ = clips(), latents(), codec()
    blank = torch.ones(2, memory_channels(SMALL), CHUNKS + 1, *SMALL.grid)
    batch = Batch(
        latents=z.transpose(1, 2),
        poses=some["poses"],
        intrinsics=some["intrinsics"],
        words=some["words"],
        memory=blank,
    )
    model = WorldModel(replace(MODEL, memory_channels=memory_channels(SMALL))).eval()
    draw = torch.Generator().manual_seed(3)
    done = fly_on(Generator(model), batch, start=2, chunks=2, generator=draw, codec=codec_)
    flown, memory = done.latents, done.memory
    assert memory is not None
    assert torch.equal(memory[:, :, [0, 4]], blank[:, :, [0, 4]])  # not flown
    assert not torch.equal(flown[:, :, 2:4], batch.latents[:, :, 2:4])

    def flown_past(i: int, seen: Warped | None):
        rgb, depth = last_frame(codec_, flown[:, :, max(i - 1, 0)], flown[:, :, i], seen)
        age = torch.zeros(2, 32, 64, dtype=torch.uint8) if seen is None else seen.generation[:, -1]
        place = dict(pose=batch.poses[:, 8 * i], intrinsics=batch.intrinsics[:, 8 * i])
        return frame_source(rgb, depth, age, index=torch.full((2,), 8 * i), **place)

    own = begin(flown_past(0, None))
    for i in range(1, 4):
        views = slice(8 * i - 7, 8 * i + 1)
        want = recall(own, batch.poses[:, views], batch.intrinsics[:, views], codec=codec_)
        assert torch.equal(memory[:, :, i], want.channels[:, :, 0])
        own = insert(own, flown_past(i, want.warped.last()))


def test_the_future_is_not_recalled() -> None:
    made, some, z = codec(), clips(), latents()
    late = Clips(**{**some, "frames": some["frames"].clone()})  # type: ignore[typeddict-item]
    late["frames"][:, 17:] = 0
    a, b = (
        conditions(c, z, z, codec=made, generator=torch.Generator().manual_seed(0), doubts=SURE)
        for c in (some, late)
    )
    assert torch.equal(a[:, :, :4], b[:, :, :4])
    assert not torch.equal(a[:, :, 4], b[:, :, 4])


def test_doubts_change_every_kind_of_clip() -> None:
    made, some, z = codec(), clips(), latents()

    def with_(**share: float) -> torch.Tensor:
        doubts = replace(SURE, **share)
        return conditions(some, z, z, codec=made, generator=torch.Generator().manual_seed(0), doubts=doubts)

    sure = with_()
    for name in ("decoded_depth", "decoded_color", "wrong_poses", "partial"):
        spoilt = with_(**{name: 1.0})
        assert spoilt.isfinite().all()
        assert not torch.equal(spoilt, sure), name


def test_batches_carry_the_memory_of_their_chunks() -> None:
    pool = LatentPool(3, CHUNKS, codec=codec(), device=CPU, memory=torch.Generator().manual_seed(0))
    pool.add(clips())
    pool.add(clips())  # wraps round
    assert pool.memory is not None
    # told apart by a number that says clip, entry and chunk
    _, e, f = torch.meshgrid(torch.arange(3), torch.arange(2), torch.arange(CHUNKS + 1), indexing="ij")
    pool.memory[:] = (25 * e + f).bfloat16()[..., None, None, None]
    pool.moving[:] = f[:, 0].bfloat16()[..., None, None, None]
    pool.still[:] = f[:, 0].bfloat16()[..., None, None, None]
    batch = pool.draw(200, 3, generator=torch.Generator().manual_seed(3))
    assert batch.memory is not None
    assert batch.memory.shape == (200, memory_channels(SMALL), 3, *SMALL.grid)
    start, last = batch.latents[:, 0, 0, 0, 0], batch.latents[:, 0, 2, 0, 0]
    assert (batch.memory[:, :, 0] == 0).all()
    assert torch.equal(batch.memory[:, 0, 2, 0, 0], last + 25 * (start >= 2))
    assert 0.5 < ((start == 0) | (start == 2)).float().mean() < 0.95
    whole = pool.draw(20, CHUNKS + 1, generator=torch.Generator().manual_seed(3))
    assert torch.equal(whole.memory[:, 0, 1, 0, 0], torch.ones(20))  # type: ignore[index]
    assert LatentPool(3, CHUNKS, codec=codec(), device=CPU).memory is None


def test_tokens_that_memory_shows_weigh_less() -> None:
    flow, clean = torch.zeros(1, 2, 1, 1, 2), torch.zeros(1, 2, 1, 1, 2)
    noise = torch.tensor([1.0, 3.0]).expand(1, 2, 1, 1, 2)
    given = dict(clean=clean, noise=noise, weights=torch.ones(1, 1))
    assert flow_loss(flow, **given).item() == 5.0
    cells = torch.tensor([0.3, 1.0]).view(1, 1, 1, 2)
    assert abs(flow_loss(flow, **given, cells=cells).item() - (0.3 * 1 + 9) / 2) < 1e-6


def test_flights_that_return_are_measured() -> None:
    poses = torch.eye(4).repeat(1, 17, 1, 1)
    poses[0, :, 2, 3] = torch.arange(17) * 0.1
    back = there_and_back(poses)
    assert torch.equal(back[:, 0], back[:, -1])
    assert torch.equal(back[:, 3], back[:, 13])
    torch.manual_seed(0)
    picture = torch.randint(256, (1, 17, 160, 256, 3)).to(torch.uint8)
    lens = torch.tensor([200.0, 200.0, 128.0, 80.0]).expand(1, 17, 4)
    truth = Truth(
        frames=picture,
        poses=back,
        intrinsics=lens,
        words=torch.zeros(1, 8, dtype=torch.int64),
        inverse_depth=torch.full((1, 160, 256), 0.25).half(),
    )
    codec_ = Codec(CODEC).eval().requires_grad_(False)
    model = WorldModel(replace(MODEL, memory_channels=42)).eval().requires_grad_(False)
    assert warp_only(codec_, truth).shape == (1, 16, 3, 160, 256)
    report = measure_return(model, codec_, truth)
    assert set(report) == {"warp_only", "memory_off", "memory_on"}
    assert all(set(r) == {"psnr", "revisit_psnr", "sharpness"} for r in report.values())
