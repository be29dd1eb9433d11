"""`explorer evaluate` over the fixed set, with small pictures and random weights: all stages, resumed, and its mistakes."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch

from engine.checkpoint import save_module
from engine.codec import Codec, load_codec
from engine.config import as_record
from engine.engine import load_world
from engine.evaluate import fly, measure_rollouts, rollout, seen_first, warp_only
from engine.measure.command import _key, found, measured, shared
from engine.measure.evaluation import Evaluation
from engine.measure.film import film, show
from engine.measure.frechet import moments
from engine.measure.paths import BACK, DWELL, Flight, plan
from engine.measure.publish import published, weights_hash
from engine.measure.report import Row, frechet_by_biome
from engine.measure.scores import Record, revisit
from engine.model import WorldModel
from engine.train.codec_report import to_float
from engine.train.data import HELD_OUT
from engine.worlds.renderer import Renderer
from tests.tiny import CODEC, MODEL

CPU = torch.device("cpu")
SMALL = dataclasses.replace(CODEC, width=32, height=32)
REMEMBERS = dataclasses.replace(MODEL, depth=2, memory_channels=42)


def weights(folder: Path, *, memory: bool = True) -> Path:
    torch.manual_seed(0)
    config = REMEMBERS if memory else MODEL
    for kind, module, told in (("codec", Codec(SMALL), SMALL), ("world", WorldModel(config), config)):
        save_module(folder / f"{kind}.safetensors", module, kind=kind, config=as_record(told))
    return folder


@pytest.fixture(scope="module")
def flights() -> list[Flight]:
    """Through one world, cut after 21 s."""
    whole = plan(Renderer("cpu"), HELD_OUT[0])
    return [dataclasses.replace(f, poses=f.poses[:337], intrinsics=f.intrinsics[:337]) for f in whole]


def test_flights_are_measured_kept_and_not_flown_again(
    flights: list[Flight], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = Evaluation(out=tmp_path / "out", assets=weights(tmp_path), batch=2)
    model = load_world(tmp_path / "world.safetensors", dtype=torch.float32, device=CPU)
    codec = load_codec(tmp_path / "codec.safetensors")
    said: list[str] = []
    known = measured(flights, options, model, codec, CPU, said.append)
    report = published(
        flights,
        known,
        out=options.out,
        assets=tmp_path,
        seed=options.seed,
        told=options.told,
        levels=[1.0, 0.6],
        device=CPU,
    )
    for stage in ("rendering", "flying", "flying without memory", "measuring"):
        assert any(stage in words for words in said), stage
    written = json.loads((options.out / "evaluation.json").read_text())
    assert {"flights", "seed", "levels", "chunks", "turn", "splits", "paths", "table"} <= set(written)
    assert set(written["chunks"]) == {"1", "2", "4", "8", "12", "16", "20", "40"}
    for split in written["splits"].values():
        for name in ("revisit_psnr_memory_on", "revisit_psnr_memory_off", "frechet_memory_on", "fps"):
            assert math.isfinite(split[name])
        assert split["chunks"]["8"]["visible_share"] > 0.02
    table = capsys.readouterr().out
    for told in (
        report["paths"],
        "RotErr",
        "≤ 2 / 4",
        "revisit PSNR, return / loop, dB",
        "codec, PSNR, dB",
        "≥ 37.7",
    ):
        assert told in table
        assert told in (options.out / "table.txt").read_text()
    for name in ("curve.svg", "sharpness.svg", "simple.png", "hard.png"):
        assert (options.out / name).stat().st_size > 1000

    kept = sorted((options.out / "flights").glob("*.json"))
    before = [f.stat().st_mtime_ns for f in kept]
    kept[0].write_text(kept[0].read_text()[:100])  # as after a crash
    again = measured(flights, options, model, codec, CPU, said.append)
    after = [f.stat().st_mtime_ns for f in kept]
    assert after[0] != before[0]
    assert after[1] == before[1]
    for x, y in zip(
        known, again, strict=True
    ):  # one alone, one as it was: what flies beside it does not matter
        for chunk in x["chunks"]:
            assert x["chunks"][chunk]["psnr"] == pytest.approx(y["chunks"][chunk]["psnr"], abs=0.01)
    keys = {_key(flights[0], "weights", seed, told=told) for seed in (0, 1) for told in (True, False)}
    assert len(keys) == 4
    assert report["told"] is True
    assert "depth of the first picture told" in table
    before = [f.stat().st_mtime_ns for f in kept]
    alone = dataclasses.replace(options, picture_alone=True)
    measured(flights[:1], alone, model, codec, CPU, said.append)  # the record of the other way does not count
    assert [f.stat().st_mtime_ns != was for f, was in zip(kept, before, strict=True)].count(True) == 1


def test_parts_share_a_folder_until_all_flights_are_there(flights: list[Flight], tmp_path: Path) -> None:
    options = Evaluation(out=tmp_path / "out", assets=weights(tmp_path))
    folder, hashed = options.out / "flights", weights_hash(tmp_path)
    folder.mkdir(parents=True)
    assert found(flights, options) == []
    for k, splits in ((2, ["hard"]), (1, ["simple", "hard"])):
        for flight in shared(flights, (k, 2)):
            record = {"key": _key(flight, hashed, 0, told=True), "split": flight.split}
            (folder / f"{flight.name}.json").write_text(json.dumps(record))
        assert [r["split"] for r in found(flights, options)] == splits
    assert found(flights, dataclasses.replace(options, seed=1)) == []
    assert [list(shared(range(5), (k, 2))) for k in (1, 2)] == [[0, 1], [2, 3, 4]]  # type: ignore[arg-type]


def test_depth_is_told_or_guessed(flights: list[Flight], tmp_path: Path) -> None:
    weights(tmp_path)
    model = load_world(tmp_path / "world.safetensors", dtype=torch.float32, device=CPU)
    codec = load_codec(tmp_path / "codec.safetensors")
    short = [dataclasses.replace(f, poses=f.poses[:17], intrinsics=f.intrinsics[:17]) for f in flights]
    shown = show(Renderer("cpu"), short, width=32, height=32)
    truth = shown.truth
    assert torch.equal(truth.inverse_depth, shown.inverse_depth[:, 0])
    assert torch.equal(truth.part(1, 1).inverse_depth, truth.inverse_depth[:1])
    given = dict(poses=truth.poses, intrinsics=truth.intrinsics, words=truth.words)
    by_hand = {
        told: torch.cat([rgb for rgb, _ in fly(model, codec, truth.frames[:, 0], **given, **more)], dim=1)
        for told, more in ((True, dict(inverse_depth=truth.inverse_depth)), (False, {}))
    }
    for told, video in by_hand.items():
        assert torch.equal(rollout(model, codec, truth, told=told), video)
        made = film(model, codec, truth, told=told)
        assert (to_float(made.frames[:, 1:]) - video).abs().max() <= 1 / 127.5
    assert torch.equal(rollout(model, codec, truth), by_hand[True])
    assert not torch.equal(by_hand[True], by_hand[False])
    assert not torch.equal(warp_only(codec, truth), warp_only(codec, truth, told=False))
    first = truth.frames[:, 0], truth.poses[:, 0], truth.intrinsics[:, 0]
    seen = seen_first(codec, *first, inverse_depth=truth.inverse_depth)
    assert torch.equal(seen.inverse_depth[:, 0], truth.inverse_depth)
    table = measure_rollouts(model, codec, truth), measure_rollouts(model, codec, truth, told=False)
    assert [t["told"] for t in table] == [True, False]
    assert table[0]["chunks"][1]["psnr"] != table[1]["chunks"][1]["psnr"]


def test_a_film_is_the_rollout_with_its_first_picture(flights: list[Flight], tmp_path: Path) -> None:
    weights(tmp_path, memory=False)
    model = load_world(tmp_path / "world.safetensors", dtype=torch.float32, device=CPU)
    codec = load_codec(tmp_path / "codec.safetensors")
    short = [dataclasses.replace(f, poses=f.poses[:25], intrinsics=f.intrinsics[:25]) for f in flights]
    shown = show(Renderer("cpu"), short, width=32, height=32)
    made = film(model, codec, shown.truth, seed=3)
    rolled = rollout(model, codec, shown.truth, seed=3)
    assert torch.equal(made.frames[:, 0], shown.truth.frames[:, 0])
    assert (to_float(made.frames[:, 1:]) - rolled).abs().max() <= 1 / 127.5
    assert made.inverse_depth.shape == (2, 7, 32, 32)
    alone = show(Renderer("cpu"), short[1:], width=32, height=32)
    assert torch.equal(alone.truth.frames[0], shown.truth.frames[1])
    assert torch.equal(alone.inverse_depth[0], shown.inverse_depth[1])


def test_returning_is_compared_frame_by_frame() -> None:
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(256, (2, BACK + 1, 16, 16, 3), generator=generator).to(torch.uint8)
    mirrored = torch.cat((frames[:, : BACK // 2 + 1], frames[:, : BACK // 2].flip(1)), dim=1)
    still = frames.clone()
    still[:, -DWELL:] = still[:, :1]
    assert revisit(mirrored, ["simple", "simple"]).tolist() == [100.0, 100.0]
    assert revisit(still, ["hard", "hard"]).tolist() == [100.0, 100.0]
    assert revisit(mirrored, ["hard", "hard"]).max() < 25
    dark = (mirrored // 2).int()
    dark[:, BACK // 2 + 1 :] += 10
    got = revisit(dark.to(torch.uint8), ["simple", "simple"])[0]
    assert float(got) == pytest.approx(-20 * math.log10(10 / 255), abs=1e-3)


def test_distances_are_taken_biome_by_biome() -> None:
    g = torch.Generator().manual_seed(0)
    samples = {b: torch.randn(500, 3, generator=g) + shift for b, shift in (("desert", 0.0), ("snow", 9.0))}

    def record(biome: str, moved: float) -> Record:
        true = samples[biome]
        return {"biome": biome, "new": {"true": moments(true).record(), "on": moments(true + moved).record()}}

    assert frechet_by_biome([record("desert", 0), record("snow", 0)], "on") == pytest.approx(0, abs=1e-9)
    # each biome moved by (m, m, m): 3 m², however far the biomes lie apart
    got = frechet_by_biome([record("desert", 1.0), record("snow", 2.0), record("snow", 2.0)], "on")
    assert got == pytest.approx((3 * 1 + 2 * 3 * 4) / 3, rel=1e-9)


def test_goals_hold_from_either_side() -> None:
    least = Row(label="", simple=3.0, hard=1.0, goal=(2.0, 2.0))
    most = Row(label="", simple=3.0, hard=1.0, goal=(2.0, math.nan), at_least=False)
    assert least.holds == (True, False)
    assert most.holds == (False, None)
    assert Row(label="", goal=(2.0, 2.0)).holds == (False, False)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (dict(worlds=65), "worlds=65"),
        (dict(batch=0), "batch=0"),
        (dict(flights=3), "--quick"),
        (dict(quick=True, chunks=0), "chunks=0"),
        (dict(quick=True, worlds=3), "--worlds"),
        (dict(quick=True, picture_alone=True), "--picture-alone"),
        (dict(part=(3, 2)), r"part=\(3, 2\)"),
        (dict(worlds=1, part=(1, 3)), r"part=\(1, 3\)"),
        (dict(quick=True, part=(1, 2)), "--part"),
    ],
)
def test_impossible_options_are_named(flags: dict[str, int], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Evaluation(**flags)  # type: ignore[arg-type]
