"""What a player would remember along a training clip: for every chunk the condition that the engine would make.

The frames that can be remembered are the last ones of chunks, so a clip is walked chunk by chunk with the code of
the engine. Conditions are made once, when a clip is rendered, and kept as channels (13 kB a chunk): warping anew for
every batch would be 64 × 12 chunks a step, several times the cost of the step itself. A flight can begin at
`entries(chunks)`; a cut that begins later recalls what was seen before it, as a long flight does whose recurrent
state has forgotten its start.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.codec import Codec
from engine.composite import composite
from engine.config import MEMORY, MemoryConfig, memory_channels
from engine.memory import begin, insert
from engine.recall import draw_on, frame_source, recall
from engine.train.data import Clips
from engine.warp import Warped


@dataclass(frozen=True, kw_only=True)
class Doubts:
    """How memory is spoilt in training, so that the model trusts but checks."""

    decoded_depth: float = 0.5  # share of clips with the codec's depth instead of the renderer's
    decoded_color: float = 0.5  # share of clips with the codec's pictures
    wrong_poses: float = 0.1  # share of clips in which the remembered poses are off
    turn: float = math.radians(0.7)  # standard deviation about each axis
    shift: float = 0.08  # metres, the same along each axis
    partial: float = 0.2  # share of chunks that lose every source with probability ½


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The frames of N clips at chunk borders, as remembered: [N, L + 1, ...]."""

    rgb: Tensor  # uint8 [N, L+1, Y, X, 3]
    inverse_depth: Tensor  # fp16 [N, L+1, Y, X]
    poses: Tensor  # fp64 [N, L+1, 4, 4]
    first_rgb: Tensor  # [N, L+1, Y, X, 3]: a first picture is never decoded, but its depth is
    first_depth: Tensor  # [N, L+1, Y, X]


def entries(chunks: int) -> tuple[int, ...]:
    """Chunk borders at which a remembered flight begins."""
    return (0, chunks // 2) if chunks > 1 else (0,)


@torch.no_grad()
def conditions(
    clips: Clips,
    moving: Tensor,
    still: Tensor,
    *,
    codec: Codec,
    generator: torch.Generator,
    doubts: Doubts | None = None,
    config: MemoryConfig = MEMORY,
) -> Tensor:
    """Memory channels of all chunks of all entries: bfloat16 [N, entries, L+1, memory_channels, h, w], 0 before an entry's
    first chunk.

    moving, still: [N, L+1, C, h, w], latents of the clips as the pool has them.  generator: on the device of the clips.
    """
    count, borders = still.shape[:2]
    seen = _seen(clips, moving, still, codec=codec, generator=generator, doubts=doubts or Doubts())
    starts = entries(borders - 1)
    out = still.new_zeros(
        count, len(starts), borders, memory_channels(codec.config), *codec.config.grid, dtype=torch.bfloat16
    )
    for e, start in enumerate(starts):
        for i, channels in _walk(clips, seen, start, codec, generator, doubts or Doubts(), config):
            out[:, e, i] = channels[:, :, 0].bfloat16()
    return out


def _walk(
    clips: Clips,
    seen: Seen,
    start: int,
    codec: Codec,
    generator: torch.Generator,
    doubts: Doubts,
    config: MemoryConfig,
) -> Iterator[tuple[int, Tensor]]:
    """Fly the clips from border `start` and remember: chunk number and its channels."""
    n, device = codec.config.frames, seen.rgb.device
    count, borders = seen.rgb.shape[:2]
    blank = torch.zeros(seen.inverse_depth[:, 0].shape, dtype=torch.uint8, device=device)

    def frame(rgb: Tensor, depth: Tensor, age: Tensor, i: int):  # type: ignore[no-untyped-def]
        index = torch.full((count,), n * i, device=device)
        return frame_source(
            rgb, depth, age, pose=seen.poses[:, i], intrinsics=clips["intrinsics"][:, n * i], index=index
        )

    memory = begin(frame(seen.first_rgb[:, start], seen.first_depth[:, start], blank, start), config=config)
    for i in range(start + 1, borders):
        views = slice(n * (i - 1) + 1, n * i + 1)
        lucky = torch.rand(count, 1, device=device, generator=generator) >= doubts.partial
        kept = torch.rand(count, 1 + config.chosen, device=device, generator=generator) < 0.5
        recalled = recall(
            memory,
            clips["poses"][:, views],
            clips["intrinsics"][:, views],
            codec=codec,
            draw=draw_on(device),
            keep=lucky | kept,
            half=True,
            config=config,
        )
        yield i, recalled.channels
        latest = frame(seen.rgb[:, i], seen.inverse_depth[:, i], recalled.warped.generation[:, -1], i)
        memory = insert(memory, latest, config=config)


def _seen(
    clips: Clips, moving: Tensor, still: Tensor, *, codec: Codec, generator: torch.Generator, doubts: Doubts
) -> Seen:
    """Truth or what the codec makes of it, clip by clip."""
    n, device = codec.config.frames, still.device
    rgb, depth = clips["frames"][:, ::n], clips["inverse_depth"][:, ::n]
    poses = clips["poses"][:, ::n].double()

    def drawn(share: float) -> Tensor:
        return torch.rand(len(rgb), device=device, generator=generator) < share

    coded_depth, coded_color, wrong = (
        drawn(doubts.decoded_depth),
        drawn(doubts.decoded_color),
        drawn(doubts.wrong_poses),
    )
    moving = torch.cat([still[:, :1], moving[:, 1:]], dim=1)
    first_depth, own_rgb, own_depth = depth.clone(), rgb.clone(), depth.clone()
    for i in range(still.shape[1]):
        if i in entries(still.shape[1] - 1):
            coded = last_frame(codec, still[:, i], still[:, i])[1]
            first_depth[:, i] = torch.where(coded_depth[:, None, None], coded, first_depth[:, i])
        if i:
            color, inverse = last_frame(codec, moving[:, i - 1], moving[:, i])
            own_rgb[:, i] = torch.where(coded_color[:, None, None, None], color, own_rgb[:, i])
            own_depth[:, i] = torch.where(coded_depth[:, None, None], inverse, own_depth[:, i])
    off = _small_motions(poses.shape[:2], doubts, generator)
    return Seen(
        rgb=own_rgb,
        inverse_depth=own_depth,
        poses=torch.where(wrong[:, None, None, None], poses @ off, poses),
        first_rgb=rgb,
        first_depth=first_depth,
    )


def last_frame(
    codec: Codec, previous: Tensor, latent: Tensor, seen: Warped | None = None
) -> tuple[Tensor, Tensor]:
    """uint8 [N, Y, X, 3] and fp16 [N, Y, X] of the last frame that two latents decode to, with what was `seen` of it."""
    dtype = codec.mean.dtype
    with torch.autocast(latent.device.type, torch.bfloat16):
        rgb, depth = codec.decode(previous.to(dtype), latent.to(dtype), last=True)
    if seen is not None:
        rgb, depth = composite(rgb, depth, seen)
    color = ((rgb[:, 0].float() + 1) * 127.5).round().to(torch.uint8).movedim(1, -1)
    return color, depth[:, 0].half()


def _small_motions(shape: torch.Size, doubts: Doubts, generator: torch.Generator) -> Tensor:
    """Rigid motions close to the identity, fp64 [*shape, 4, 4]."""
    device = generator.device
    w = torch.randn(*shape, 3, device=device, generator=generator, dtype=torch.float64) * doubts.turn
    t = torch.randn(*shape, 3, 1, device=device, generator=generator, dtype=torch.float64) * doubts.shift
    zero = torch.zeros_like(w[..., 0])
    x, y, z = w.unbind(-1)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    return F.pad(torch.cat([torch.linalg.matrix_exp(cross), t], dim=-1), (0, 0, 0, 1)) + F.pad(
        torch.ones(*shape, 1, 1, device=device, dtype=torch.float64), (3, 0, 3, 0)
    )
