"""Truth against generated: fly held-out worlds from their first picture along the true poses, and measure by time.

python -m engine.evaluate --out runs/evaluate
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from engine.codec import Codec, load_codec
from engine.conditioning import condition_clip
from engine.curve import curve
from engine.engine import compute_dtype, load_world
from engine.generator import Generator
from engine.memory import begin, insert
from engine.metrics import correlation, psnr, sharpness, shift, ssim
from engine.model import WorldModel
from engine.recall import checked, first_source, frame_source, recall
from engine.train.codec_report import half, to_float
from engine.train.data import HELD_OUT, clip
from engine.train.sheet import save_sheet
from engine.warp import Sources, warp
from engine.worlds.renderer import Renderer

CHUNKS = (1, 2, 4, 8, 12, 16, 20, 40)  # reported
LONGEST = (
    8 * max(CHUNKS) + 1
)  # frames on which flights are chosen, so that shorter sets hold the same flights
CALM_SPEED, CALM_TILT = (
    (1.5, 9.0),
    math.radians(25),
)  # m/s, mean over a flight; largest pitch or roll of most frames
TURN_FRAMES = 2  # between two pictures whose movement is measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """N held-out flights as rendered."""

    frames: Tensor  # uint8 [N, P, Y, X, 3]
    poses: Tensor  # [N, P, 4, 4]
    intrinsics: Tensor  # [N, P, 4]
    words: Tensor  # [N, 8]

    def part(self, flights: int, chunks: int) -> Truth:
        """The first `flights`, cut to `chunks` chunks."""
        stop = 8 * min(chunks, (self.frames.shape[1] - 1) // 8) + 1
        return Truth(
            frames=self.frames[:flights, :stop],
            poses=self.poses[:flights, :stop],
            intrinsics=self.intrinsics[:flights, :stop],
            words=self.words[:flights],
        )


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Measure the shipped world on held-out flights: a table, a curve and a contact sheet."""

    out: Path = Path("runs/evaluate")
    """folder for evaluation.json, curve.svg and flights.png"""
    assets: Path | None = None
    """folder with world.safetensors and codec.safetensors; default: those that came with the program"""
    flights: int = 12
    """held-out worlds, one flight through each"""
    chunks: int = 20
    """length of the flights, 0.5 s each"""
    seed: int = 0
    """of the noise"""


def is_calm(poses: Tensor) -> Tensor:
    """Which flights [N, P, 4, 4] are a person's walk or easy flight: moderate speed, little tilt. Returns [N] bool."""
    speed = (poses[:, 1:, :3, 3] - poses[:, :-1, :3, 3]).norm(dim=-1).mean(dim=1) * 16
    pitch = torch.asin(poses[:, :, 1, 2].clamp(-1, 1)).abs()
    roll = torch.atan2(poses[:, :, 1, 0], poses[:, :, 1, 1]).abs()
    tilt = torch.maximum(pitch, roll).quantile(0.8, dim=1)
    return (speed > CALM_SPEED[0]) & (speed < CALM_SPEED[1]) & (tilt < CALM_TILT)


def there_and_back(poses: Tensor) -> Tensor:
    """Flights [N, P, 4, 4] whose second half goes back along the first, frame by frame, and ends where it began."""
    frames = torch.arange(poses.shape[1], device=poses.device)
    return poses[:, torch.minimum(frames, frames.flip(0))]


def render_truth(
    renderer: Renderer,
    *,
    count: int,
    chunks: int,
    calm: bool = True,
    tries: int = 12,
    returning: bool = False,
    say: Callable[[str], None] = lambda words: None,
) -> Truth:
    """`count` flights through held-out worlds, one each; calm ones if asked for, the first that each world gives.

    returning: at half time they turn back and retrace their path.
    """
    found: list[dict[str, Tensor]] = []
    frames = 8 * chunks + 1
    for seed in HELD_OUT:
        worlds = renderer.build([seed])
        players = [seed + 64 * t for t in range(tries)]
        index = torch.zeros(tries, dtype=torch.int64, device=renderer.device)
        poses, _ = renderer.fly(worlds, index=index, seeds=players, frames=LONGEST)
        fits = is_calm(poses).nonzero().flatten() if calm else torch.zeros(1, dtype=torch.int64)
        if len(fits):
            pick = int(fits[0])
            poses, intrinsics = renderer.fly(
                worlds, index=index[:1], seeds=players[pick : pick + 1], frames=frames
            )
            poses = there_and_back(poses) if returning else poses
            rgb, _ = renderer.render(
                worlds, index=index[:1].expand(frames), poses=poses[0], intrinsics=intrinsics[0]
            )
            words = clip(renderer, [seed], 1, samples=1)["words"]
            found.append(dict(frames=rgb[None], poses=poses, intrinsics=intrinsics, words=words))
            say(f"true flight {len(found)} of {count}")
        if len(found) == count:
            break
    return Truth(**{name: torch.cat([f[name] for f in found]) for name in found[0]})


@torch.inference_mode()
def rollout(
    model: WorldModel,
    codec: Codec,
    truth: Truth,
    *,
    seed: int = 0,
    levels: tuple[float, ...] | None = None,
    memory: bool = True,
) -> Tensor:
    """Fly all of `truth` from its first pictures: [N, P - 1, 3, Y, X] in [-1, 1], one batch, chunk by chunk.

    memory: False flies a model that has spatial memory without it.
    """
    generator = Generator(model, levels=levels)
    dtype = generator.dtype
    first = to_float(truth.frames[:, 0])
    cond = condition_clip(truth.poses, truth.intrinsics, grid=codec.config.grid, config=model.config)
    out = []
    with half(first.device):
        still = codec.encode_picture(first.to(codec.mean.dtype))
    latents, state = generator.start(still.float(), text=truth.words, cond=cond.part(0, 1), seed=seed)
    remembers = checked(model.config.memory_channels, codec) and memory
    spatial = begin(_first(codec, truth, still)) if remembers else None
    for i in range(1, cond.P.shape[1]):
        before, views, recalled = state.latent, slice(8 * i - 7, 8 * i + 1), None
        if spatial is not None:
            recalled = recall(
                spatial,
                truth.poses[:, views],
                truth.intrinsics[:, views],
                codec=codec,
                half=first.device.type == "cuda",
            )
        channels = None if recalled is None else recalled.channels
        latents, state = generator.step(state, cond=cond.part(i, i + 1), memory=channels)
        with half(first.device):
            rgb, depth = codec.decode(before.to(dtype), latents[:, :, -1].to(dtype))
        out.append(rgb.float())
        if spatial is not None and recalled is not None:
            newest = frame_source(
                ((rgb[:, -1].float() + 1) * 127.5).round().to(torch.uint8).movedim(1, -1),
                depth[:, -1],
                recalled.warped.generation[:, -1],
                pose=truth.poses[:, 8 * i],
                intrinsics=truth.intrinsics[:, 8 * i],
                index=torch.full((len(rgb),), 8 * i),
            )
            spatial = insert(spatial, newest)
    return torch.cat(out, dim=1)


def _first(codec: Codec, truth: Truth, still: Tensor) -> Sources:
    """The first pictures, with the depth that the codec sees in them."""
    with half(still.device):
        return first_source(
            truth.frames[:, 0], still, codec=codec, pose=truth.poses[:, 0], intrinsics=truth.intrinsics[:, 0]
        )


@torch.inference_mode()
def warp_only(codec: Codec, truth: Truth) -> Tensor:
    """What geometry alone gives, without any model: the first pictures, with decoded depth, warped into every view.

    A memory of its own warps would add nothing to it: what the first picture does not show would stay blurred.
    Returns as `rollout` does.
    """
    with half(truth.poses.device):
        still = codec.encode_picture(to_float(truth.frames[:, 0]).to(codec.mean.dtype))
    source = _first(codec, truth, still)
    views = zip(truth.poses[:, 1:].split(8, dim=1), truth.intrinsics[:, 1:].split(8, dim=1), strict=True)
    return torch.cat([to_float(warp(source, *view).rgb) for view in views], dim=1)


@torch.inference_mode()
def measure_return(
    model: WorldModel, codec: Codec, truth: Truth, *, seed: int = 0, levels: tuple[float, ...] | None = None
) -> dict[str, dict[str, float]]:
    """Memory on and off, and geometry alone, over flights that return (`render_truth(returning=True)`).

    Of the last chunk: PSNR against the truth, against what the same flight showed there on its way out (revisit), and
    sharpness relative to the truth.
    """
    made = {"warp_only": warp_only(codec, truth)}
    made["memory_off"] = rollout(model, codec, truth, seed=seed, levels=levels, memory=False)
    if model.config.memory_channels:
        made["memory_on"] = rollout(model, codec, truth, seed=seed, levels=levels)
    true = to_float(truth.frames[:, 1:])
    out = {}
    for name, video in made.items():
        # frame f from the end was seen from the pose of frame f from the start; frame 0 is the picture itself
        back, way_out = video[:, -8:-1].flip(1), video[:, :7]
        out[name] = {
            "psnr": float(psnr(video[:, -8:], true[:, -8:]).mean()),
            "revisit_psnr": float(psnr(back, way_out).mean()),
            "sharpness": float(sharpness(video[:, -8:]).mean() / sharpness(true[:, -8:]).mean()),
        }
    return out


@torch.inference_mode()
def measure_rollouts(
    model: WorldModel, codec: Codec, truth: Truth, *, seed: int = 0, levels: tuple[float, ...] | None = None
) -> dict[str, Any]:
    """PSNR, SSIM and sharpness by chunk, with the codec alone and a copy of the first picture beside it; and the turn.

    turn: correlation over the first 6 s of the sideways movement of pictures with the commanded yaw, in the generated
    and in the true video; error: median difference of both movements in pixels per 2 frames.
    """
    made = rollout(model, codec, truth, seed=seed, levels=levels)
    table: dict[str, Any] = {
        "flights": len(made),
        "seed": seed,
        "levels": list(Generator(model).levels),
        "chunks": {},
    }
    for chunk in CHUNKS:
        if 8 * chunk <= made.shape[1]:
            part = slice(8 * (chunk - 1), 8 * chunk)
            table["chunks"][chunk] = _measure_chunk(made[:, part], codec, truth, chunk)
    table["turn"] = _measure_turn(made, truth)
    return table


def _measure_chunk(made: Tensor, codec: Codec, truth: Truth, chunk: int) -> dict[str, float]:
    true = to_float(truth.frames[:, 8 * (chunk - 1) + 1 : 8 * chunk + 1])
    first = to_float(truth.frames[:, :1])
    start = max(0, 8 * (chunk - 2))
    context = to_float(truth.frames[:, start : 8 * chunk + 1])
    with half(made.device):
        coded = codec.decode_clip(codec.encode_clip(context.to(codec.mean.dtype)))[0][:, -8:].float()
    return {
        "psnr": float(psnr(made, true).mean()),
        "ssim": float(ssim(made.flatten(0, 1), true.flatten(0, 1)).mean()),
        "sharpness": float(sharpness(made).mean() / sharpness(true).mean()),
        "codec_psnr": float(psnr(coded, true).mean()),
        "codec_sharpness": float(sharpness(coded).mean() / sharpness(true).mean()),
        "first_picture_psnr": float(psnr(first.expand_as(true), true).mean()),
    }


def _measure_turn(made: Tensor, truth: Truth, *, seconds: int = 6) -> dict[str, Any]:
    stop = min(made.shape[1], 16 * seconds)
    true = to_float(truth.frames[:, 1 : stop + 1])
    yaw = torch.atan2(truth.poses[:, 1 : stop + 1, 0, 2], truth.poses[:, 1 : stop + 1, 2, 2])
    n = TURN_FRAMES
    turned = torch.remainder(yaw[:, n:] - yaw[:, :-n] + math.pi, 2 * math.pi) - math.pi
    command = -truth.intrinsics[:, 1 : stop + 1 - n, 0] * turned.tan()
    moved = [_movement(made[:, :stop], n), _movement(true, n)]
    per_flight = [[correlation(m[i], command[i]) for i in range(len(command))] for m in moved]
    return {
        "correlation": correlation(moved[0], command),
        "true_correlation": correlation(moved[1], command),
        "correlation_with_truth": correlation(moved[0], moved[1]),
        "median_correlation": float(torch.tensor(per_flight[0]).median()),
        "true_median_correlation": float(torch.tensor(per_flight[1]).median()),
        "error": float((moved[0] - command).abs().median()),
        "true_error": float((moved[1] - command).abs().median()),
    }


def _movement(video: Tensor, frames: int) -> Tensor:
    """[N, P, 3, Y, X] -> [N, P - frames] pixels to the right."""
    a, b = video[:, :-frames], video[:, frames:]
    return shift(a.flatten(0, 1), b.flatten(0, 1)).unflatten(0, a.shape[:2])


def rollout_sheet(
    path: Path, model: WorldModel, codec: Codec, truth: Truth, *, picks: tuple[int, ...]
) -> None:
    """Contact sheet, two rows a flight: the true last frames of chunks `picks`, then the generated ones."""
    made = rollout(model, codec, truth)
    last = [8 * p for p in picks if 8 * p <= made.shape[1]]
    rows = []
    for i in range(len(made)):
        true = to_float(truth.frames[i, [0, *last]])
        rows += [true, torch.cat([true[:1], made[i, [n - 1 for n in last]]])]
    save_sheet(path, rows)


def evaluate(options: Evaluation) -> dict[str, Any]:
    """Render, fly, measure, write. Returns what evaluation.json says."""
    if options.assets is None:
        raise ValueError("no folder of weights to measure: give --assets assets/pocket")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = compute_dtype(device)
    model = load_world(options.assets / "world.safetensors", dtype=dtype, device=device)
    codec = load_codec(options.assets / "codec.safetensors", dtype=dtype, device=device)
    say = Console(stderr=True, highlight=False).print
    say(
        f"rendering {options.flights} true flights of {options.chunks / 2:g} s, then flying them on {device.type}"
    )
    truth = render_truth(Renderer(device), count=options.flights, chunks=options.chunks, say=say)
    report = measure_rollouts(model, codec, truth, seed=options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "evaluation.json").write_text(json.dumps(report, indent=1) + "\n")
    (options.out / "curve.svg").write_text(psnr_curve(report))
    rollout_sheet(options.out / "flights.png", model, codec, truth.part(8, options.chunks), picks=CHUNKS)
    for chunk, row in report["chunks"].items():
        say(
            f"{chunk / 2:5.1f} s  {row['psnr']:.1f} dB  SSIM {row['ssim']:.3f}  sharpness {row['sharpness']:.2f}"
        )
    say(f"written to {options.out}")
    return report


def psnr_curve(report: dict[str, Any]) -> str:
    """PSNR by seconds of flight, with the codec above and the copied first picture below it."""
    names = {"psnr": "generated", "codec_psnr": "codec alone", "first_picture_psnr": "first picture"}
    lines = {
        label: [(chunk / 2, row[key]) for chunk, row in report["chunks"].items()]
        for key, label in names.items()
    }
    end = max(report["chunks"]) / 2
    return curve(
        lines,
        x="seconds of flight",
        y="PSNR, dB",
        x_range=(0, end),
        y_range=(14, 38),
        x_step=2 if end > 4 else 1,
        y_step=4,
    )
