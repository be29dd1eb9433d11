"""Nobody flies into the ground: frames of known geometry, and pilots who try."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine.camera import Pose
from engine.clearance import CLEARANCE, FRAMES, Surroundings, cleared, surfaces
from explorer.clearance import guided
from explorer.controls import Controls, Steering
from explorer.pilot import PilotState, steered, turned
from tests.planes import FLAT, LENS, frame, nearest, plane

HEIGHT = CLEARANCE.height


def flown(world, seconds: float, move: tuple[float, float, float], *, pose: Pose | None = None):  # type: ignore[no-untyped-def]
    """Poses of a pilot in a world of which he sees a frame every half second."""
    pilot, around, poses = PilotState(pose or Pose()), Surroundings(), []
    held = Steering(controls=Controls(move=move, speed=4.0))
    for i in range(round(seconds * 32)):
        if i % 16 == 0:
            around = around.after(frame(pilot.pose, world))
        pilot = guided(pilot, held, 1 / 32, around.points)
        poses.append(pilot.pose)
    return poses


def test_points_lie_on_what_was_seen() -> None:
    pose = replace(turned(Pose(), (0.5, -0.4, 0.1)), t=np.array([3.0, -1.0, 2.0]))
    shown = frame(pose, FLAT)
    assert shown.inverse_depth is not None
    points = surfaces(shown.inverse_depth, pose, LENS)
    assert len(points) > 200
    assert np.allclose(points[:, 1], 2.0, atol=0.02)


@pytest.mark.parametrize("pitch", [0.0, -0.5])
def test_flight_ends_above_flat_ground(pitch: float) -> None:
    """Level nothing happens; nose down the ground is not reached."""
    poses = flown(FLAT, 4.0, (0, 0, 1), pose=turned(Pose(), (0, pitch, 0)))
    above = np.array([2.0 - p.t[1] for p in poses])
    if not pitch:
        assert np.allclose(above, 2.0)
    assert above.min() > 0.6 * HEIGHT
    assert poses[-1].t[2] > 8.0  # and he still gets along


def test_a_slope_is_climbed() -> None:
    slope = plane((0, 1, 0.5), (0, 2.0, 0))  # rises one metre in two
    poses = flown(nearest(FLAT, slope), 6.0, (0, 0, 1))
    for p in poses:
        ground = min(2.0, 2.0 - 0.5 * p.t[2])
        assert ground - p.t[1] > 0.4 * HEIGHT
    assert poses[-1].t[2] > 10.0


def test_a_wall_slows_to_a_creep_and_does_not_throw_back() -> None:
    wall = plane((0, 0, 1), (0, 0, 6.0))
    z = np.array([p.t[2] for p in flown(nearest(FLAT, wall), 5.0, (0, 0, 1))])
    assert z[64] < 6.0 - CLEARANCE.distance + 0.1
    assert (np.diff(z) > -1e-9).all()
    speed = np.diff(z)[64:96] * 32
    assert np.allclose(speed, CLEARANCE.creep * 4.0, atol=0.5)
    assert z.max() < 6.2


def test_along_a_wall_and_below_a_ceiling_the_way_is_free() -> None:
    beside, ceiling = plane((1, 0, 0), (1.0, 0, 0)), plane((0, 1, 0), (0, -1.0, 0))
    poses = flown(nearest(FLAT, beside, ceiling), 3.0, (0, 0, 1))
    assert all(p.t[1] == 0 for p in poses)
    assert poses[-1].t[2] == pytest.approx(flown(FLAT, 3.0, (0, 0, 1))[-1].t[2])


def test_straight_down_only_what_is_below_counts() -> None:
    """A hillside three metres off stops nobody who sinks beside it."""
    beside = plane((0, 0, 1), (0, 0, 3.0))
    around = Surroundings()
    for pitch in (0.0, -0.9):
        behind = turned(replace(Pose(), t=np.array([0.0, -2.0, -1.5])), (0, pitch, 0))
        around = around.after(frame(behind, nearest(FLAT, beside)))
    pilot = replace(Pose(), t=np.array([0.0, -4.0, 0.0]))
    for i in range(80):
        after = cleared(pilot, replace(pilot, t=pilot.t + np.array([0.0, 0.1, 0.0])), around.points, 1 / 16)
        if i < 20:
            assert after.t[1] - pilot.t[1] == pytest.approx(0.1)
        pilot = after
    assert 2.0 - pilot.t[1] == pytest.approx(HEIGHT + 0.1, abs=0.02)  # he still pushes down by that


def test_single_errors_of_depth_stop_nobody() -> None:
    pilot, held = PilotState(), Steering(controls=Controls(move=(0, 0, 1)))
    after = steered(pilot, held, 1 / 16)
    points = np.array([[0.0, 0.0, 0.7], [0.1, 0.0, 0.7]])
    assert cleared(pilot.pose, after.pose, points, 1 / 16) is after.pose
    assert cleared(pilot.pose, after.pose, np.repeat(points, 2, axis=0), 1 / 16) is not after.pose


def test_who_stands_still_is_left_alone_and_so_is_a_world_without_depth() -> None:
    low = replace(Pose(), t=np.array([0.0, 1.9, 0.0]))
    around = Surroundings().after(frame(low, FLAT))
    pilot = PilotState(low)
    assert cleared(low, low, around.points, 1 / 16) is low
    blind = Surroundings().after(replace(frame(low, FLAT), inverse_depth=None))
    after = steered(pilot, Steering(controls=Controls(move=(0, 0, 1))), 1 / 16)
    assert cleared(low, after.pose, blind.points, 1 / 16) is after.pose
    assert np.array_equal(
        guided(pilot, Steering(controls=Controls(move=(0, 0, 1))), 1 / 16, blind.points).pose.t, after.pose.t
    )


def test_only_the_last_frames_count() -> None:
    around = Surroundings()
    for i in range(FRAMES + 3):
        around = around.after(frame(replace(Pose(), t=np.array([100.0 * i, 0.0, 0.0])), FLAT))
    assert len(around.seen) == FRAMES
    assert around.points[:, 0].min() > 200.0
