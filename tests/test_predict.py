"""The forecast of the pilot, and the way of generated poses back to it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.camera import Intrinsics, Pose
from engine.frame import Frame
from explorer.controls import Controls, Hands, Steering
from explorer.pacer import Pacer
from explorer.pilot import PilotState, angles, oriented, steered, turned
from explorer.predict import (
    MOVE_LEAD,
    SLOWEST,
    SPEED_LIMIT,
    TURN_LEAD,
    TURN_LIMIT,
    Flown,
    foretold,
    held_back,
    reconciled,
    zoomed,
)
from explorer.reproject import MOST_TURN, Anchor, leashed

near = st.floats(-0.3, 0.3)
poses = st.builds(
    lambda yaw, pitch, roll, x, y, z: Pose(oriented(yaw, pitch, roll), np.array([x, y, z])),
    st.floats(-3.1, 3.1), near, near, near, near, near,
)  # fmt: skip


def way(hands: Hands, *, start: float, count: int = 9) -> list[Pose]:
    flown = Flown(flight=1, steering=hands.steering, pilot=PilotState(), time=10.0)
    return [state.pose for state in foretold(flown, [start + i / 16 for i in range(count)])]


def test_the_forecast_is_the_flight() -> None:
    hands = Hands().press("w", now=0.0).press("d", now=0.0)
    state = PilotState()
    for _ in range(100):
        state = steered(state, hands.steering, 0.01)
    pose = way(hands, start=11.0, count=1)[0]
    np.testing.assert_allclose(pose.t, state.pose.t, atol=1e-9)


def test_a_turning_forecast_is_close_to_the_flight() -> None:
    hands = Hands().press("w", now=0.0).press("right", now=0.0)
    state = PilotState()
    for _ in range(400):
        state = steered(state, hands.steering, 0.0025)
    pose = way(hands, start=11.0, count=1)[0]
    np.testing.assert_allclose(angles(pose), angles(state.pose), atol=1e-9)
    # arcs flown in steps of dt: each is off by (rate dt)²/24 of its length at most
    assert np.linalg.norm(pose.t - state.pose.t) < 4.0 * (0.8 / 32) ** 2


def test_times_that_are_over_show_the_pilot_now() -> None:
    assert way(Hands().press("w", now=0.0), start=5.0, count=2)[1].t[2] == 0.0


@given(poses)
def test_a_camera_that_is_where_the_pilot_is_just_follows(pose: Pose) -> None:
    wanted = [Pose(pose.q, pose.t + np.array([0, 0, 0.1 * i])) for i in range(1, 9)]
    for got, want in zip(reconciled(pose, pose, wanted, seconds=0.5), wanted, strict=True):
        np.testing.assert_allclose(got.matrix, want.matrix, atol=1e-9)


@given(poses, poses)
def test_a_small_lead_is_caught_up_within_the_chunk(start: Pose, pilot: Pose) -> None:
    wanted = [pilot] * 8
    turn = abs(math.remainder(pilot.yaw - start.yaw, math.tau))
    end = reconciled(start, pilot, wanted, seconds=0.5)[-1]
    if turn <= TURN_LIMIT * 0.5:
        np.testing.assert_allclose(end.matrix, pilot.matrix, atol=1e-9)
    else:
        assert abs(math.remainder(end.yaw - start.yaw, math.tau)) == pytest.approx(TURN_LIMIT * 0.5)


@given(poses, poses)
def test_no_frame_jumps(start: Pose, pilot: Pose) -> None:
    last = start
    for pose in reconciled(start, pilot, [pilot] * 8, seconds=0.5):
        assert abs(math.remainder(pose.yaw - last.yaw, math.tau)) <= 1.25 * TURN_LIMIT / 16 + 1e-9
        last = pose


def test_far_away_is_approached_no_faster_than_the_limit() -> None:
    far = Pose(t=np.array([0.0, 0.0, 1000.0]))
    end = reconciled(Pose(), far, [far] * 8, seconds=0.5)[-1]
    assert end.t[2] == pytest.approx(SPEED_LIMIT * 0.5)


@given(poses, poses)
def test_a_pilot_near_the_world_is_free_and_one_far_ahead_waits(here: Pose, there: Pose) -> None:
    got = held_back(PilotState(there), here).pose
    lead = np.subtract(angles(got), angles(here))
    lead[0] = math.remainder(lead[0], math.tau)
    assert np.linalg.norm(lead) <= TURN_LEAD + 1e-9
    assert np.linalg.norm(got.t - here.t) <= MOVE_LEAD * SLOWEST + 1e-9
    asked = np.subtract(angles(there), angles(here))
    asked[0] = math.remainder(asked[0], math.tau)
    if np.linalg.norm(asked) < TURN_LEAD:
        np.testing.assert_allclose(got.matrix, there.matrix, atol=1e-9)


def test_who_turns_for_seconds_without_a_world_stays_on_his_side_of_it() -> None:
    hands, pilot = Hands().press("right", now=0.0), PilotState()
    for _ in range(600):
        pilot = held_back(steered(pilot, hands.steering, 1 / 60), Pose())
    assert pilot.pose.yaw == pytest.approx(TURN_LEAD)


@given(st.floats(0.5, 2.0), st.floats(0.6, 2.4))
def test_lenses_stay_within_those_known(zoom: float, fov: float) -> None:
    lens = Intrinsics.from_fov(fov, width=256, height=160)
    got = zoomed(lens, zoom)
    angle = 2 * math.atan(0.5 * 256 / got.fx)
    low, high = min(math.radians(50), fov), max(math.radians(95), fov)
    assert low - 1e-9 <= angle <= high + 1e-9
    assert got.fy == pytest.approx(got.fx)
    assert zoomed(lens, 1.0).fx == pytest.approx(lens.fx)


def frames(poses: Sequence[Pose]) -> tuple[Frame, ...]:
    picture = np.zeros((2, 2, 3), np.uint8)
    lens = Intrinsics.from_fov(1.0, width=2, height=2)
    return tuple(Frame(pixels=picture, pose=p, intrinsics=lens, index=0, world="a") for p in poses)


@pytest.mark.parametrize("seconds", [0.2, 0.4, 0.7])  # that a chunk of half a second takes to make
def test_a_turn_is_seen_at_once_and_without_jumps_at_chunk_borders(seconds: float) -> None:
    """Two seconds of turning, 60 refreshes a second, chunks made in the background: what the window shows."""
    pacer, pilot, hands, generated = Pacer(fps=16), PilotState(), Hands(), Pose()
    end = pacer.add(frames([generated]), input=0, seconds=seconds, now=0.0)
    anchor, ready = Anchor(generated, 0.0), None
    yaws, raw, leads = [], [], []
    for refresh in range(300):
        now = refresh / 60
        if refresh == 60:
            hands = hands.press("right", now=now)
        if refresh == 180:
            hands = hands.release("right", now=now)
        pilot = steered(pilot, hands.steering, 1 / 60)
        if ready is not None and now >= ready[0]:
            end, ready = pacer.add(frames(ready[1]), input=0, seconds=seconds, now=now), None
        if ready is None and now >= end - seconds:
            begin, period = max(end, now + seconds), pacer.period
            flown = Flown(flight=1, steering=hands.steering, pilot=pilot, time=now)
            before, *states = foretold(flown, [begin + i * period for i in range(-1, 8)])
            poses = reconciled(generated, before.pose, [s.pose for s in states], seconds=8 * period)
            generated, ready = poses[-1], (now + seconds, poses)
        pacer.due(now)
        here = pacer.between(now)
        assert here is not None
        anchor = anchor.towards(here, now)
        yaws.append(leashed(pilot.pose, anchor.pose, reach=None).yaw)
        raw.append(pacer.shown.frame.pose.yaw if pacer.shown else 0.0)
        leads.append(pilot.pose.yaw - here.yaw)
    steps = np.diff(yaws)
    assert yaws[60] > yaws[59]  # within one refresh
    assert steps[60:179].min() > -0.002  # never back while turning
    assert steps.max() < 1.25 * TURN_LIMIT / 60 + MOST_TURN * 4 / 60  # catching up, and the leash let out
    assert steps.max() < 0.4 * np.diff(raw).max()
    unseen = math.radians(0.01)  # at rest, as `pilot.at_rest` has it, world and pilot agree
    assert abs(leads[-1]) < unseen
    assert yaws[-1] == pytest.approx(pilot.pose.yaw, abs=unseen)


def test_a_forecast_ends_above_the_ground() -> None:
    """Nose down over a plain: where the pilot keeps off, the engine is told so."""
    x, z = np.meshgrid(np.linspace(-2, 2, 21), np.linspace(0, 12, 61))
    ground = np.stack((x.ravel(), np.full(x.size, 2.0), z.ravel()), axis=-1)
    down = PilotState(turned(Pose(), (0.0, -0.6, 0.0)))
    flown = Flown(flight=1, steering=Steering(controls=Controls(move=(0.0, 0.0, 1.0))), pilot=down, time=0.0)
    times = [i / 16 for i in range(1, 33)]
    through, above = foretold(flown, times), foretold(flown, times, points=ground)
    assert through[-1].pose.t[1] > 2.5
    assert max(state.pose.t[1] for state in above) < 2.0 - 0.5
    assert above[-1].pose.t[2] > 3.0
