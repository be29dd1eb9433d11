"""Codec training at toy size, end to end on the CPU: it learns, resumes, exports and measures."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.codec import Codec, load_codec
from engine.config import CodecConfig
from engine.depth import FARTHEST, NEAREST, UNKNOWN
from engine.train.adversary import Adversary
from engine.train.codec import Clips, CodecTraining, Trainee, cut, told, train_codec, warm
from engine.train.codec_report import evaluate_codec, to_float
from engine.train.host import Host
from engine.train.losses import (
    DEPTH,
    GRADIENT,
    SKY,
    TEMPORAL,
    gradient_penalty,
    hinge_fool,
    hinge_judge,
    reconstruction_loss,
)

TINY = CodecConfig(
    width=32,
    height=32,
    latent_channels=8,
    encoder_widths=(16, 16, 32),
    decoder_widths=(32, 32, 16, 16),
    sky=True,
)


def _options(out: Path, **changes: object) -> CodecTraining:
    base = CodecTraining(
        out=out,
        steps=4,
        polish_steps=2,
        clips=3,
        clip_frames=25,
        held_out=2,
        batch=2,
        pictures=0.0,
        device="cpu",
        codec=TINY,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def _clips(count: int, seed: int, frames: int = 25) -> Clips:
    """Drifting waves of random colour over a plane that recedes into a sky."""
    g = torch.Generator().manual_seed(seed)
    t, y, x = torch.meshgrid(torch.arange(frames), torch.arange(32), torch.arange(32), indexing="ij")
    wave, drift, colour = (
        torch.rand(count, 2, generator=g),
        torch.rand(count, generator=g),
        torch.rand(count, 3, generator=g),
    )
    shape = lambda v: v.view(count, 1, 1, 1)
    phase = 0.4 * shape(wave[:, 0]) * x + 0.4 * shape(wave[:, 1]) * y + 0.3 * shape(drift) * t
    light = (0.5 + 0.5 * torch.sin(phase))[..., None] * colour.view(count, 1, 1, 1, 3)
    depth = ((y - 8).clamp_min(0) / 50).expand(count, -1, -1, -1)
    return {"frames": (light * 255).to(torch.uint8), "inverse_depth": depth.to(torch.float16)}


def _loss_of(path: Path, line: int) -> float:
    entry = json.loads(path.read_text().splitlines()[line])
    return entry["picture"] + entry["depth"]


def test_training_end_to_end(tmp_path: Path) -> None:
    report = train_codec(_options(tmp_path), clips=_clips(3, 0), held_out=_clips(2, 9))
    names = {p.name for p in tmp_path.iterdir()}
    expected = {"codec.safetensors", "codec.json", "codec.png", "reconstruct.pt", "reconstruct.jsonl"}
    assert expected | {"polish.pt", "polish.jsonl", "reconstruct-000004.png", "polish-000002.png"} == names
    assert json.loads((tmp_path / "codec.json").read_text()) == report
    assert all(math.isfinite(v) for v in report["shipped"].values())
    codec = load_codec(tmp_path / "codec.safetensors")
    assert codec.config == TINY
    latents = codec.encode_clip(to_float(_clips(3, 0)["frames"]))
    assert latents.mean().abs() < 0.5
    assert 0.5 < latents.std() < 2


def test_reconstruction_learns(tmp_path: Path) -> None:
    clips = _clips(3, 0)
    before = evaluate_codec(Codec(TINY).eval(), clips)["psnr"]
    options = _options(tmp_path, steps=40, polish_steps=0, polish_minutes=0.0)
    after = train_codec(options, clips=clips, held_out=clips)["reconstruction"]["psnr"]
    # random weights draw nothing; 40 steps must beat the mean colour of the clips
    frames = to_float(clips["frames"])
    flat = frames.mean(dim=(1, 3, 4), keepdim=True)
    mean_colour = -10 * math.log10(((frames - flat) / 2).square().mean())
    assert after > max(before, mean_colour)


def test_resumed_training_equals_uninterrupted(tmp_path: Path) -> None:
    clips, held = _clips(3, 0), _clips(2, 9)
    train_codec(_options(tmp_path / "a"), clips=clips, held_out=held)
    half = _options(tmp_path / "b", steps=4, polish_steps=0, polish_minutes=0.0)
    train_codec(half, clips=clips, held_out=held)  # as if the power had gone between the stages
    train_codec(_options(tmp_path / "b"), clips=clips, held_out=held)
    a, b = (load_codec(tmp_path / d / "codec.safetensors") for d in "ab")
    assert all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def test_polish_leaves_the_encoder_alone(tmp_path: Path) -> None:
    clips = _clips(3, 0)
    train_codec(_options(tmp_path / "a"), clips=clips, held_out=clips)
    train_codec(_options(tmp_path / "b", polish_steps=0, polish_minutes=0.0), clips=clips, held_out=clips)
    a, b = (load_codec(tmp_path / d / "codec.safetensors").state_dict() for d in "ab")
    assert all(torch.equal(a[n], b[n]) for n in a if n.startswith("encoder") or n in ("mean", "std"))
    assert not torch.equal(a["decoder.head.weight"], b["decoder.head.weight"])


def test_a_compiled_encoder_encodes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trainee = Trainee(Codec(TINY), _options(tmp_path), Host(device=torch.device("cpu")))
    frames = to_float(_clips(2, 0)["frames"])[:, :17]
    depth = torch.rand(frames[:, :, 0].shape)
    plain = trainee.encode(frames, depth)
    trainee.encoder = torch.compile(trainee.encoder, backend="eager")
    assert torch.equal(trainee.encode(frames, depth), plain)


def test_training_on_keeps_latents_where_they_are(tmp_path: Path) -> None:
    clips = _clips(3, 0)
    train_codec(_options(tmp_path / "a"), clips=clips, held_out=clips)
    first = tmp_path / "a" / "codec.safetensors"
    old = load_codec(first)
    frames = to_float(clips["frames"])
    left: dict[float, float] = {}
    for keep in (0.0, 30.0):
        out = tmp_path / f"{keep:g}"
        on = _options(out, init=first, keep=keep, steps=30, polish_steps=0, polish_minutes=0.0)
        report = train_codec(on, clips=clips, held_out=clips)
        new = load_codec(out / "codec.safetensors")
        assert torch.equal(new.mean, old.mean)
        assert torch.equal(new.std, old.std)
        assert report["before"]["psnr"] < report["shipped"]["psnr"]
        left[keep] = float((new.encode_clip(frames) - old.encode_clip(frames)).square().mean())
    assert left[30.0] < 0.1 * left[0.0]


def test_another_size_of_codec_is_not_trained_on(tmp_path: Path) -> None:
    clips = _clips(3, 0)
    train_codec(_options(tmp_path), clips=clips, held_out=clips)
    wider = replace(TINY, encoder_widths=(16, 16, 48))
    with pytest.raises(ValueError, match="other sizes"):
        train_codec(_options(tmp_path / "on", init=tmp_path / "codec.safetensors", codec=wider), clips=clips)


def test_cut_takes_stretches_that_belong_together() -> None:
    clips = _clips(3, 0)
    frames, depth = cut(clips, batch=5, frames=17, generator=torch.Generator().manual_seed(1))
    assert frames.shape == (5, 17, 3, 32, 32)
    truth = to_float(clips["frames"])
    starts = [(n, s) for n in range(3) for s in range(25 - 17 + 1)]
    for taken in frames:
        assert any(torch.equal(taken, truth[n, s : s + 17]) for n, s in starts)
    assert torch.equal(depth[0, 0], clips["inverse_depth"][0, 0].float())


def test_some_clips_are_told_their_depth_and_some_not_even_of_the_first_picture() -> None:
    depth = torch.rand(400, 5, 2, 2)
    heard = told(depth, torch.Generator().manual_seed(0))
    known = heard != UNKNOWN
    assert torch.equal(heard[known], depth[known])
    later, first = known[:, 1:].all(dim=(1, 2, 3)), known[:, 0].all(dim=(1, 2))
    assert torch.equal(later, known[:, 1:].any(dim=(1, 2, 3)))
    assert not (first & ~later).any()
    for share, expected in ((later, 0.6), (first, 0.4)):  # four standard deviations of a fair draw
        assert float(share.float().mean()) == pytest.approx(expected, abs=4 * math.sqrt(0.25 / 400))


def test_pictures_take_their_share_of_a_batch_and_have_no_depth(tmp_path: Path) -> None:
    options = _options(tmp_path, batch=4, pictures=0.25)
    bank = torch.randint(256, (3, 3, 48, 64), dtype=torch.uint8)
    trainee = Trainee(Codec(TINY), options, Host(device=torch.device("cpu")), bank)
    frames, depth = trainee.batch(_clips(3, 0), torch.Generator().manual_seed(0))
    assert frames.shape == (4, 17, 3, 32, 32)
    assert depth.shape == (4, 17, 32, 32)
    assert depth[:3].min() >= 0
    assert depth[3].eq(UNKNOWN).all()


def test_training_over_pictures_and_photographs(tmp_path: Path) -> None:
    options = _options(tmp_path, steps=2, polish_steps=1, pictures=0.5, textures=2)
    pictures = torch.randint(256, (2, 3, 48, 64), dtype=torch.uint8)
    report = train_codec(options, clips=_clips(3, 0), held_out=_clips(2, 9), pictures=pictures)
    assert all(math.isfinite(v) for v in report["shipped"].values())


def test_warming_leaves_the_weights_alone(tmp_path: Path) -> None:
    codec = Codec(TINY)
    before = {name: t.clone() for name, t in codec.state_dict().items()}
    warm(Trainee(codec, _options(tmp_path), Host(device=torch.device("cpu"))))
    assert all(torch.equal(t, before[name]) for name, t in codec.state_dict().items())


def _loop_loss(out: Tensor, frames: Tensor, inverse: Tensor) -> tuple[float, float, float]:
    """The oracle of the loss in fp64, differences written out, depth pixel by pixel."""
    slope = lambda e: (e[..., 1:] - e[..., :-1]).abs().mean() + (e[..., 1:, :] - e[..., :-1, :]).abs().mean()
    e = out[:, :, :3].double() - frames
    half = (e[..., ::2, ::2] + e[..., 1::2, ::2] + e[..., ::2, 1::2] + e[..., 1::2, 1::2]) / 4
    temporal = (e[:, 1:] - e[:, :-1]).abs().mean()
    picture = e.abs().mean() + GRADIENT * (slope(e) + slope(half)) + TEMPORAL * temporal
    total = cross = 0.0
    things = known = 0
    for code, logit, truth in zip(
        out[:, :, 3].flatten(0, 1), out[:, :, 4].flatten(0, 1), inverse.flatten(0, 1), strict=True
    ):
        error: dict[tuple[int, int], float] = {}
        for y in range(truth.shape[0]):
            for x in range(truth.shape[1]):
                d, p = float(truth[y, x]), 1 / (1 + math.exp(-float(logit[y, x])))
                known += d >= 0
                cross -= math.log(p) if d == 0 else math.log(1 - p) if d > 0 else 0.0
                if d > 0:  # ln(decoded / true), the code reaching from 400 m to 0.25 m
                    told = float(code[y, x]) * math.log(FARTHEST / NEAREST) - math.log(FARTHEST)
                    error[y, x] = told - math.log(d)
        things += len(error)
        for (y, x), value in error.items():
            total += abs(value)
            total += sum(GRADIENT * abs(value - error[n]) for n in ((y, x + 1), (y + 1, x)) if n in error)
    return float(picture), DEPTH * total / things, SKY * cross / known


def test_losses_against_their_formulas() -> None:
    torch.manual_seed(0)
    out, frames = torch.randn(2, 4, 5, 6, 8), torch.randn(2, 4, 3, 6, 8)
    inverse = torch.rand(2, 4, 6, 8) + 0.01
    inverse[torch.rand(inverse.shape) < 0.2] = 0
    inverse[torch.rand(inverse.shape) < 0.2] = UNKNOWN
    got = [float(v) for v in reconstruction_loss(out, frames, inverse)]
    assert got == pytest.approx(_loop_loss(out, frames, inverse), rel=1e-5)
    nobody = torch.full_like(inverse, UNKNOWN)
    assert [float(v) for v in reconstruction_loss(out, frames, nobody)[1:]] == [0, 0]
    assert float(hinge_judge(torch.tensor([2.0, 0.5]), torch.tensor([-2.0, 0.0]))) == pytest.approx(
        0.25 + 0.5
    )
    assert float(hinge_fool(torch.tensor([1.0, 2.0]))) == -1.5


def test_the_penalty_is_the_squared_gradient_by_the_variance_of_the_noise() -> None:
    """Of scores w·x, under noise of standard deviation s: s²|w|² in the mean."""
    torch.manual_seed(0)
    w, x = torch.randn(64), torch.randn(20_000, 64)
    penalty = gradient_penalty(x @ w, (x + 0.1 * torch.randn_like(x)) @ w)
    assert float(penalty) == pytest.approx(0.01 * float(w.square().sum()), rel=0.05)
    assert float(gradient_penalty(x @ w, x @ w + 3)) == pytest.approx(9, rel=1e-5)


def test_adversary_scores_patches() -> None:
    assert Adversary(width=8)(torch.zeros(2, 3, 32, 48)).shape == (2, 1, 4, 6)


def test_impossible_options_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="clip_frames=9 is shorter than the 17"):
        _options(tmp_path, clip_frames=9)
    with pytest.raises(ValueError, match="batch=0"):
        _options(tmp_path, batch=0)
    with pytest.raises(ValueError, match=r"pictures=1\.0"):
        _options(tmp_path, pictures=1.0)
    with pytest.raises(ValueError, match="no longer trained"):
        _options(tmp_path, codec=replace(TINY, sky=False))
