"""Truth against generated: fly held-out worlds from their first picture along the true poses, and measure by time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.codec import Codec
from engine.composite import composite
from engine.conditioning import condition_chunk
from engine.curve import curve
from engine.generator import Generator
from engine.measure.lifted import Lifted
from engine.memory import begin, insert
from engine.metrics import correlation, psnr, sharpness, shift, ssim
from engine.model import WorldModel
from engine.recall import Draw, checked, draw_on, first_source, frame_source, recall
from engine.schedule import chunk_noise
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

Say = Callable[[str], None]


def silent(words: str) -> None:
    """Where nobody asked how far it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """N held-out flights as rendered."""

    frames: Tensor  # uint8 [N, P, Y, X, 3]
    poses: Tensor  # [N, P, 4, 4]
    intrinsics: Tensor  # [N, P, 4]
    words: Tensor  # [N, 8]
    inverse_depth: Tensor  # fp16 [N, Y, X] of the first pictures, 1/m, sky 0

    def known(self, told: bool) -> Tensor | None:
        """The depth of the first pictures if it is told, as scenes of the gallery have it; None: from pictures alone."""
        return self.inverse_depth if told else None

    def part(self, flights: int, chunks: int) -> Truth:
        """The first `flights`, cut to `chunks` chunks."""
        stop = 8 * min(chunks, (self.frames.shape[1] - 1) // 8) + 1
        return Truth(
            frames=self.frames[:flights, :stop],
            poses=self.poses[:flights, :stop],
            intrinsics=self.intrinsics[:flights, :stop],
            words=self.words[:flights],
            inverse_depth=self.inverse_depth[:flights],
        )


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
    say: Say = silent,
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
            rgb, depth = renderer.render(
                worlds, index=index[:1].expand(frames), poses=poses[0], intrinsics=intrinsics[0]
            )
            words = clip(renderer, [seed], 1, samples=1)["words"]
            found.append(
                dict(
                    frames=rgb[None],
                    poses=poses,
                    intrinsics=intrinsics,
                    words=words,
                    inverse_depth=depth[:1],
                )
            )
            say(f"true flight {len(found)} of {count}")
        if len(found) == count:
            break
    return Truth(**{name: torch.cat([f[name] for f in found]) for name in found[0]})


@torch.inference_mode()
def fly(
    model: WorldModel,
    codec: Codec,
    pictures: Tensor,
    *,
    poses: Tensor,
    intrinsics: Tensor,
    words: Tensor,
    inverse_depth: Tensor | None = None,
    seed: int = 0,
    levels: tuple[float, ...] | None = None,
    memory: bool = True,
    lifted: Lifted | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Fly from first pictures, one batch, chunk by chunk: RGB [N, 8, 3, Y, X] in [-1, 1], inverse depth [N, 8, Y, X].

    pictures: uint8 [N, Y, X, 3].  poses: [N, P, 4, 4], intrinsics: [N, P, 4], P = 1 + 8k.  words: [N, 8].
    inverse_depth: [N, Y, X] of the pictures in 1/m, sky 0, below 0 unknown; None: from pictures alone.
    memory: False flies a model that has spatial memory without it. Every flight gets the noise it would get alone.
    lifted: flies along its poses, which it decides on as it sees what is generated; None: along `poses`.
    """
    generator = Generator(model, levels=levels)
    dtype, device = generator.dtype, pictures.device
    given = partial(condition_chunk, grid=codec.config.grid, config=model.config)
    cond, anchor = given(None, poses[:, :1], intrinsics[:, :1], frame=0)
    still = encoded_first(codec, pictures, inverse_depth)
    latents, state = generator.start(still.float(), text=words, cond=cond, seed=seed)
    remembers = checked(model.config.memory_channels, codec) and memory
    spatial = None
    if remembers:
        spatial = begin(
            seen_first(codec, pictures, poses[:, 0], intrinsics[:, 0], inverse_depth=inverse_depth)
        )
    blank = torch.zeros(pictures.shape[:3], device=device)
    seen = blank if inverse_depth is None else inverse_depth.clamp_min(0)  # last, by all flights
    for i in range(1, (poses.shape[1] - 1) // 8 + 1):
        if lifted is not None:
            lifted.see(8 * i - 8, seen, chunk=8)
            poses = lifted.poses
        before, views, recalled = state.latent, slice(8 * i - 7, 8 * i + 1), None
        cond, anchor = given(anchor, poses[:, views], intrinsics[:, views], frame=i)
        if spatial is not None:
            recalled = recall(
                spatial,
                poses[:, views],
                intrinsics[:, views],
                codec=codec,
                draw=_draw(device),
                half=device.type == "cuda",
            )
        channels = None if recalled is None else recalled.channels
        noise = chunk_noise((1, *latents.shape[1:]), seed=seed, chunk=state.chunk).expand_as(latents)
        latents, state = generator.step(state, cond=cond, memory=channels, noise=noise)
        with half(device):
            rgb, depth = codec.decode(before.to(dtype), latents[:, :, -1].to(dtype))
        if recalled is not None:
            rgb, depth = composite(rgb, depth, recalled.warped)
        yield rgb.float(), depth.float()
        seen = depth[:, -1]
        if spatial is not None and recalled is not None:
            newest = frame_source(
                ((rgb[:, -1].float() + 1) * 127.5).round().to(torch.uint8).movedim(1, -1),
                depth[:, -1],
                recalled.warped.generation[:, -1],
                pose=poses[:, 8 * i],
                intrinsics=intrinsics[:, 8 * i],
                index=torch.full((len(rgb),), 8 * i),
            )
            spatial = insert(spatial, newest)


def _draw(device: torch.device) -> Draw:
    """The native warp on a CPU that has numba, else the one for the device."""
    if device.type != "cpu" or find_spec("numba") is None:
        return draw_on(device)
    from engine.warp_cpu import warp as native

    return native


def fly_truth(
    model: WorldModel,
    codec: Codec,
    truth: Truth,
    *,
    told: bool = True,
    seed: int = 0,
    levels: tuple[float, ...] | None = None,
    memory: bool = True,
    lifted: Lifted | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Fly all of `truth` from its first pictures along its poses, see `fly`. told: with the depth of these pictures."""
    return fly(
        model,
        codec,
        truth.frames[:, 0],
        poses=truth.poses,
        intrinsics=truth.intrinsics,
        words=truth.words,
        inverse_depth=truth.known(told),
        seed=seed,
        levels=levels,
        memory=memory,
        lifted=lifted,
    )


def rollout(
    model: WorldModel,
    codec: Codec,
    truth: Truth,
    *,
    told: bool = True,
    seed: int = 0,
    levels: tuple[float, ...] | None = None,
    memory: bool = True,
    say: Say = silent,
) -> Tensor:
    """All of `fly_truth` as one video: [N, P - 1, 3, Y, X] in [-1, 1]."""
    made: list[Tensor] = []
    for rgb, _ in fly_truth(model, codec, truth, told=told, seed=seed, levels=levels, memory=memory):
        made.append(rgb)
        say(f"flown {len(made)} of {(truth.frames.shape[1] - 1) // 8} chunks")
    return torch.cat(made, dim=1)


def encoded_first(codec: Codec, pictures: Tensor, inverse_depth: Tensor | None = None) -> Tensor:
    """The static latents [N, C, h, w] of first pictures uint8 [N, Y, X, 3], with their depth [N, Y, X] if it is known."""
    known = None if inverse_depth is None else inverse_depth.float()
    with half(pictures.device):
        return codec.encode_picture(to_float(pictures).to(codec.mean.dtype), known)


def seen_first(
    codec: Codec,
    pictures: Tensor,
    pose: Tensor,
    intrinsics: Tensor,
    *,
    inverse_depth: Tensor | None = None,
) -> Sources:
    """First pictures uint8 [N, Y, X, 3] seen from [N, 4, 4] through [N, 4].

    inverse_depth: theirs, [N, Y, X] in 1/m; None: what the codec sees in them.
    """
    still = encoded_first(codec, pictures, inverse_depth)
    with half(pictures.device):
        return first_source(
            pictures, still, codec=codec, pose=pose, intrinsics=intrinsics, inverse_depth=inverse_depth
        )


@torch.inference_mode()
def warp_only(codec: Codec, truth: Truth, *, told: bool = True) -> Tensor:
    """What geometry alone gives, without any model: the first pictures, with told or decoded depth, warped into every view.

    A memory of its own warps would add nothing to it: what the first picture does not show would stay blurred.
    Returns as `rollout` does.
    """
    first = truth.frames[:, 0], truth.poses[:, 0], truth.intrinsics[:, 0]
    source = seen_first(codec, *first, inverse_depth=truth.known(told))
    views = zip(truth.poses[:, 1:].split(8, dim=1), truth.intrinsics[:, 1:].split(8, dim=1), strict=True)
    return torch.cat([to_float(warp(source, *view).rgb) for view in views], dim=1)


@torch.inference_mode()
def measure_return(
    model: WorldModel,
    codec: Codec,
    truth: Truth,
    *,
    told: bool = True,
    seed: int = 0,
    levels: tuple[float, ...] | None = None,
) -> dict[str, dict[str, float]]:
    """Memory on and off, and geometry alone, over flights that return (`render_truth(returning=True)`).

    Of the last chunk: PSNR against the truth, against what the same flight showed there on its way out (revisit), and
    sharpness relative to the truth.
    """
    made = {"warp_only": warp_only(codec, truth, told=told)}
    made["memory_off"] = rollout(model, codec, truth, told=told, seed=seed, levels=levels, memory=False)
    if model.config.memory_channels:
        made["memory_on"] = rollout(model, codec, truth, told=told, seed=seed, levels=levels)
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
    model: WorldModel,
    codec: Codec,
    truth: Truth,
    *,
    told: bool = True,
    seed: int = 0,
    levels: tuple[float, ...] | None = None,
    say: Say = silent,
) -> dict[str, Any]:
    """PSNR, SSIM and sharpness by chunk, with the codec alone and a copy of the first picture beside it; and the turn.

    told: whether the flights knew the depth of their first pictures.
    turn: correlation over the first 6 s of the sideways movement of pictures with the commanded yaw, in the generated
    and in the true video; error: median difference of both movements in pixels per 2 frames.
    """
    made = rollout(model, codec, truth, told=told, seed=seed, levels=levels, say=say)
    table: dict[str, Any] = {
        "flights": len(made),
        "told": told,
        "seed": seed,
        "levels": list(Generator(model, levels=levels).levels),
        "chunks": {},
    }
    for chunk in CHUNKS:
        if 8 * chunk <= made.shape[1]:
            part = slice(8 * (chunk - 1), 8 * chunk)
            table["chunks"][chunk] = averaged(chunk_scores(made[:, part], codec, truth, chunk))
    table["turn"] = _measure_turn(made, truth)
    return table


@torch.inference_mode()
def chunk_scores(made: Tensor, codec: Codec, truth: Truth, chunk: int) -> dict[str, Tensor]:
    """Scores of one chunk of generated frames [N, 8, 3, Y, X] in [-1, 1], each [N]; sharpness as it is, in grey levels.

    codec_…: of the true frames through the codec alone.  first_picture_psnr: of the first picture, repeated.
    """
    true = to_float(truth.frames[:, 8 * (chunk - 1) + 1 : 8 * chunk + 1])
    first = to_float(truth.frames[:, :1])
    start = max(0, 8 * (chunk - 2))
    context = to_float(truth.frames[:, start : 8 * chunk + 1])
    with half(made.device):
        coded = codec.decode_clip(codec.encode_clip(context.to(codec.mean.dtype)))[0][:, -8:].float()
    return {
        "psnr": psnr(made, true).mean(dim=1),
        "ssim": ssim(made.flatten(0, 1), true.flatten(0, 1)).view(made.shape[:2]).mean(dim=1),
        "sharpness": sharpness(made).mean(dim=1),
        "true_sharpness": sharpness(true).mean(dim=1),
        "codec_psnr": psnr(coded, true).mean(dim=1),
        "codec_sharpness": sharpness(coded).mean(dim=1),
        "first_picture_psnr": psnr(first.expand_as(true), true).mean(dim=1),
    }


def averaged(scores: dict[str, Tensor]) -> dict[str, float]:
    """Means over flights of what `chunk_scores` returned, sharpness as a share of the truth's."""
    means = {name: float(value.double().mean()) for name, value in scores.items()}
    true = means.pop("true_sharpness")
    return means | {name: means[name] / true for name in ("sharpness", "codec_sharpness")}


def commanded(truth: Truth, frames: int) -> Tensor:
    """Sideways movement of the picture that the true yaw asks for, in pixels per 2 frames: [N, frames - 2]."""
    poses, n = truth.poses[:, 1 : frames + 1], TURN_FRAMES
    yaw = torch.atan2(poses[:, :, 0, 2], poses[:, :, 2, 2])
    turned = torch.remainder(yaw[:, n:] - yaw[:, :-n] + math.pi, 2 * math.pi) - math.pi
    return -truth.intrinsics[:, 1 : frames + 1 - n, 0] * turned.tan()


def _measure_turn(made: Tensor, truth: Truth, *, seconds: int = 6) -> dict[str, Any]:
    stop = min(made.shape[1], 16 * seconds)
    command = commanded(truth, stop)
    moved = [movement(made[:, :stop]), movement(to_float(truth.frames[:, 1 : stop + 1]))]
    return turning(moved, command)


def turning(moved: list[Tensor], command: Tensor) -> dict[str, Any]:
    """How the movements of the generated and of the true films [N, n] follow the commanded ones [N, n]."""
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


def movement(video: Tensor) -> Tensor:
    """Of the pictures of films [N, P, 3, Y, X], pixels to the right per 2 frames: [N, P - 2]."""
    a, b = video[:, :-TURN_FRAMES], video[:, TURN_FRAMES:]
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


def psnr_curve(report: dict[str, Any]) -> str:
    """PSNR by seconds of flight, with the codec above and the copied first picture below it."""
    names = {"psnr": "generated", "codec_psnr": "codec alone", "first_picture_psnr": "first picture"}
    lines = {
        label: [(chunk / 2, row[key]) for chunk, row in report["chunks"].items()]
        for key, label in names.items()
    }
    return psnr_plot(lines)


def psnr_plot(lines: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Lines of (seconds of flight, dB) as an SVG document."""
    end = max(seconds for points in lines.values() for seconds, _ in points)
    return curve(
        lines,
        x="seconds of flight",
        y="PSNR, dB",
        x_range=(0, end),
        y_range=(14, 38),
        x_step=10 if end > 20 else 2 if end > 4 else 1,
        y_step=4,
    )
