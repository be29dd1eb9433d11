"""Flight against closed forms and properties."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.camera import Pose
from explorer.controls import Controls, Hands, Steering
from explorer.pilot import PILOT, PilotState, advance, angles, fly, oriented, roll_forward, turned

axis = st.floats(-1, 1)
controls = st.builds(
    Controls, st.tuples(axis, axis, axis), st.tuples(axis, axis, axis), st.floats(0.1, 30, allow_nan=False)
)
poses = st.builds(
    lambda yaw, pitch, roll: Pose(oriented(yaw, pitch, roll)),
    st.floats(-3, 3),
    st.floats(-1.0, 1.0),
    st.floats(-0.5, 0.5),
)


@given(st.floats(-3.1, 3.1), st.floats(-1.5, 1.5), st.floats(-1.5, 1.5))
def test_angles_invert_oriented(yaw: float, pitch: float, roll: float) -> None:
    assert angles(Pose(oriented(yaw, pitch, roll))) == pytest.approx((yaw, pitch, roll), abs=1e-9)


@given(poses, st.floats(0.01, 1.0))
def test_forward_is_where_the_camera_looks(pose: Pose, dt: float) -> None:
    moved = fly(pose, Controls(move=(0, 0, 1), speed=4.0), dt).t - pose.t
    np.testing.assert_allclose(moved, pose.R[:, 2] * 4.0 * dt, atol=1e-12)


@given(poses, st.floats(0.01, 0.5))
def test_yaw_turns_about_the_worlds_down_axis(pose: Pose, dt: float) -> None:
    turned_pose = fly(pose, Controls(turn=(1, 0, 0)), dt)
    a = PILOT.turn_rate[0] * dt
    about_down = np.array([[math.cos(a), 0, math.sin(a)], [0, 1, 0], [-math.sin(a), 0, math.cos(a)]])
    np.testing.assert_allclose(turned_pose.R, about_down @ pose.R, atol=1e-12)


@given(poses, controls, st.floats(0.1, 20))
def test_pitch_and_roll_stay_within_their_limits(pose: Pose, held: Controls, dt: float) -> None:
    _, pitch, roll = angles(fly(pose, held, dt))
    assert abs(pitch) <= PILOT.pitch_limit + 1e-9
    assert abs(roll) <= PILOT.roll_limit + 1e-9


def test_a_pose_beyond_the_limit_may_come_back_but_is_not_thrown() -> None:
    steep = Pose(oriented(0, 1.3, 0))
    assert angles(turned(steep, (0, 0.2, 0)))[1] == pytest.approx(1.3)
    assert angles(turned(steep, (0, -0.1, 0)))[1] == pytest.approx(1.2)


@given(poses, controls, st.floats(0, 1))
def test_splitting_dt_changes_velocity_not_at_all_and_position_to_second_order(
    pose: Pose, held: Controls, split: float
) -> None:
    state, dt = PilotState(pose), 1 / 60
    whole = advance(state, held, dt)
    parts = advance(advance(state, held, dt * split), held, dt * (1 - split))
    np.testing.assert_allclose(parts.velocity, whole.velocity, atol=1e-12)
    np.testing.assert_allclose(parts.rate, whole.rate, atol=1e-12)
    np.testing.assert_allclose(parts.pose.R, whole.pose.R, atol=1e-9)
    turn, path = (
        np.linalg.norm(held.turn) * dt,
        held.speed * dt,
    )  # a chord against its arc: at most turn·path/2
    assert np.linalg.norm(parts.pose.t - whole.pose.t) <= turn * path / 2 + 1e-12


@given(st.floats(0.01, 3))
def test_straight_flight_from_rest_has_a_closed_form(dt: float) -> None:
    end = advance(PilotState(), Controls(move=(0, 0, 1), speed=4.0), dt)
    k = PILOT.lag
    assert end.pose.t[2] == pytest.approx(4.0 * (dt - (1 - math.exp(-k * dt)) / k))
    assert end.velocity[2] == pytest.approx(4.0 * (1 - math.exp(-k * dt)))


def test_let_go_comes_to_rest_after_the_stopping_distance() -> None:
    state = PilotState(velocity=np.array([0.0, 0.0, 4.0]))
    for _ in range(600):
        state = advance(state, Controls(), 1 / 60)
    assert state.pose.t[2] == pytest.approx(4.0 / PILOT.lag)


def test_level_brings_an_untouched_roll_back() -> None:
    config = replace(PILOT, level=2.0)
    end = advance(PilotState(Pose(oriented(0, 0, 0.4))), Controls(), 0.5, config)
    assert angles(end.pose)[2] == pytest.approx(0.4 * math.exp(-1.0))


def test_a_chunk_ends_where_the_held_controls_lead() -> None:
    steering = Hands().press("w", now=0.0).press("right", now=0.0).steering
    poses, state, _ = roll_forward(PilotState(), steering, Steering(), frames=8, fps=16)
    expected = PilotState()
    for _ in range(8):
        expected = advance(expected, steering.controls, 1 / 16)
    assert len(poses) == 8
    np.testing.assert_allclose(poses[-1].matrix, expected.pose.matrix, atol=1e-12)
    assert state.pose is poses[-1]


def test_a_tap_between_two_chunks_counts_once_for_a_pulse() -> None:
    tap = Hands().press("w", now=0.0).release("w", now=0.01).steering
    _, state, used = roll_forward(PilotState(), tap, Steering(), frames=8, fps=16)
    pulse = advance(PilotState(), Controls(move=(0, 0, 1)), PILOT.pulse)
    assert state.pose.t[2] == pytest.approx(advance(pulse, Controls(), 0.5 - PILOT.pulse).pose.t[2])
    _, later, _ = roll_forward(PilotState(), tap, used, frames=8, fps=16)
    assert later.pose.t[2] == 0.0


@given(st.floats(-300, 300), st.floats(-200, 200))
def test_mouse_travel_arrives_whole_within_two_chunks(dx: float, dy: float) -> None:
    steering = Hands().mouse(dx, dy, now=0.0).steering
    state, used, last = PilotState(), Steering(), (0.0, 0.0, 0.0)
    for _ in range(2):
        poses, state, used = roll_forward(state, steering, used, frames=8, fps=16)
        for pose in poses:
            now = angles(pose)
            assert abs(now[0] - last[0]) <= 1.5 * PILOT.look_rate / 16 + 1e-9
            last = now
    assert last[0] == pytest.approx(steering.look[0], abs=1e-9)
    assert last[1] == pytest.approx(steering.look[1], abs=1e-9)
    assert used.look == pytest.approx(steering.look)


def test_a_wild_mouse_does_not_turn_for_seconds() -> None:
    steering = Hands().mouse(100_000, 0, now=0.0).steering
    state, used = PilotState(), Steering()
    for _ in range(6):
        _, state, used = roll_forward(state, steering, used, frames=8, fps=16)
    assert angles(state.pose)[0] == pytest.approx(2 * PILOT.look_rate * 0.5)
