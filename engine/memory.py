"""Spatial memory: pictures with depth that a flight has seen, a bounded number, and which of them a coming chunk needs.

All of it is a value, batched over flights. Choice and bookkeeping look at a coarse grid of points only.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.conditioning import rigid_inverse
from engine.config import MEMORY, MemoryConfig
from engine.warp import NEAR, Sources, between, centres, project

CELLS = (10, 16)  # rows and columns in which coverage is counted
FINE = 2  # points per cell and axis where pictures compete for a view, so that what is magnified has no gaps
LONE = 5  # pixels: what stands out and is narrower than this both across and down is not remembered
TOUCH = 5  # pixels: side of the square around sky in which nothing else may be
WORTH = 1.0  # cells: a picture that adds less is left out


@dataclass(frozen=True, slots=True, kw_only=True)
class SpatialMemory:
    """What B flights remember. About 4 MB each at 256×160 with 16 slots."""

    kept: Sources  # [B, K]; slot 0: the first picture, for good; index -1: free
    latest: Sources  # [B, 1] the last frame of the chunk before

    @property
    def bytes(self) -> int:
        return sum(getattr(s, f.name).nbytes for s in (self.kept, self.latest) for f in fields(s))


def begin(first: Sources, *, config: MemoryConfig = MEMORY) -> SpatialMemory:
    """The memory of flights that have seen their first pictures [B, 1] only."""
    K = config.keyframes
    slots = {f.name: _padded(getattr(first, f.name), K) for f in fields(first)}
    index = torch.full_like(slots["index"], -1)
    index[:, 0] = first.index[:, 0]
    return SpatialMemory(kept=Sources(**{**slots, "index": index}), latest=first)


def _padded(x: Tensor, slots: int) -> Tensor:
    """[B, 1, ...] → [B, slots, ...]: cameras are repeated (a free slot needs a valid one), pixels are zero."""
    if x.dtype == torch.float64:
        return x.expand(-1, slots, *x.shape[2:]).contiguous()
    out = x.new_zeros(x.shape[0], slots, *x.shape[2:])
    out[:, :1] = x
    return out


def choose(
    memory: SpatialMemory, poses: Tensor, intrinsics: Tensor, *, config: MemoryConfig = MEMORY
) -> Sources:
    """The latest frame, and the keyframes that add most to what it shows of the coming views: [B, 1 + chosen].

    poses: [B, V, 4, 4], intrinsics [B, V, 4]; the first and the last count. Greedy: a cell of a view that is shown
    is worth ½, and up to ½ more the less its picture is magnified and the fewer times it was redrawn.
    """
    ends = [torch.stack((x[:, 0], x[:, -1]), dim=1) for x in (poses, intrinsics)]
    kept = memory.kept
    shown = _values(memory.latest, *ends)[:, 0]
    offers = _values(kept, *ends)  # [B, K, 2·cells]
    slots, good = [], []
    for _ in range(config.chosen):
        gain, slot = (offers - shown[:, None]).clamp_min(0).sum(dim=-1).max(dim=1)
        slots.append(slot)
        good.append(gain > WORTH)
        best = offers.gather(1, slot[:, None, None].expand(-1, 1, offers.shape[-1]))[:, 0]
        shown = torch.where(good[-1][:, None], torch.maximum(shown, best), shown)
    if not slots:
        return memory.latest
    picked = kept.take(torch.stack(slots, dim=1)).only(torch.stack(good, dim=1))
    both = {f.name: (getattr(memory.latest, f.name), getattr(picked, f.name)) for f in fields(picked)}
    return Sources(**{name: torch.cat(pair, dim=1) for name, pair in both.items()})


def insert(
    memory: SpatialMemory, frame: Sources, *, look: bool = True, config: MemoryConfig = MEMORY
) -> SpatialMemory:
    """The memory after a chunk whose last frame is `frame` [B, 1]: the latest one now, and a keyframe if it shows enough new.

    When all slots are taken the keyframe goes whose points the others show best. The first picture stays.
    look: at what is decided, to leave out what is not needed; without it the same comes out, and a GPU is not waited for.
    """
    kept = memory.kept
    frame = carved(frame, kept, config=config)
    known = _shows(frame, kept)[:, 0].any(dim=1).double().mean(dim=-1)  # [B]
    newest = kept.index.argmax(dim=1, keepdim=True)
    away = rigid_inverse(kept.poses.gather(1, newest[..., None, None].expand(-1, 1, 4, 4))) @ frame.poses
    turn = ((away[..., 0, 0] + away[..., 1, 1] + away[..., 2, 2] - 1) / 2).clamp(-1, 1).acos()
    moved = (away[..., :3, 3].norm(dim=-1) > config.moved[0]) | (turn > config.moved[1])
    due = (frame.index - kept.index.gather(1, newest) >= config.every) & moved
    write = (known < config.covered) | due[:, 0]
    if look and not bool(write.any()):
        return replace(memory, latest=frame)
    full = kept.used.all(dim=1)
    slot = kept.used.int().argmin(dim=1)  # the first free one
    if not look or bool((full & write).any()):
        slot = torch.where(full, _least_missed(kept, frame), slot)
    chosen = write[:, None] & (torch.arange(kept.index.shape[1], device=slot.device) == slot[:, None])

    def put(old: Tensor, new: Tensor) -> Tensor:
        return torch.where(chosen.view(*chosen.shape, *[1] * (old.ndim - 2)), new, old)

    held = {f.name: put(getattr(kept, f.name), getattr(frame, f.name)) for f in fields(kept)}
    return SpatialMemory(kept=Sources(**held), latest=frame)


def carved(frame: Sources, kept: Sources, *, config: MemoryConfig = MEMORY) -> Sources:
    """The frame [B, 1] without the points that earlier pictures [B, K] have seen through: inverse depth -1, which nothing draws.

    A decoder gives things a rim of their own depth in the colours behind them. As the camera comes near, that rim hides
    what was remembered right. It stands where a picture saw something farther: of the first picture and the two newest
    keyframes, those that show that place no more often redrawn decide, however little nearer it is: ground that creeps up
    to the camera goes too, and is found where it was first seen. What they saw beyond `clear` may have been haze.
    What stands alone then before all that is around it goes too, for it is a rest of something gone by.
    Sky goes that touches a thing, for it has something of its colour, and would carry outlines of it about for ever.
    Source of the idea: space carving, Kutulakos and Seitz 2000.
    """
    newest = kept.index.topk(min(2, kept.index.shape[1]), dim=1).indices
    slots = torch.cat((torch.zeros_like(newest[:, :1]), newest), dim=1)
    flight = torch.arange(len(slots), device=slots.device)[:, None]
    d = frame.inverse_depth.float().flatten(2)
    depth = kept.inverse_depth[flight, slots].float()
    Y, X = depth.shape[-2:]
    x, y = centres(Y, X, d.device)
    there = (kept.poses[flight, slots], kept.intrinsics[flight, slots])
    p0, p1, p2 = project(between(frame.poses, frame.intrinsics, *there), x, y, d)  # [B, 3, N]
    ahead = (p2 > NEAR) & (d >= 0) & kept.used[flight, slots][..., None]
    p2 = torch.where(ahead, p2, 1.0)
    u, v, expected = p0 / p2, p1 / p2, d / p2
    ahead = ahead & (u >= 0) & (u < X) & (v >= 0) & (v < Y)
    at = torch.where(ahead, v.floor() * X + u.floor(), 0.0).long()
    seen = F.max_pool2d(depth, 3, 1, 1).flatten(2).gather(2, at)  # the nearest of 3×3 pixels
    older = kept.generation[flight, slots].flatten(2).gather(2, at) <= frame.generation.flatten(2)
    through = (expected > seen + config.sky) & (expected > 1 / config.clear)
    image = frame.inverse_depth[:, 0].float()
    gone = (ahead & older & (seen >= 0) & through).any(dim=1).view_as(image)
    left = image.masked_fill(gone, -1.0)
    gone |= left * (1 - config.tolerance) - config.sky > _around(left, LONE)
    touched = F.max_pool2d(image, TOUCH, 1, TOUCH // 2) > 1 / config.clear
    gone |= touched & (image <= config.sky)
    return replace(frame, inverse_depth=frame.inverse_depth.masked_fill(gone[:, None], -1.0))


def _around(d: Tensor, side: int) -> Tensor:
    """d [N, Y, X] with its peaks taken down that are narrower than `side` both across and down: not poles, nor wires."""
    lines = ((1, side), (0, side // 2)), ((side, 1), (side // 2, 0))
    low = (
        F.max_pool2d(-F.max_pool2d(-d[:, None], line, 1, half), line, 1, half)[:, 0] for line, half in lines
    )
    return torch.maximum(*low)


def _least_missed(kept: Sources, frame: Sources) -> Tensor:
    """[B] the slot, not the first, with the fewest points that no other keyframe and not the new frame shows."""
    K = kept.index.shape[1]
    seen = _shows(kept, kept)  # [B, K points of, K seen in, T]
    others = seen & ~torch.eye(K, dtype=torch.bool, device=seen.device)[:, :, None]
    missed = ~(others.any(dim=2) | _shows(kept, frame)[:, :, 0])
    age = kept.index.double() / (
        kept.index.amax(dim=1, keepdim=True) + 1
    )  # below 1: the oldest of equals goes
    lost = missed.sum(dim=-1) + age
    lost[:, 0] = torch.inf
    return lost.argmin(dim=1)


def _points(sources: Sources, per_axis: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A coarse grid: x, y [T] in pixels, their flat pixel index [T], and inverse depth there, fp32 [B, S, T]."""
    Y, X = sources.inverse_depth.shape[-2:]
    rows, columns = CELLS[0] * per_axis, CELLS[1] * per_axis
    device = sources.index.device
    y = (torch.arange(rows, device=device) + 0.5) * (Y / rows)
    x = (torch.arange(columns, device=device) + 0.5) * (X / columns)
    y, x = (a.flatten() for a in torch.meshgrid(y, x, indexing="ij"))
    at = y.long() * X + x.long()
    return x, y, at, sources.inverse_depth.flatten(2)[..., at].float()


def _values(sources: Sources, poses: Tensor, intrinsics: Tensor) -> Tensor:
    """How well sources [B, S] show every cell of views [B, V]: 0 not at all, ½ … 1. Returns [B, S, V·cells]."""
    Y, X = sources.inverse_depth.shape[-2:]
    x, y, at, d = _points(sources, FINE)
    M = between(
        sources.poses[:, :, None], sources.intrinsics[:, :, None], poses[:, None], intrinsics[:, None]
    )
    p0, p1, p2 = project(M, x, y, d[:, :, None])  # [B, S, V, T]
    ahead = (p2 > NEAR) & sources.used[..., None, None] & (d >= 0)[:, :, None]
    p2 = torch.where(ahead, p2, 1.0)
    column, row = (p0 / p2 * (CELLS[1] / X)).floor(), (p1 / p2 * (CELLS[0] / Y)).floor()
    ahead = ahead & (column >= 0) & (column < CELLS[1]) & (row >= 0) & (row < CELLS[0])
    lens = (intrinsics[:, None, :, 0].double() / sources.intrinsics[:, :, None, 0]).float()
    worn = (1 + sources.generation.flatten(2)[..., at].float()).sqrt()[:, :, None]
    value = 0.5 + 0.5 / ((lens[..., None] / p2).clamp_min(1) * worn)
    cell = torch.where(ahead, row * CELLS[1] + column, 0.0).long()
    out = value.new_zeros(*cell.shape[:3], CELLS[0] * CELLS[1])
    return out.scatter_reduce(-1, cell, value * ahead, "amax").flatten(2)


def _shows(points: Sources, sources: Sources, *, slack: float = 0.25) -> Tensor:
    """Which coarse points of pictures [B, N] the sources [B, S] show too, at the same depth: bool [B, N, S, T]."""
    Y, X = sources.inverse_depth.shape[-2:]
    x, y, _, d = _points(points, 1)
    here, there = (
        (points.poses[:, :, None], points.intrinsics[:, :, None]),
        (sources.poses, sources.intrinsics),
    )
    M = between(*here, *(a[:, None] for a in there))  # [B, N, S, 3, 4]
    p0, p1, p2 = project(M, x, y, d[:, :, None])
    ahead = (p2 > NEAR) & sources.used[:, None, :, None] & (points.used[..., None] & (d >= 0))[:, :, None]
    p2 = torch.where(ahead, p2, 1.0)
    u, v, expected = p0 / p2, p1 / p2, d[:, :, None] / p2
    inside = ahead & (u >= 0) & (u < X) & (v >= 0) & (v < Y)
    at = torch.where(inside, v.floor() * X + u.floor(), 0.0).long()
    table = sources.inverse_depth.flatten(2)[:, None].expand(-1, at.shape[1], -1, -1)
    found = table.gather(3, at).float()
    return inside & ((found - expected).abs() <= slack * torch.maximum(found, expected) + MEMORY.sky)
