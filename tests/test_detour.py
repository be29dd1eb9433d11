"""Paths through what was not there when they were written: worlds of planes, seen as a flight sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from engine.camera import Array, Pose
from engine.clearance import CLEARANCE
from engine.conditioning import pose_tensor
from engine.config import FPS
from engine.detour import BACK, FASTEST, detour, detoured, remembered
from engine.memory import SpatialMemory, begin, insert
from engine.recall import frame_source
from engine.snapshot import flatten, rebuild
from engine.warp import Sources
from explorer.dialect import POCKET_MOTION, roll_out
from explorer.pilot import turned
from tests.planes import FLAT, LENS, frame, nearest, plane

HEIGHT = CLEARANCE.height


def hill(origin: Array, rays: Array) -> Array:
    """A ridge across the way, one metre up in two, from z = 8 to its top at z = 16 and down to z = 24."""
    up, down = plane((0, 1, 0.5), (0, 2, 8)), plane((0, 1, -0.5), (0, 2, 24))
    depth = np.full(rays.shape[:2], np.inf)
    for side, first in ((up, 8), (down, 16)):
        t = side(origin, rays)
        with np.errstate(invalid="ignore"):
            z = origin[2] + t * rays[..., 2]
        depth = np.where((z >= first) & (z <= first + 8), np.minimum(depth, t), depth)
    return np.minimum(depth, FLAT(origin, rays))


def ground(z: float) -> float:
    """y of the hill's surface; the plane around it is at 2."""
    return 2.0 - max(0.0, 4.0 - abs(z - 16) / 2)


def seen(pose: Pose, world, index: int) -> Sources:  # type: ignore[no-untyped-def]
    shown = frame(pose, world)
    assert shown.inverse_depth is not None
    return frame_source(
        torch.from_numpy(shown.pixels)[None],
        torch.from_numpy(shown.inverse_depth)[None],
        torch.zeros(1, LENS.height, LENS.width, dtype=torch.uint8),
        pose=pose_tensor([pose])[0],
        intrinsics=torch.from_numpy(LENS.row)[None],
        index=torch.tensor([index]),
    )


def flown(path: Sequence[Pose], world, memory: SpatialMemory | None = None, first: int = 1) -> list[Pose]:  # type: ignore[no-untyped-def]
    """The path as it is flown through a world of which the last frame of every eight is remembered."""
    memory = memory or begin(seen(path[0], world, 0))
    poses = []
    for start in range(first, len(path), 8):
        poses += detoured(memory, path[start - 1], path[start : start + 8])
        memory = insert(memory, seen(poses[-1], world, start + 7))
    return poses


def keys(text: str, *, pitch: float = 0.0) -> list[Pose]:
    """A path of keys from the origin, which looks down by `pitch` radians."""
    begun = turned(Pose(), (0, pitch, 0)).matrix
    return [Pose.from_matrix(begun @ m) for m in roll_out(text, motion=POCKET_MOTION)]


def test_a_free_path_is_flown_exactly_as_it_is_written() -> None:
    path = keys("w-24,dw-24,s-16")
    for a, b in zip(flown(path, FLAT), path[1:], strict=True):
        assert np.array_equal(a.t, b.t)
        assert a.q == b.q


def test_a_path_into_the_ground_ends_above_it() -> None:
    """It looks where the path looks, gets as far, and no lower than one may fly."""
    path = keys("w-96", pitch=-0.3)
    assert path[-1].t[1] > 7
    poses = flown(path, FLAT)
    assert max(p.t[1] for p in poses) < 2.0 - 0.6 * HEIGHT
    assert 2.0 - poses[-1].t[1] == pytest.approx(HEIGHT, abs=0.4)
    assert poses[-1].t[2] == pytest.approx(path[-1].t[2], rel=0.25)
    assert all(a.q == b.q for a, b in zip(poses, path[1:], strict=True))


def test_a_hill_is_flown_over_and_the_path_found_again() -> None:
    path = keys("w-224")
    assert max(p.t[1] - ground(p.t[2]) for p in path) > 1.9  # through the hill
    poses = flown(path, hill)
    assert all(p.t[1] < ground(p.t[2]) - 0.3 * HEIGHT for p in poses)
    off = np.array([np.linalg.norm(a.t - b.t) for a, b in zip(poses, path[1:], strict=True)])
    assert off.max() > 2.0
    assert off[-1] < 0.1
    there = next(i for i, p in enumerate(poses) if p.t[2] > 30)
    assert np.allclose(off[there:], off[there] * (1 - 1 / (BACK * FPS)) ** np.arange(len(off) - there))


def test_who_rests_inside_of_a_hill_comes_to_rest_above_it() -> None:
    path = keys("w-56,none-200")
    assert path[-1].t[1] - ground(path[-1].t[2]) > 1.0
    poses = flown(path, hill)
    end = poses[-1].t
    assert ground(end[2]) - end[1] == pytest.approx(HEIGHT, abs=0.35)
    assert end[2] == pytest.approx(path[-1].t[2], abs=0.2)
    assert max(np.linalg.norm(p.t - end) for p in poses[-16:]) < 0.02


def test_what_was_seen_on_the_way_out_is_kept_off_on_the_way_back() -> None:
    """Backwards over a plateau which the newest pictures do not show, for they look away from it."""

    def plateau(origin: Array, rays: Array) -> Array:
        slope, top = plane((0, 1, 0.5), (0, 2, 8)), plane((0, 1, 0), (0, -2, 0))
        z = origin[2] + slope(origin, rays) * rays[..., 2]
        far = top(origin, rays)
        beyond = (far * rays[..., 2] + origin[2] >= 16) & np.isfinite(far)
        rise = np.where((z >= 8) & (z <= 16), slope(origin, rays), np.inf)
        return np.minimum(np.minimum(rise, np.where(beyond, far, np.inf)), FLAT(origin, rays))

    path = keys("w-160,s-160")
    poses = flown(path, plateau)
    assert all(p.t[1] < -2 - 0.3 * HEIGHT for p in poses if p.t[2] > 16)
    assert poses[-1].t[2] < 4.0


def test_a_wall_holds_up_and_nobody_rushes_after() -> None:
    wall = nearest(FLAT, plane((0, 0, 1), (0, 0, 6.0)))
    path = keys("w-320")
    poses = [Pose(), *flown(path, wall)]
    assert poses[48].t[2] < 6.0
    speed = np.array([np.linalg.norm(b.t - a.t) for a, b in pairwise(poses)]) * FPS
    assert speed.max() < POCKET_MOTION.speed + FASTEST + 1e-6
    late = detour(Pose(t=np.array([0.0, 0, -100])), Pose(), Pose(), np.empty((0, 3)), 1 / FPS)
    assert (late.t[2] + 100) * FPS == pytest.approx(FASTEST)


def test_a_flight_that_was_saved_is_gone_on_with_alike() -> None:
    path = keys("w-96")
    whole = flown(path, hill)
    memory = begin(seen(path[0], hill, 0))
    for start in range(1, 49, 8):
        half = detoured(memory, path[start - 1], path[start : start + 8])
        memory = insert(memory, seen(half[-1], hill, start + 7))
    arrays, record = flatten(memory)
    again = flown(path, hill, rebuild(SpatialMemory, arrays, record), first=49)
    for a, b in zip(again, whole[48:], strict=True):
        assert np.array_equal(a.matrix, b.matrix)


def test_every_picture_counts_once() -> None:
    """The first one is the newest and a keyframe, too."""
    memory = begin(seen(Pose(), FLAT, 0))
    once = remembered(memory)
    assert len(once) == len(np.unique(once, axis=0))
    assert np.allclose(once[:, 1], 2.0, atol=0.02)
    beside = replace(Pose(), t=np.array([50.0, 0, 0]))
    both = remembered(insert(memory, seen(beside, FLAT, 8)))
    assert len(both) == 2 * len(once)
