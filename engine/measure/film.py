"""Films of the fixed set: what the renderer shows along its paths, and what a world model makes of their first pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.codec import Codec
from engine.evaluate import Truth, encoded_first, fly_truth
from engine.measure.lifted import Lifted
from engine.measure.odometry import EVERY
from engine.measure.paths import Flight
from engine.model import WorldModel
from engine.train.codec_report import half
from engine.words import words_of
from engine.worlds.renderer import Renderer

RENDERED = 32  # frames drawn between two reports
WARM = 8  # chunks that do not count for speed


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """N flights as they truly look."""

    truth: Truth
    inverse_depth: Tensor  # fp16 [N, P, Y, X] in 1/m, sky 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Film:
    """N flights as generated. Frame 0 is the first picture itself."""

    frames: Tensor  # uint8 [N, P, Y, X, 3]
    inverse_depth: Tensor  # fp16 [N, ⌈P / 4⌉, Y, X] of every fourth frame, as decoded
    poses: Tensor  # fp32 [N, P, 4, 4] from where
    fps: float  # generated frames per second of the whole batch, steady


def show(
    renderer: Renderer,
    flights: Sequence[Flight],
    *,
    width: int = 256,
    height: int = 160,
    say: Callable[[str], None] = lambda words: None,
) -> Shown:
    """Render all frames of some flights of one length. 200 MB each for a minute at 256×160."""
    seeds = sorted({f.world for f in flights})
    worlds = renderer.build(seeds)
    device = renderer.device
    poses = torch.stack([f.poses for f in flights]).to(device)
    intrinsics = torch.stack([f.intrinsics for f in flights]).to(device)
    planned = intrinsics[:1, :1, [2, 3, 2, 3]] * 2  # the size that paths were planned for: they are centred
    intrinsics = intrinsics * torch.tensor([width, height, width, height], device=device) / planned
    of = torch.tensor([seeds.index(f.world) for f in flights], device=device)
    rgb: list[Tensor] = []
    depth: list[Tensor] = []
    for at in range(0, poses.shape[1], RENDERED):
        part = poses[:, at : at + RENDERED]
        pictures = renderer.render(
            worlds,
            index=of.repeat_interleave(part.shape[1]),
            poses=part.flatten(0, 1),
            intrinsics=intrinsics[:, at : at + RENDERED].flatten(0, 1),
            width=width,
            height=height,
        )
        for kept, new in zip((rgb, depth), pictures, strict=True):
            kept.append(new.unflatten(0, part.shape[:2]))
        say(f"{min(at + RENDERED, poses.shape[1])} of {poses.shape[1]} frames")
    words = [torch.from_numpy(words_of(row)) for row in worlds.params.cpu().numpy()]
    known = torch.cat(depth, dim=1)
    truth = Truth(
        frames=torch.cat(rgb, dim=1),
        poses=poses,
        intrinsics=intrinsics,
        words=torch.stack(words).to(device)[of],
        inverse_depth=known[:, 0],
    )
    return Shown(truth=truth, inverse_depth=known)


@torch.inference_mode()
def film(
    model: WorldModel,
    codec: Codec,
    truth: Truth,
    *,
    told: bool = True,
    seed: int = 0,
    memory: bool = True,
    lifted: bool = False,
    say: Callable[[str], None] = lambda words: None,
) -> Film:
    """Let the model fly all of `truth` from its first pictures.

    told: with their depth.  lifted: kept off what is generated, see `engine.measure.lifted`; else along the true poses.
    """
    device = truth.frames.device
    still = encoded_first(codec, truth.frames[:, 0], truth.known(told))
    with half(device):
        first = codec.decode(still, still, last=True)[1]
    frames, depth, times = [truth.frames[:, :1]], [first.half()], [time.perf_counter()]
    chunks = (truth.poses.shape[1] - 1) // 8
    way = Lifted(truth.poses, truth.intrinsics) if lifted else None
    for rgb, inverse_depth in fly_truth(model, codec, truth, told=told, seed=seed, memory=memory, lifted=way):
        frames.append(((rgb + 1) * 127.5).round().to(torch.uint8).movedim(2, -1))
        depth.append(inverse_depth[:, EVERY - 1 :: EVERY].half())
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter())
        say(f"{len(times) - 1} of {chunks} chunks")
    spent = torch.tensor(times).double().diff()[min(WARM, chunks - 1) :]
    return Film(
        frames=torch.cat(frames, dim=1),
        inverse_depth=torch.cat(depth, dim=1),
        poses=truth.poses if way is None else way.poses,
        fps=8 * len(truth.frames) / float(spent.median()),
    )
