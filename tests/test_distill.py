"""Distillation: frames made anew as in flight, a judge that keeps the spread, runs that resume."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from engine.checkpoint import read_config, save_module
from engine.conditioning import condition_clip
from engine.config import as_record
from engine.dream import LEVELS
from engine.generator import Generator
from engine.model import Block, WorldModel
from engine.train.distill import GAP, DistillRun, DistillTraining, Look, health
from engine.train.host import Host
from engine.train.judge import (
    BANDS,
    KNEE,
    Judge,
    blended,
    distance,
    roughness,
    single,
    single_cameras,
    style,
)
from engine.train.long import LongRun, LongTraining, RolloutOptions, stored_world
from engine.train.loop import Loop, Plan
from engine.train.losses import hinge_fool, hinge_judge
from engine.train.rollout import Flown, each, fly_on
from engine.train.world import compilers
from engine.values import take_apart
from explorer.app import main
from tests.flights import distance as relative
from tests.flights import random_model
from tests.test_rollout import camera, clips, seeded
from tests.tiny import MODEL, tiny_assets

CPU = Host(device=torch.device("cpu"))


@pytest.fixture(scope="module")
def pocket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_assets(tmp_path_factory.mktemp("assets"), scenes=1) / "pocket"
    model = WorldModel(replace(MODEL, dim=40, depth=2))
    save_module(folder / "world.safetensors", model, kind="world", config=as_record(model.config))
    return folder


def small(pocket: Path, out: Path) -> dict[str, object]:
    return dict(
        out=out,
        codec=pocket / "codec.safetensors",
        init=pocket / "world.safetensors",
        steps=3,
        batch=2,
        pool=4,
        chunks=3,
        frames=4,
        begin=(1, 2),
        flights=2,
        fly_every=2,
        fresh_every=0,
        device="cpu",
    )


class Latents:
    """Fills the pool with random latents in place of rendered ones, and can be interrupted."""

    interrupt_at = -1

    def fill(self) -> None:
        self.make_up()  # type: ignore[attr-defined]
        for x in (self.pool.moving, self.pool.still):  # type: ignore[attr-defined]
            x.copy_(torch.randn(x.shape, generator=seeded(0)))

    def step(self, step: int, fraction: float) -> Mapping[str, Tensor]:
        losses = super().step(step, fraction)  # type: ignore[misc]
        if step == self.interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)
        return losses


class Long(Latents, LongRun):
    pass


class Distill(Latents, DistillRun):
    pass


def run(
    kind: type[Long] | type[Distill], options: RolloutOptions, *, interrupt_at: int = -1
) -> Long | Distill:
    made = kind(options, CPU)  # type: ignore[arg-type]
    made.interrupt_at = interrupt_at
    made.fill()
    plan = Plan(out=options.out, name=made.name, minutes=1, steps=options.steps)
    Loop(plan, CPU, made.parts()).run(made.step)
    return made


@pytest.mark.parametrize("kind", [LongRun, DistillRun])
def test_what_is_compiled_beside_is_what_a_run_calls(
    kind: type[LongRun] | type[DistillRun], pocket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of the same kinds are called with tensors of the same shapes, which is what compiled code is kept by."""

    def called(run: LongRun | DistillRun, parts: Sequence[Callable[[], object]]) -> set[Hashable]:
        seen: set[Hashable] = set()
        forward = Block.forward

        def spied(self: Block, x: Tensor, **given: Any) -> Any:
            leaves: list[Tensor] = [x]
            key = take_apart(tuple(v for n, v in given.items() if n != "layout"), leaves)
            grad = torch.is_grad_enabled(), x.requires_grad
            seen.add((type(self.attn), tuple(x.shape), x.dtype, key, grad))
            return forward(self, x, **given)

        with monkeypatch.context() as patch:
            patch.setattr(Block, "forward", spied)
            for part in parts:
                part()
        return seen

    given = small(pocket, tmp_path) | dict(chunks=7, frames=5, fly_every=2, flights=3)
    more = dict(rollout=6, firsts=2) if kind is DistillRun else dict(rollout=(6, 6))
    options = (DistillTraining if kind is DistillRun else LongTraining)(**given, **more)  # type: ignore[arg-type]
    going, beside = kind(options, CPU), kind(replace(options, warm_only=True), CPU)  # type: ignore[arg-type]
    assert len(beside.model.blocks) <= len(going.model.blocks)
    going.make_up()
    steps = range(2 if kind is DistillRun else 1)  # the second is about first pictures
    needed = called(going, [partial(going.step, step, 0.9) for step in steps])
    compiled = called(beside, beside.warmings())
    assert needed <= compiled, needed - compiled


def test_processes_beside_come_to_an_end(pocket: Path, tmp_path: Path) -> None:
    options = DistillTraining(**small(pocket, tmp_path), rollout=2)  # type: ignore[arg-type]
    processes = compilers(DistillRun(options, CPU))
    assert len(processes) == 4
    for process in processes:
        process.join(120)
        assert process.exitcode == 0


@pytest.mark.parametrize("kind", [Long, Distill])
def test_resumed_equals_uninterrupted(kind: type[Long] | type[Distill], pocket: Path, tmp_path: Path) -> None:
    def options(name: str) -> RolloutOptions:
        given = small(pocket, tmp_path / name)
        if kind is Long:
            return LongTraining(**given, rollout=(1, 2))  # type: ignore[arg-type]
        return DistillTraining(**given, rollout=2, firsts=2)  # type: ignore[arg-type]

    straight = run(kind, options("a"))
    with pytest.raises(SystemExit):
        run(kind, options("b"), interrupt_at=0)  # between two flights
    resumed = run(kind, options("b"))
    for name, part in straight.model.state_dict().items():
        assert torch.equal(part, resumed.model.state_dict()[name]), name
    for name, part in straight.ema.module.state_dict().items():
        assert torch.equal(part, resumed.ema.module.state_dict()[name]), name
    before = stored_world(pocket / "world.safetensors").state_dict()
    assert any(not torch.equal(before[n], p) for n, p in straight.model.state_dict().items())


def test_frames_made_anew_are_those_of_a_flight(pocket: Path, tmp_path: Path) -> None:
    """The dense pass with gradient against the chunk loop, for the first of the frames; the others stay the flight."""
    torch.manual_seed(0)
    student = Distill(DistillTraining(**small(pocket, tmp_path), rollout=2), CPU)  # type: ignore[arg-type]
    with torch.no_grad():
        for p in student.model.parameters():
            p.add_(0.03 * torch.randn_like(p))
    student.fill()
    batch = student.pool.draw(2, 4, generator=seeded(0))
    batch = replace(batch, words=torch.zeros_like(batch.words))
    flown = fly_on(Generator(student.model), batch, start=1, chunks=2, generator=seeded(1))
    student.shelf.put(batch, flown, start=1, chunks=2)
    drawn, own, flown = student.shelf.draw(2, generator=seeded(0), trust=1.0)
    cond = condition_clip(drawn.poses, drawn.intrinsics, grid=(10, 16), config=student.model.config)
    x = student.made(drawn, own, flown, [2], cond, seeded(4))
    drawn_noise = flown.noise[:, :, 2:3].float()
    flyer = Generator(student.model)
    _, state = flyer.start(own.latents[:, :, 0].float(), text=drawn.words, cond=cond.part(0, 1), seed=0)
    with torch.inference_mode():
        _, blocks = student.model(
            own.latents[:, :, 1:2].float(),
            timestep=torch.zeros(2, 1),
            text=state.text,
            text_mask=None,
            cond=cond.part(1, 2),
            past=state.blocks,
        )
    state = replace(state, blocks=blocks, frame=2)
    latents, _ = flyer.step(state, cond=cond.part(2, 3), noise=drawn_noise)
    assert relative(x[:, :, 2].detach(), latents[:, :, 0]) < 1e-4
    assert torch.equal(x[:, :, [0, 1, 3]], own.latents[:, :, [0, 1, 3]].float())
    assert not own.latents.requires_grad
    x[:, :, [0, 1, 3]].sum().backward(retain_graph=True)
    grads = [p.grad for p in student.model.parameters() if p.grad is not None]
    assert all(not g.any() for g in grads)
    x.sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in student.model.final_layer.linear.parameters())


def test_first_pictures_are_those_that_words_make(pocket: Path, tmp_path: Path) -> None:
    """The sampler with gradient against the one that draws, under half of the words of what is true."""
    student = Distill(DistillTraining(**small(pocket, tmp_path)), CPU)  # type: ignore[arg-type]
    student.fill()
    student.pool.words[:] = torch.randint(1, 40, student.pool.words.shape, generator=seeded(1))
    batch, cond, noise = student.beginnings(seeded(0))
    assert batch.latents.shape == noise.shape == (12, *student.pool.moving.shape[2:3], 1, 10, 16)
    told = (batch.words > 0).float().mean()
    assert 0.3 < told < 0.7
    made = student.made_first(batch.words, cond, noise)
    drawn = Generator(student.model, levels=LEVELS).first(noise, text=batch.words, cond=cond)
    assert relative(made.detach(), drawn) < 1e-4
    made.sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in student.model.final_layer.linear.parameters())


def test_every_so_many_steps_one_is_about_first_pictures_before_a_judge_of_their_own(
    pocket: Path, tmp_path: Path
) -> None:
    student = Distill(DistillTraining(**small(pocket, tmp_path), firsts=3), CPU)  # type: ignore[arg-type]
    student.fill()
    assert student.court_of_firsts is not None
    courts = student.court, student.court_of_firsts
    for about in ("flights", "flights", "firsts"):
        before = [[p.clone() for p in court.judge.parameters()] for court in courts]
        losses = student.step({"flights": 0, "firsts": 2}[about], 0.5)
        moved = [
            any(not torch.equal(a, b) for a, b in zip(old, court.judge.parameters(), strict=True))
            for old, court in zip(before, courts, strict=True)
        ]
        assert moved == [about == "flights", about == "firsts"]
        assert all(name.startswith("first ") == (about == "firsts") for name in losses)
        assert all(torch.isfinite(value) for value in losses.values())


def test_every_part_of_a_flight_holds_frames_that_the_teacher_was_asked_for(
    pocket: Path, tmp_path: Path
) -> None:
    given = small(pocket, tmp_path) | dict(chunks=12, frames=8)
    student = Distill(DistillTraining(**given, rollout=8), CPU)  # type: ignore[arg-type]
    student.fill()
    batch = student.pool.draw(2, 13, generator=seeded(0))
    flown = Flown(latents=batch.latents, memory=None, noise=batch.latents, taught=batch.latents)
    starts = {student.part(step) for step in range(200)}
    assert starts == {0, 1, 2}  # from there on four are given, and of three that were made one is taught
    for begun in (1, 2):
        student.shelf.put(batch, flown, start=begun, chunks=8, gap=student.gap)
        for at in starts:
            part = student.shelf.cut(at, 8)
            made = range(part.start, part.start + part.chunks)
            assert part.taught
            assert set(part.taught) <= set(made)
            assert all((frame + at - begun) % GAP == 0 for frame in part.taught)
            assert all(b - a == GAP for a, b in pairwise(part.taught))


def test_the_judge_always_sees_as_many_frames_each_as_often(pocket: Path, tmp_path: Path) -> None:
    student = Distill(DistillTraining(**small(pocket, tmp_path), rollout=2), CPU)  # type: ignore[arg-type]
    assert student.shown(3, 1) == [0] * 6
    assert student.shown(3, 4) != student.shown(4, 4)
    for count in (3, 4, 6, 11):
        shown = student.shown(count, count)
        assert len(shown) == 6
        most, least = max(map(shown.count, shown)), min(map(shown.count, shown))
        assert most - least <= 1
        assert len(set(shown)) == min(count, 6)


def test_kinds_of_frames_are_judged_at_once_as_they_are_alone() -> None:
    batch, judge = clips(2), Judge(random_model(dtype=torch.float32))
    look = Look(batch, [2, 5], camera(batch), seeded(1))
    true = single(batch.latents, [2, 5])
    both = look(judge, true, true + 1)
    for x, scores in zip((true, true + 1), both, strict=True):
        assert relative(scores.detach(), look(judge, x)[0].detach()) < 1e-5
    assert relative(both[0].detach(), both[1].detach()) > 1e-3


def test_the_judge_sees_single_frames_with_their_cameras() -> None:
    batch, judge = clips(2), Judge(random_model(dtype=torch.float32))
    cond, frames = camera(batch), [2, 5]
    x, cameras = single(batch.latents, frames), single_cameras(cond, frames)
    words, levels = batch.words.repeat_interleave(2, 0), torch.tensor([0.0, 0.1, 0.2, 0.3])
    scores = judge(x, levels=levels, words=words, cond=cameras)
    assert scores.shape == (4, 2, 3)
    lone = judge(
        batch.latents[1:, :, 2:3],
        levels=levels[2:3],
        words=batch.words[1:],
        cond=single_cameras(camera(each(batch, lambda x: x[1:])), [2]),
    )
    assert relative(scores[2:3].detach(), lone.detach()) < 1e-4
    assert torch.equal(x[3, :, 0], batch.latents[1, :, 5])
    scores.sum().backward()
    assert all(p.grad is not None for p in judge.trunk.final_layer.parameters())


def test_the_pull_of_the_truth_is_bounded() -> None:
    true = torch.zeros(2, 4, 1, 1, 1)
    made = torch.stack([torch.full((4, 1, 1, 1), 0.01), torch.full((4, 1, 1, 1), 50.0)]).requires_grad_()
    loss = distance(made, true, torch.ones(2, 1, 1, 1))
    expected = [(e * e + KNEE**2) ** 0.5 - KNEE for e in (0.01, 50.0)]
    loss.backward()
    assert float(loss.detach()) == pytest.approx(sum(expected) / 2, rel=1e-4)
    assert made.grad is not None
    near, far = (float(g.norm()) for g in made.grad)
    assert far == pytest.approx(0.5 * 0.5, rel=1e-3)  # 1 / (2 cells) of a unit vector over √4 channels
    assert near == pytest.approx(far * 0.01 / (0.01**2 + KNEE**2) ** 0.5, rel=1e-3)


def test_style_says_what_a_stretch_looks_like_and_not_what_is_where() -> None:
    clips = torch.randn(2, 3, 4, 10, 16, generator=seeded(0), dtype=torch.float64)  # [N, C, F, h, w]
    have = style(single(clips, range(4)), frames=4)
    for band in range(BANDS):
        cells = clips[:, :, :, 2 * band : 2 * band + 2].flatten(2).numpy()
        assert np.allclose(have[:, :3, band], cells.mean(-1))
        assert np.allclose(have[:, 3:, band], np.sqrt(cells.var(-1) + 1e-4))

    moved = clips.flip(2).roll(5, dims=4)
    assert torch.allclose(style(single(moved, range(4)), frames=4), have)
    pink = clips.clone()
    pink[1, 2, :, 6:] += 0.5  # the ground of one flight
    off = style(single(pink, range(4)), frames=4) - have
    assert torch.allclose(off[1, 2, 3:], torch.full((2,), 0.5, dtype=torch.float64))
    assert float(off.abs().sum()) == pytest.approx(1.0)


def test_two_gradients_become_one() -> None:
    pull, push = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 0.001])
    assert torch.allclose(blended(pull, push, 0.5), torch.tensor([3.0, 1.5]))
    assert torch.equal(blended(pull, torch.zeros(2), 0.5), pull)


def gaussian_student(share: float) -> tuple[float, float]:
    """Train x = a + b z on truth ~ N(2, 1) that z says nothing about. Returns mean and spread of x."""
    torch.manual_seed(0)
    student = nn.Linear(1, 1)
    judge = nn.Sequential(nn.Linear(2, 32), nn.SiLU(), nn.Linear(32, 1))

    def look(x: Tensor) -> Tensor:
        score: Tensor = judge(torch.cat((x, x.square() / 4), dim=1))
        return score

    learn = torch.optim.AdamW(student.parameters(), lr=0.02, betas=(0.5, 0.95), weight_decay=0.0)
    criticise = torch.optim.AdamW(judge.parameters(), lr=0.04, betas=(0.5, 0.95), weight_decay=0.0)
    seen = []
    for i in range(500):
        made, true = student(torch.randn(256, 1)), 2 + torch.randn(256, 1)
        criticise.zero_grad()
        hinge_judge(look(true), look(made.detach())).backward()
        criticise.step()
        leaf = made.detach().requires_grad_()
        (pull,) = torch.autograd.grad(distance(leaf, true, torch.ones(256)), leaf)
        (push,) = torch.autograd.grad(hinge_fool(look(leaf)), leaf)
        learn.zero_grad()
        made.backward(blended(pull, push, share))
        learn.step()
        if i >= 300:
            seen.append((float(student.bias.detach()), float(student.weight.detach().abs())))
    mean, spread = torch.tensor(seen).mean(0)
    return float(mean), float(spread)


def test_regression_alone_collapses_and_the_judge_keeps_the_spread() -> None:
    mean, spread = gaussian_student(0.0)
    assert abs(mean - 2) < 0.2
    assert spread < 0.15
    mean, spread = gaussian_student(1.0)
    assert abs(mean - 2) < 0.1
    assert 0.8 < spread < 1.2  # the truth's is 1


def test_health_is_one_for_the_truth_and_falls_with_blur() -> None:
    true = torch.randn(8, 3, 1, 10, 16, generator=seeded(0))
    assert all(float(v) == pytest.approx(1.0) for v in health(true, true).values())
    flat = true.clone()
    flat[:, 1] = 0
    assert float(health(flat, true)["narrowest"]) == 0
    blurred = nn.functional.avg_pool2d(true[:, :, 0], 3, 1, 1).unsqueeze(2)
    assert float(health(blurred, true)["roughness"]) < 0.6
    ramp = torch.arange(16.0).expand(10, 16)
    assert float(roughness(ramp)) == 0


def test_levels_must_fall_from_noise(tmp_path: Path) -> None:
    for levels in ((), (0.9,), (1.0, 1.0), (1.0, 0.0)):
        with pytest.raises(ValueError, match="levels"):
            DistillTraining(levels=levels)


@pytest.mark.slow  # renders on the CPU
@pytest.mark.parametrize("stage", ["long", "distill"])
def test_the_command_trains_exports_and_measures(stage: str, pocket: Path, tmp_path: Path) -> None:
    length = ["--rollout", "1", "1"] if stage == "long" else ["--rollout", "1", "--levels", "1.0", "0.5"]
    words = (
        f"train {stage} --codec {pocket}/codec.safetensors --init {pocket}/world.safetensors --out {tmp_path} "
        "--steps 1 --batch 2 --pool 1 --chunks 2 --frames 3 --begin 1 1 --flights 2 --fly-every 1 "
        "--fresh-every 0 --held-out 1 --measure-chunks 1 --device cpu"
    )
    assert main([*words.split(), *length]) == 0
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {
        f"{stage}.pt",
        f"{stage}.jsonl",
        "world.safetensors",
        "world.json",
        "sheet.png",
        "flights.png",
    }
    levels = [1.0, 0.5] if stage == "distill" else [1.0, 0.6]
    assert read_config(tmp_path / "world.safetensors", kind="world")["levels"] == levels
    report = json.loads((tmp_path / "world.json").read_text())
    assert report["levels"] == levels
    assert report["chunks"]["1"]["psnr"] > 0


def test_weights_that_are_not_there_are_named(
    pocket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"train long --codec {pocket}/codec.safetensors --init {tmp_path}/none.safetensors --device cpu"
    assert main(words.split()) == 2
    assert "none.safetensors" in capsys.readouterr().err
