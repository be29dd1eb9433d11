"""Flight against closed forms and properties."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.camera import Pose
from explorer.controls import Controls, Hands
from explorer.pilot import PILOT, PilotState, advance, angles, fly, oriented, steered, turned

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
    end = advance(PilotState(Pose(oriented(0, 0, 0.4))), Controls(), 0.5, config, level=True)
    assert angles(end.pose)[2] == pytest.approx(0.4 * math.exp(-1.0))


def hold(hands: Hands, seconds: float, state: PilotState | None = None, *, steps: int = 30) -> PilotState:
    """Fly on with these hands."""
    state = state or PilotState()
    for _ in range(steps):
        state = steered(state, hands.steering, seconds / steps)
    return state


def test_what_is_held_is_flown() -> None:
    hands = Hands().press("w", now=0.0).press("right", now=0.0)
    expected = PilotState()
    for _ in range(32):  # a step ends where the first press's pulse does
        expected = advance(expected, hands.controls, 1.0 / 32)
    np.testing.assert_allclose(hold(hands, 1.0, steps=32).pose.matrix, expected.pose.matrix, atol=1e-9)


@given(st.integers(1, 40), st.floats(0.01, 0.2))
def test_two_taps_count_whole_however_time_is_cut(steps: int, between: float) -> None:
    tap = Hands().press("w", now=0.0).release("w", now=0.01)
    both = tap.press("space", now=between).release("space", now=between + 0.01)
    state = hold(both, 1.0, hold(tap, between, steps=1), steps=steps)
    exact = hold(both, 1.0, hold(tap, between, steps=1), steps=1)
    np.testing.assert_allclose(state.pose.t, exact.pose.t, atol=1e-9)


@given(st.integers(1, 40))
def test_a_tap_counts_once_for_a_pulse_however_time_is_cut(steps: int) -> None:
    tap = Hands().press("w", now=0.0).release("w", now=0.01)
    pulse = advance(PilotState(), Controls(move=(0, 0, 1)), PILOT.pulse)
    expected = advance(pulse, Controls(), 1.0 - PILOT.pulse).pose.t[2]
    assert hold(tap, 1.0, steps=steps).pose.t[2] == pytest.approx(expected, abs=1e-9)


def test_a_long_press_has_no_pulse_after_it() -> None:
    hands = Hands().press("w", now=0.0)
    state = hold(hands, 0.5)
    assert not state.pulse.any()
    after = advance(state, Controls(), 0.5)
    np.testing.assert_allclose(hold(hands.release("w", now=0.5), 0.5, state).pose.t, after.pose.t, atol=1e-9)


@given(st.floats(-250, 250), st.floats(-200, 200))
def test_mouse_travel_arrives_whole_and_no_faster_than_allowed(dx: float, dy: float) -> None:
    hands, state, last = Hands().mouse(dx, dy, now=0.0), PilotState(), (0.0, 0.0, 0.0)
    for _ in range(60):
        state = steered(state, hands.steering, 1 / 60)
        now = angles(state.pose)
        assert abs(now[0] - last[0]) <= PILOT.look_rate / 60 + 1e-9
        last = now
    assert last[:2] == pytest.approx(hands.look, abs=1e-9)
    assert not state.moving(hands.steering)


def test_mouse_travel_turns_within_the_first_refresh() -> None:
    state = steered(PilotState(), Hands().mouse(10, 0, now=0.0).steering, 1 / 60)
    assert angles(state.pose)[0] > 0.25 * Hands().mouse(10, 0, now=0.0).look[0]


def test_a_wild_mouse_does_not_turn_for_seconds() -> None:
    state = hold(Hands().mouse(100_000, 0, now=0.0), 3.0)
    assert angles(state.pose)[0] == pytest.approx(PILOT.look_backlog)


@given(poses, controls, st.lists(st.floats(0.001, 0.3), min_size=1, max_size=8))
def test_who_walks_keeps_the_height_exactly(pose: Pose, held: Controls, times: list[float]) -> None:
    state = advance(PilotState(pose), held, 0.3)  # arrives flying
    height = state.pose.t[1]
    for dt in times:
        state = advance(state, held, dt, walk=True)
        assert state.pose.t[1] == height


def test_who_walks_is_upright_and_goes_at_full_speed_wherever_he_looks() -> None:
    hands = Hands(walk=True).press("w", now=0.0)
    state = hold(hands, 4.0, PilotState(Pose(oriented(0.5, 0.9, 0.4))), steps=240)
    yaw, pitch, roll = angles(state.pose)
    assert (yaw, pitch) == pytest.approx((0.5, 0.9))
    assert abs(roll) < 1e-4
    np.testing.assert_allclose(state.velocity, (0, 0, hands.speed), atol=1e-6)


@given(poses)
def test_changing_between_walking_and_flying_keeps_the_course(pose: Pose) -> None:
    flying = advance(PilotState(pose), Controls(move=(1, 0, 0)), 2.0)
    world = flying.pose.R @ flying.velocity
    walking = advance(flying, Controls(), 1e-9, walk=True)
    back = advance(walking, Controls(), 1e-9)
    np.testing.assert_allclose((back.pose.R @ back.velocity)[[0, 2]], world[[0, 2]], atol=1e-6)


def test_level_lasts_until_the_pilot_rolls() -> None:
    hands = Hands().level_out(now=0.0)
    state = hold(hands, 3.0, PilotState(Pose(oriented(0.3, 0.2, 0.4))))
    assert angles(state.pose) == pytest.approx((0.3, 0.2, 0.0), abs=1e-3)
    rolled = hold(hands.press("e", now=3.0), 0.5, state)
    assert angles(rolled.pose)[2] > 0.1
    assert not hands.press("e", now=3.0).release("e", now=3.5).level


@given(poses, st.lists(st.sampled_from([*"wasdqelf", "space", "c", "up", "left"]), max_size=12))
def test_any_keys_keep_the_pilot_finite_and_within_limits(pose: Pose, keys: list[str]) -> None:
    hands, state = Hands(), PilotState(pose)
    for key in keys:
        modes = {"f": hands.toggle_walk, "l": hands.level_out}
        turn = hands.release if key in hands.held else hands.press
        hands = modes[key](now=0.0) if key in modes else turn(key, now=0.0)
        state = steered(state, hands.steering, 0.1)
        _, pitch, roll = angles(state.pose)
        assert np.isfinite(state.pose.matrix).all()
        assert abs(pitch) <= PILOT.pitch_limit + 1e-9
        assert abs(roll) <= PILOT.roll_limit + 1e-9


@given(poses, st.floats(0, 1))
def test_splitting_time_changes_nothing_for_who_is_steered_straight(pose: Pose, split: float) -> None:
    hands = Hands(zoom=1.4).press("w", now=0.0)
    whole = steered(PilotState(pose), hands.steering, 0.1)
    parts = steered(steered(PilotState(pose), hands.steering, 0.1 * split), hands.steering, 0.1 * (1 - split))
    np.testing.assert_allclose(parts.pose.matrix, whole.pose.matrix, atol=1e-9)
    assert parts.zoom == pytest.approx(whole.zoom)
