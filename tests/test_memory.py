"""Spatial memory as a value: what is chosen, kept and dropped; and the engine with and without it."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.camera import Intrinsics, Pose
from engine.checkpoint import save_module
from engine.codec import Codec
from engine.config import MEMORY, POCKET, POCKET_CODEC, POCKET_MEMORY, WORLDS, as_record, memory_channels
from engine.engine import Engine, load_world
from engine.memory import SpatialMemory, begin, carved, choose, insert
from engine.model import WorldModel, with_memory
from engine.recall import frame_source, known_share, recall
from engine.train.world import initial_model
from engine.warp import Sources, warp
from tests.tiny import CODEC, MODEL, hills

CPU = torch.device("cpu")
LENS = torch.tensor([[200.0, 200.0, 128.0, 80.0]]).double()


def turned(degrees: float, *, at: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Tensor:
    a, T = math.radians(degrees), torch.eye(4, dtype=torch.float64)
    T[0, 0] = T[2, 2] = math.cos(a)
    T[0, 2], T[2, 0] = math.sin(a), -math.sin(a)
    T[:3, 3] = torch.tensor(at)
    return T[None]


def frame(index: int, pose: Tensor, *, age: int = 0, d: float = 0.1) -> Sources:
    """A wall that faces the camera at 1/d metres."""
    return frame_source(
        torch.full((1, 160, 256, 3), index % 256, dtype=torch.uint8),
        torch.full((1, 160, 256), d),
        torch.full((1, 160, 256), age, dtype=torch.uint8),
        pose=pose,
        intrinsics=LENS,
        index=torch.tensor([index]),
    )


def walk(*steps: tuple[int, float]) -> SpatialMemory:
    """Frames (index, yaw in degrees) of a sky, one after the other."""
    memory = begin(frame(0, turned(0), d=0.0))
    for index, yaw in steps:
        memory = insert(memory, frame(index, turned(yaw), d=0.0))
    return memory


def held(memory: SpatialMemory) -> list[int]:
    return [i for i in memory.kept.index[0].tolist() if i >= 0]


def ahead(yaw: float) -> tuple[Tensor, Tensor]:
    return turned(yaw).expand(1, 8, 4, 4), LENS.expand(1, 8, 4)


def test_only_what_is_new_becomes_a_keyframe() -> None:
    memory = walk((8, 2), (16, 4))
    assert held(memory) == [0]
    assert memory.latest.index.item() == 16
    assert held(insert(memory, frame(24, turned(30), d=0.0))) == [0, 24]
    assert held(memory) == [0], "a value is not changed by what comes after"


def test_after_two_seconds_of_moving_but_not_of_rest() -> None:
    assert held(walk((32, 0))) == [0]
    assert held(walk((24, 6))) == [0]
    assert held(walk((32, 6))) == [0, 32]


def test_chosen_is_the_latest_and_what_it_does_not_show() -> None:
    memory = walk((8, 40), (16, 80), (24, 120), (32, 160))
    assert choose(memory, *ahead(160)).index[0].tolist() == [32, -1, -1]
    assert choose(memory, *ahead(100)).index[0, 0].item() == 32
    assert set(choose(memory, *ahead(100)).index[0, 1:].tolist()) == {16, 24}
    back = choose(memory, *ahead(20)).index[0].tolist()
    assert set(back[1:]) == {0, 8}


def test_first_hand_pictures_are_chosen_over_copies() -> None:
    memory = begin(frame(0, turned(0), d=0.0))
    memory = insert(memory, frame(8, turned(1), age=60, d=0.0))
    assert choose(memory, *ahead(0)).index[0].tolist() == [8, 0, -1]


@pytest.mark.parametrize(
    ("wall", "thing", "ages", "yaw", "gone"),
    [
        (20.0, 4.0, (0, 0), 0.0, True),  # stands where the first picture saw the wall
        (20.0, 18.0, (0, 0), 0.0, True),  # however little
        (20.0, 19.5, (0, 0), 0.0, False),  # less than two depths need to differ
        (20.0, 4.0, (3, 0), 0.0, False),  # that picture was redrawn more often
        (20.0, 4.0, (3, 3), 0.0, True),
        (20.0, 4.0, (0, 0), 90.0, False),  # it looked elsewhere
        (4.0, 20.0, (0, 0), 0.0, False),  # behind what it saw: it can not know
        (900.0, 400.0, (0, 0), 0.0, False),  # comes out of the haze
    ],
)
def test_what_a_picture_saw_through_is_not_remembered(
    wall: float, thing: float, ages: tuple[int, int], yaw: float, gone: bool
) -> None:
    kept = begin(frame(0, turned(yaw), d=1 / wall, age=ages[0])).kept
    seen = frame(8, turned(0, at=(0, 0, 1.0)), d=1 / (wall - 1), age=ages[1])
    seen.inverse_depth[0, 0, 60:100, 110:146] = 1 / (thing - 1)
    left = carved(seen, kept).inverse_depth
    expected = seen.inverse_depth.clone()
    if gone:
        expected[0, 0, 60:100, 110:146] = -1
    assert torch.equal(left, expected)


def test_what_stands_alone_is_not_remembered() -> None:
    kept, seen = begin(frame(0, turned(180))).kept, frame(8, turned(0), d=0.02)
    d = seen.inverse_depth
    d[0, 0, 20:140, 40:42] = 0.1  # a pole
    d[0, 0, 60:100, 100:140] = 0.1  # a thing
    d[0, 0, 110:114, 200:203] = 0.021  # ground that is not quite even
    d[0, 0, 20:24, 200:203] = 0.1
    expected = d.clone()
    expected[0, 0, 20:24, 200:203] = -1
    assert torch.equal(carved(seen, kept).inverse_depth, expected)


def test_sky_that_touches_a_thing_is_not_remembered() -> None:
    kept, seen = begin(frame(0, turned(180))).kept, frame(8, turned(0), d=0.0)
    seen.inverse_depth[0, 0, 40:, 100:120] = 0.1  # a trunk
    seen.inverse_depth[0, 0, 100:] = 0.004  # ground so far away that its outline stays where it is
    left, expected = carved(seen, kept).inverse_depth, seen.inverse_depth.clone()
    expected[0, 0, 38:100, 98:122] = -1
    expected[0, 0, 40:100, 100:120] = 0.1
    assert torch.equal(left, expected)


def test_nothing_draws_what_is_carved() -> None:
    seen = frame(0, turned(0))
    seen.inverse_depth[..., :128] = -1
    view = (turned(0)[:, None], LENS[:, None])
    out = warp(seen, *view)
    assert not out.mask[..., :128].any()
    assert out.mask[..., 129:].all()
    newer = frame(8, turned(0), age=3)
    both = Sources(
        **{f.name: torch.cat([getattr(x, f.name) for x in (seen, newer)], 1) for f in fields(Sources)}
    )
    out = warp(both, *view)
    assert out.mask.all()
    assert (out.generation[..., :128] == 4).all()
    assert (out.generation[..., 128:] == 1).all()


def test_a_full_memory_drops_what_others_show_and_keeps_the_first() -> None:
    K = MEMORY.keyframes
    yaws = [20.0 * i for i in range(1, K - 1)]  # every picture between two others is wholly shown by them
    memory = walk(*((8 * i, yaw) for i, yaw in enumerate(yaws, 1)))
    assert len(held(memory)) == K - 1
    assert held(insert(memory, frame(120, turned(21), d=0.0))) == held(memory), "shown already"
    memory = insert(memory, frame(120, turned(20.0 * (K - 1)), d=0.0))
    assert len(held(memory)) == K
    bytes_ = memory.bytes
    after = insert(memory, frame(400, turned(330), d=0.0))
    assert len(held(after)) == K
    assert set(held(memory)) - set(held(after)) == {8}, "the oldest of those that are missed least"
    for i in range(40):
        after = insert(after, frame(500 + 40 * i, turned(0, at=(100.0 * i, 0, 0)), d=0.1))
    assert held(after)[0] == 0
    assert 500 + 40 * 39 in held(after)
    assert after.bytes == bytes_ < 5e6


def test_recalled_channels() -> None:
    codec = Codec(CODEC).requires_grad_(False)
    memory = begin(frame(0, turned(0), age=3, d=0.0))
    got = recall(memory, *ahead(0), codec=codec)
    assert got.channels.shape == (1, memory_channels(CODEC), 1, 10, 16)
    assert memory_channels(POCKET_CODEC) == POCKET_MEMORY.memory_channels == 42
    assert (known_share(got.channels, CODEC) == 1).all()
    size, age = got.channels[0, -2:, 0]
    assert size.abs().max() < 1e-5
    assert torch.allclose(age, torch.full_like(age, 0.5))  # the fourth time it is drawn: two doublings
    away = recall(memory, *ahead(180), codec=codec)
    assert (away.channels[:, -10:] == 0).all()


def test_memory_channels_open_from_zero() -> None:
    torch.manual_seed(0)
    old = WorldModel(MODEL).eval()
    with torch.no_grad():
        for p in old.parameters():
            p.add_(0.05 * torch.randn_like(p))
    new = WorldModel(replace(MODEL, memory_channels=42)).eval()
    new.load_state_dict(with_memory(old.state_dict(), 42))
    x = torch.randn(2, 32, 3, 10, 16)
    a = old.x_embedder(x)
    b = new.x_embedder(torch.cat([x, 9 * torch.randn(2, 42, 3, 10, 16)], dim=1))
    assert (a - b).abs().max() <= 1e-6 * a.abs().max()


def engine(channels: int, *, sky: bool = True) -> Engine:
    torch.manual_seed(0)
    codec = Codec(replace(CODEC, sky=sky)).eval().requires_grad_(False)
    model = WorldModel(replace(MODEL, memory_channels=channels)).eval().requires_grad_(False)
    return Engine(WORLDS["pocket"], model=model, codec=codec)


def fly(made: Engine, chunks: int) -> list:
    lens = Intrinsics.from_fov(1.1, width=256, height=160)
    out = [made.start(hills(0), pose=Pose(), intrinsics=lens)]
    for i in range(chunks):
        poses = [Pose(t=np.array([0.0, 0.0, 0.1 * (8 * i + j + 1)])) for j in range(8)]
        out.append(made.step(out[-1].state, poses, intrinsics=lens))
    return out


def test_the_engine_remembers() -> None:
    made = engine(42)
    start, *rest = fly(made, 2)
    assert start.state.spatial is not None
    assert torch.equal(start.state.spatial.latest.rgb[0, 0], torch.from_numpy(hills(0)))
    last = rest[-1]
    assert last.timing["memory"] > 0
    assert last.state.spatial.latest.index.item() == 16
    assert np.array_equal(last.state.spatial.latest.rgb[0, 0].numpy(), last.frames[-1].pixels)
    assert last.state.spatial.latest.poses[0, 0, 2, 3].item() == pytest.approx(1.6)
    for part in (last.state.spatial.kept, last.state.spatial.latest):  # nothing but tensors: it can be saved
        assert all(isinstance(getattr(part, f.name), Tensor) for f in fields(part))
    with pytest.raises(ValueError, match="start the flight again"):
        made.step(replace(last.state, spatial=None), [Pose()] * 8, intrinsics=last.frames[0].intrinsics)


def told(seed: int = 0) -> np.ndarray:
    """[160, 256] fp16 of things and sky."""
    d = np.random.default_rng(seed).uniform(0.01, 2.0, (160, 256))
    return np.where(np.arange(160)[:, None] < 50, 0, d).astype(np.float16)


@pytest.mark.parametrize("sky", [True, False])
def test_a_flight_that_is_told_the_depth_of_its_picture_takes_it_as_it_is(sky: bool) -> None:
    """sky: whether the codec has a place for depth; one of the first form remembers it all the same."""
    made, lens = engine(42, sky=sky), Intrinsics.from_fov(1.1, width=256, height=160)
    begun = dict(pose=Pose(), intrinsics=lens)
    guessed = made.start(hills(0), **begun)
    known = made.start(hills(0), **begun, inverse_depth=told())
    other = made.start(hills(0), **begun, inverse_depth=told(1))
    assert guessed.frames[0].inverse_depth is None
    assert np.array_equal(known.frames[0].inverse_depth, told())
    for part in (known.state.spatial.latest, known.state.spatial.kept):
        assert np.array_equal(part.inverse_depth[0, 0].numpy(), told())
    assert not np.array_equal(guessed.state.spatial.latest.inverse_depth[0, 0].numpy(), told())
    latents = [chunk.state.latent for chunk in (guessed, known, other)]
    assert torch.equal(latents[0], latents[1]) is not sky
    assert torch.equal(latents[1], latents[2]) is not sky
    pixels = torch.from_numpy(hills(0)).movedim(-1, 0)[None].float() / 127.5 - 1
    by_hand = made.codec.encode_picture(pixels, torch.from_numpy(told())[None].float())
    assert torch.equal(by_hand, latents[1].to(by_hand.dtype))
    frames = made.step(known.state, [Pose()] * 8, intrinsics=lens).frames
    assert all(np.isfinite(frame.inverse_depth).all() for frame in frames)


def test_where_nobody_knows_the_depth_the_codec_guesses() -> None:
    made, lens = engine(42), Intrinsics.from_fov(1.1, width=256, height=160)
    unknown = np.arange(256) % 3 == 0
    part = np.where(unknown, np.float16(-1), told())
    begun = made.start(hills(0), pose=Pose(), intrinsics=lens, inverse_depth=part)
    remembered = begun.state.spatial.latest.inverse_depth[0, 0].numpy()
    assert np.array_equal(remembered[:, ~unknown], told()[:, ~unknown])
    assert (remembered >= 0).all()
    nothing = made.start(hills(0), pose=Pose(), intrinsics=lens, inverse_depth=np.full_like(part, -1))
    guessed = made.start(hills(0), pose=Pose(), intrinsics=lens)
    assert torch.equal(nothing.state.latent, guessed.state.latent)
    assert torch.equal(nothing.state.spatial.latest.inverse_depth, guessed.state.spatial.latest.inverse_depth)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (told()[:80], r"shape \(80, 256\)"),
        (told().astype(np.float32), "type float32"),
        (np.full((160, 256), np.nan, np.float16), "not finite"),
        (np.full((160, 256), np.inf, np.float16), "not finite"),
    ],
)
def test_a_depth_that_is_none_is_named(bad: np.ndarray, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        engine(42).start(
            hills(0),
            pose=Pose(),
            intrinsics=Intrinsics.from_fov(1.1, width=256, height=160),
            inverse_depth=bad,
        )


def test_worlds_without_memory_are_as_before() -> None:
    old = fly(engine(0), 2)
    assert old[-1].state.spatial is None
    assert set(old[-1].timing) == {"denoise", "decode"}
    with pytest.raises(ValueError, match="7 memory channels does not go with this codec, which makes 42"):
        engine(7)


def test_stored_config_decides(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "world.safetensors"
    save_module(path, WorldModel(MODEL), kind="world", config=as_record(MODEL))
    old = load_world(path, dtype=torch.float32, device=CPU)
    assert old.config.memory_channels == POCKET.memory_channels == 0
    wide = initial_model(replace(MODEL, memory_channels=42), path)
    assert torch.equal(wide.x_embedder.proj.weight[:, :32], old.x_embedder.proj.weight)
    assert not wide.x_embedder.proj.weight[:, 32:].any()
    save_module(path, wide, kind="world", config=as_record(wide.config))
    assert load_world(path, dtype=torch.float32, device=CPU).config.memory_channels == 42
    with pytest.raises(ValueError, match="42 memory channels and this run 0"):
        initial_model(MODEL, path)
