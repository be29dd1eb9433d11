"""Self-made context: flights as the generator makes them, what is learned from them, and what weighs nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from engine.conditioning import Conditioning, condition_clip
from engine.config import POCKET_MEMORY, ModelConfig
from engine.generator import Generator
from engine.model import WorldModel, beside
from engine.train.forcing import flow_loss
from engine.train.host import Host
from engine.train.long import LongTraining
from engine.train.pool import Batch
from engine.train.rollout import Flown, SelfMade, Shelf, each, firm_shares, fly_on, joined, with_true
from engine.train.run import RunOptions
from engine.train.world import Learner
from engine.warp import Warped
from tests.flights import GRID, SMALL, distance, random_model

FRAMES = 7
CPU = Host(device=torch.device("cpu"))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clips(count: int = 2, *, seed: int = 0) -> Batch:
    """Random latents along a path that turns and goes far enough for the anchor to move."""
    n = 1 + 8 * (FRAMES - 1)
    t = 0.5 * torch.arange(n)
    poses = torch.eye(4).repeat(count, n, 1, 1)
    poses[:, :, 2, 3] = t
    c, s = (0.1 * t).cos(), (0.1 * t).sin()
    poses[:, :, 0, 0], poses[:, :, 0, 2], poses[:, :, 2, 0], poses[:, :, 2, 2] = c, s, -s, c
    return Batch(
        latents=torch.randn(count, 6, FRAMES, *GRID, generator=seeded(seed)),
        poses=poses,
        intrinsics=torch.tensor([60.0, 60.0, 24.0, 16.0]).expand(count, n, 4),
        words=torch.randint(0, 5, (count, 3), generator=seeded(seed)),
    )


def camera(batch: Batch) -> Conditioning:
    return condition_clip(batch.poses, batch.intrinsics, grid=GRID, config=SMALL)


def learner() -> Learner:
    made = Learner(random_model(dtype=torch.float32).requires_grad_(True), RunOptions(), CPU)
    made.grid = GRID
    return made


def as_flown(made: torch.Tensor) -> Flown:
    return Flown(latents=made, memory=None, noise=made * 2, taught=None)


def own(batch: Batch, *, start: int, chunks: int, trust: float = 0.0) -> SelfMade:
    """Made-up flights, drawn from a shelf that holds just these."""
    shelf = Shelf()
    made = torch.randn(batch.latents.shape, generator=seeded(9))
    frame = torch.arange(FRAMES)
    inside = (frame >= start) & (frame < start + chunks)
    made = torch.where(inside[:, None, None], made, batch.latents)
    shelf.put(batch, as_flown(made), start=start, chunks=chunks)
    drawn, flown, _ = shelf.draw(len(made), generator=seeded(1), trust=trust)
    order = [int((drawn.latents == x).flatten(1).all(1).nonzero()) for x in batch.latents]
    return SelfMade(latents=flown.latents[order], made=flown.made, before=flown.before, trust=flown.trust)


def test_a_flight_is_what_the_generator_makes() -> None:
    model, batch = random_model(dtype=torch.float32), clips()
    made = fly_on(Generator(model), batch, start=1, chunks=4, generator=seeded(3)).latents
    flyer, cond, noise = Generator(model), camera(batch), seeded(3)
    _, state = flyer.start(batch.latents[:, :, 0], text=batch.words, cond=cond.part(0, 1), seed=0)
    for i in range(1, 5):
        drawn = torch.randn(2, 6, 1, *GRID, generator=noise)
        latents, state = flyer.step(state, cond=cond.part(i, i + 1), noise=drawn)
        assert distance(made[:, :, i], latents[:, :, 0]) < 1e-5
    assert torch.equal(made[:, :, [0, 5, 6]], batch.latents[:, :, [0, 5, 6]])
    assert not made.requires_grad
    assert not made.is_inference()


def wide(config: ModelConfig, grid: tuple[int, int], frames: int) -> Batch:
    """Clips as `clips`, of another model, with a made-up memory."""
    batch, n = clips(), 1 + 8 * (frames - 1)
    more = n // batch.poses.shape[1] + 1
    return replace(
        batch,
        latents=torch.randn(2, config.latent_channels, frames, *grid, generator=seeded(8)),
        memory=torch.randn(2, config.memory_channels, frames, *grid, generator=seeded(9)),
        poses=batch.poses.repeat(1, more, 1, 1)[:, :n],
        intrinsics=batch.intrinsics.repeat(1, more, 1)[:, :n],
        words=torch.randint(0, config.words, (2, config.caption_tokens), generator=seeded(7)),
    )


def both(model: WorldModel, batch: Batch, chunks: int) -> tuple[Flown, Flown, tuple[Generator, Generator]]:
    """The same flights as they are and at once, student and teacher; and who made them at once."""
    student, teacher = (Generator(model, levels=levels, fast=True) for levels in (None, (1.0, 0.7, 0.3)))

    def flown(flyer: Generator, watcher: Generator) -> Flown:
        dice = torch.Generator(batch.latents.device).manual_seed(3)
        return fly_on(flyer, batch, start=1, chunks=chunks, generator=dice, teacher=watcher, gap=2)

    plain = flown(Generator(model), Generator(model, levels=teacher.levels))
    return plain, flown(student, teacher), (student, teacher)


def test_flights_at_once_are_the_same_flights() -> None:
    """Beyond the window, where a chunk finds the shapes that it leaves."""
    config = replace(SMALL, window=2, memory_channels=3)
    batch = wide(config, GRID, FRAMES)
    plain, fast, makers = both(random_model(config), batch, FRAMES - 1)
    assert all(m.steady is not None for m in makers)
    assert plain.taught is not None
    assert fast.taught is not None
    assert distance(fast.latents, plain.latents) < 1e-6
    assert distance(fast.taught, plain.taught) < 1e-6
    unknown = replace(batch, memory=None)
    blind, fast, _ = both(random_model(config), unknown, FRAMES - 1)
    assert distance(fast.latents, blind.latents) < 1e-6
    assert distance(blind.latents, plain.latents) > 1e-2


@pytest.mark.gpu
def test_flights_captured_are_the_same_flights() -> None:
    """In one graph each for what the student flies, what the teacher shows and what it is told."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    frames, model = 14, random_model(POCKET_MEMORY, dtype=torch.float32).to("cuda")
    batch = each(wide(POCKET_MEMORY, (10, 16), frames), lambda x: x.cuda())
    plain, fast, makers = both(model, batch, frames - 1)
    assert all(m.steady is not None and m.steady.captured == 1 for m in makers)
    assert plain.taught is not None
    assert fast.taught is not None
    assert distance(fast.latents, plain.latents) < 1e-3
    assert distance(fast.taught, plain.taught) < 1e-3


def test_a_flight_continues_frames_that_are_committed_one_by_one() -> None:
    model, batch = random_model(dtype=torch.float64), clips()
    made = fly_on(Generator(model), batch, start=3, chunks=1, generator=seeded(3)).latents
    cond, flyer = camera(batch), Generator(model)
    _, state = flyer.start(batch.latents[:, :, 0], text=batch.words, cond=cond.part(0, 1), seed=0)
    for i in (1, 2):
        with torch.inference_mode():
            _, blocks = model(
                batch.latents[:, :, i : i + 1].double(),
                timestep=torch.zeros(2, 1),
                text=state.text,
                text_mask=None,
                cond=cond.part(i, i + 1),
                past=state.blocks,
            )
        state = replace(state, blocks=blocks, frame=i + 1)
    latents, _ = flyer.step(
        state, cond=cond.part(3, 4), noise=torch.randn(2, 6, 1, *GRID, generator=seeded(3))
    )
    assert distance(made[:, :, 3], latents[:, :, 0]) < 1e-5


def test_without_flights_it_is_plain_diffusion_forcing() -> None:
    batch, trained = clips(), learner()

    def loss(made: SelfMade | None) -> float:
        return float(trained.loss(batch, corrupt=False, generator=seeded(5), own=made).detach())

    assert loss(own(batch, start=0, chunks=0)) == pytest.approx(loss(None), rel=1e-6)
    assert loss(own(batch, start=2, chunks=4)) != pytest.approx(loss(None), rel=1e-3)


def test_what_is_not_true_weighs_nothing_and_is_given_clean() -> None:
    batch = clips(64)
    flown = with_true(own(batch, start=2, chunks=4), clips(8, seed=4))
    both = joined(batch, clips(8, seed=4))
    levels, weights = torch.full((72, FRAMES), 0.3), torch.full((72, FRAMES), 0.7)
    x, after, cells = flown.given(both.latents, levels, weights, generator=seeded(2))
    replaced = (x != both.latents).flatten(3).any(-1).any(1)
    assert replaced.any()
    assert (cells[replaced] == 0).all()
    assert (after[replaced] == 0).all()
    assert not replaced[:, [0, 1, 6]].any()  # true beginning, true end
    assert (after[:64, :2] == 0).all()
    assert (cells[:64, :2] == 0).all()
    assert (cells[:64, 5] == 1).all()  # the last frame of a flight is always learned
    learned = ~replaced[:64, 2:6]
    assert 0.2 < learned[:, :3].float().mean() < 0.45
    assert (after[:64, 2:6][learned] > 0).all()
    given = torch.where(replaced[:, None, :, None, None], flown.latents, both.latents)
    assert torch.equal(x, given)
    for now in (after[64:], after[:64, 6]):
        assert (now == 0.3).all()
    assert torch.allclose(cells[64:], torch.tensor(0.7))


def test_estimates_of_the_first_stage_weigh_nothing_either() -> None:
    batch, trained = clips(32), learner()
    weights = (torch.rand(32, FRAMES, generator=seeded(1)) < 0.5).float()
    words = batch.words
    x, after = trained.corrupted(batch.latents, weights, words, camera(batch), seeded(0))
    replaced = (x != batch.latents).flatten(3).any(-1).any(1)
    assert replaced.any()
    assert (after[replaced] == 0).all()
    assert torch.equal(after[~replaced], weights[~replaced])


def test_the_truth_is_trusted_where_the_flight_kept_to_it() -> None:
    batch = clips()
    flown = own(batch, start=1, chunks=5, trust=2.0)
    trust = flown.trusted(batch.latents)
    b, f, y, x = 1, 3, 0, 2
    off = float((flown.latents[b, :, f, y, x] - batch.latents[b, :, f, y, x]).square().mean())
    assert float(trust[b, f, y, x]) == pytest.approx(1 / (1 + (off / 4) ** 2), rel=1e-5)
    assert (trust[:, [0, 6]] == 1).all()
    assert (replace(flown, trust=0.0).trusted(batch.latents) == 1).all()


def test_weights_of_cells_are_weights_of_frames_where_all_are_equal() -> None:
    flow, clean, noise = (torch.randn(3, 6, 5, *GRID, generator=seeded(i)) for i in range(3))
    weights = torch.rand(3, 5, generator=seeded(7))
    error = (flow - noise + clean).square().mean(dim=(1, 3, 4)).double()
    expected = float((error * weights).sum() / weights.sum())
    for w in (weights, weights[..., None, None].expand(3, 5, *GRID)):
        loss = flow_loss(flow, clean=clean, noise=noise, weights=w)
        assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert float(flow_loss(flow, clean=clean, noise=noise, weights=torch.zeros(3, 5))) == 0


def test_the_shelf_draws_clips_with_their_flights_and_comes_back_from_disk() -> None:
    batch = clips(8)
    shelf, again = Shelf(), Shelf()
    with pytest.raises(RuntimeError, match="empty"):
        shelf.draw(1, generator=seeded(0), trust=0.0)
    again.load_state_dict(shelf.state_dict())
    assert again.batch is None
    shelf.put(batch, as_flown(batch.latents + 1), start=2, chunks=3, gap=2)
    again.load_state_dict(shelf.state_dict())
    assert again.taught == [2, 4]
    drawn, flown, source = again.draw(5, generator=seeded(0), trust=0.0)
    assert torch.equal(flown.latents, drawn.latents + 1)
    assert torch.equal(source.noise, 2 * flown.latents)
    assert len({float(x) for x in drawn.latents[:, 0, 0, 0, 0]}) == 5
    assert flown.made[0].tolist() == [False, False, True, True, True, False, False]
    assert torch.equal(drawn.poses, batch.poses[:5])


def test_a_teacher_of_the_same_weights_and_levels_makes_what_was_flown() -> None:
    model, batch = random_model(dtype=torch.float32), clips()
    flown = fly_on(Generator(model), batch, start=2, chunks=4, generator=seeded(3), teacher=Generator(model))
    assert flown.taught is not None
    assert distance(flown.taught, flown.latents) < 1e-5
    other = Generator(model, levels=(1.0,))
    flown = fly_on(Generator(model), batch, start=2, chunks=4, generator=seeded(3), teacher=other)
    assert flown.taught is not None
    assert distance(flown.taught[:, :, 2:6], flown.latents[:, :, 2:6]) > 1e-3
    every = fly_on(Generator(model), batch, start=2, chunks=4, generator=seeded(3), teacher=other, gap=3)
    assert every.taught is not None
    assert torch.equal(every.taught[:, :, [2, 5]], flown.taught[:, :, [2, 5]])
    assert torch.equal(every.taught[:, :, [3, 4]], batch.latents[:, :, [3, 4]])  # nobody was asked
    first = seeded(3)
    noise = torch.randn(2, 6, 1, *GRID, generator=first)
    assert torch.equal(flown.noise[:, :, 2:3], noise)
    assert not flown.noise[:, :, [0, 1, 6]].any()


def test_a_part_of_the_flights_has_its_own_cameras_and_begins_with_given_frames() -> None:
    batch, shelf = clips(3), Shelf()
    batch = replace(batch, memory=torch.rand(3, 2, FRAMES, *GRID, generator=seeded(2)))
    shelf.put(batch, as_flown(batch.latents + 1), start=2, chunks=4)
    assert shelf.cut(0, FRAMES) is shelf
    part = shelf.cut(1, 6)
    drawn, own_, source = part.draw(3, generator=seeded(0), trust=0.0)
    order = torch.randperm(3, generator=seeded(0))
    assert torch.equal(drawn.latents, batch.latents[order, :, 1:7])
    assert torch.equal(own_.latents, drawn.latents + 1)
    assert torch.equal(source.noise, 2 * own_.latents)
    assert torch.equal(drawn.poses, batch.poses[order, 8:49])
    assert drawn.memory is not None
    assert batch.memory is not None
    assert torch.equal(drawn.memory, batch.memory[order, :, 1:7])
    assert own_.made[0].tolist() == [False, False, False, False, True, False]  # frame 6 was not flown
    front = shelf.cut(0, 4).draw(3, generator=seeded(0), trust=0.0)[1]
    assert front.made[0].tolist() == [False, False, True, True]


def test_batches_join_and_memory_goes_beside_the_latents() -> None:
    a, b = clips(2), clips(3, seed=1)
    assert joined(a, b).latents.shape[0] == 5
    assert torch.equal(each(a, lambda x: x[1:]).words, a.words[1:])
    assert beside(a.latents, None, SMALL) is a.latents
    wide = replace(SMALL, memory_channels=4)
    assert beside(a.latents, None, wide).shape[1] == 10
    memory = torch.ones(2, 4, FRAMES, *GRID)
    assert torch.equal(beside(a.latents, memory, wide)[:, 6:], memory)


def test_flights_grow_and_impossible_options_are_named() -> None:
    o = LongTraining(rollout=(4, 20), grown=0.5)
    assert [o.length(f) for f in (0, 0.25, 0.5, 1.0)] == [4, 12, 20, 20]
    with pytest.raises(ValueError, match=r"begin=\(1, 25\)"):
        LongTraining(begin=(1, 25))
    with pytest.raises(ValueError, match="flights=8"):
        LongTraining(flights=8)


def test_memory_decides_sky_and_what_is_near_and_settles_of_it_what_is_crisp() -> None:
    """A made-up view of 4 × 4 cells of 4 pixels: sky above a far ridge, a near plain, of it cells stretched, worn, unknown."""
    depth, size, mask = torch.zeros(1, 2, 16, 16), torch.ones(1, 2, 16, 16), torch.ones(1, 2, 16, 16)
    age = torch.zeros(1, 2, 16, 16, dtype=torch.uint8)
    age[:, :, 12:, 4:8] = 4  # cell (3, 1)
    depth[:, :, 4:8, :4] = 1 / 200  # the ridge: cell (1, 0)
    depth[:, :, 8:] = 1 / 10
    size[:, :, 12:, 8:12] = 2.0  # cell (3, 2)
    mask[:, 1, 12:, 12:] = 0  # cell (3, 3), in one of two views
    seen = Warped(
        rgb=torch.zeros(1, 2, 16, 16, 3, dtype=torch.uint8),
        mask=mask.to(torch.uint8),
        magnification=size * mask,
        generation=age,
        inverse_depth=depth * mask,
    )
    decided, settled = firm_shares(seen, stride=4)[0]
    expected = torch.ones(4, 4)
    expected[:3, :2] = 0  # the ridge and the cells around it
    expected[3, 3] = 0.5
    assert torch.equal(decided, expected)
    expected[3, 1:3] = 0
    assert torch.equal(settled, expected)
