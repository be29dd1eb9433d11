"""Keys, mouse, wheel and gamepad become controls."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from explorer.controls import (
    KEYS,
    SPEED_DEFAULT,
    SPEED_MAX,
    SPEED_MIN,
    ZOOM_MAX,
    Controls,
    Hands,
    dead_disc,
    dead_zone,
)


def test_keys_hold_and_release() -> None:
    hands = Hands().press("w", now=1.0)
    assert hands.controls.move == (0.0, 0.0, 1.0)
    assert hands.release("w", now=2.0).controls.idle


def test_auto_repeat_is_one_press() -> None:
    once = Hands().press("w", now=1.0)
    assert once.press("w", now=1.1) is once


def test_opposite_keys_cancel_and_diagonals_are_not_faster() -> None:
    assert Hands().press("w", now=0.0).press("s", now=0.0).controls.idle
    diagonal = Hands().press("w", now=0.0).press("d", now=0.0).controls.move
    assert math.hypot(*diagonal) == pytest.approx(1.0)


def test_a_released_tap_stays_in_the_steering() -> None:
    steering = Hands().press("left", now=0.0).release("left", now=0.02).steering
    assert steering.controls.idle
    assert steering.presses[3] == -1.0
    assert steering.input == 2
    assert steering.time == 0.02


def test_mouse_right_turns_right_and_away_looks_up() -> None:
    yaw, pitch = Hands().mouse(10, -5, now=0.0).steering.look
    assert yaw > 0
    assert pitch > 0


def test_wheel_is_logarithmic_and_bounded() -> None:
    assert Hands().wheel(12, now=0.0).speed == pytest.approx(min(10 * SPEED_DEFAULT, SPEED_MAX))
    assert Hands().wheel(-1000, now=0.0).speed == SPEED_MIN
    assert Hands().wheel(1000, now=0.0).speed == SPEED_MAX


def test_let_go_releases_keys_and_sticks() -> None:
    hands = Hands().press("w", now=0.0).pad((0.0, 0.0, 0.0, 1.0, 0.0, 0.0), now=0.0)
    assert hands.let_go(now=1.0).controls.idle


@given(st.floats(-1, 1))
def test_dead_zone_is_odd_monotone_and_full_at_the_rim(x: float) -> None:
    assert dead_zone(-x) == -dead_zone(x)
    assert abs(dead_zone(x)) <= abs(x)
    assert dead_zone(1.0) == 1.0


@given(st.lists(st.sampled_from([*sorted(KEYS), "x"])), st.tuples(*[st.floats(-1, 1)] * 6))
def test_controls_are_always_valid(keys: list[str], axes: tuple[float, ...]) -> None:
    hands = Hands()
    for key in keys:
        hands = hands.press(key, now=0.0)
    x, y, z, yaw, pitch, roll = axes
    hands.pad((x, y, z, yaw, pitch, roll), now=0.0).controls  # noqa: B018 -- the constructor checks its ranges


@pytest.mark.parametrize("bad", [{"move": (2.0, 0, 0)}, {"turn": (math.nan, 0, 0)}, {"speed": 31.0}])
def test_controls_refuse_what_no_hand_can_do(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must lie within"):
        Controls(**bad)  # type: ignore[arg-type]


@given(st.floats(0, 1), st.floats(0, 2 * math.pi))
def test_the_dead_disc_keeps_directions_and_reaches_the_rim(size: float, angle: float) -> None:
    x, y = dead_disc(size * math.cos(angle), size * math.sin(angle))
    assert math.hypot(x, y) == pytest.approx(dead_zone(size), abs=1e-12)
    if x or y:
        assert math.remainder(math.atan2(y, x) - angle, math.tau) == pytest.approx(0, abs=1e-9)


def test_a_slight_diagonal_outside_the_disc_is_not_cut_to_an_axis() -> None:
    stick = Hands().pad((0.14, 0.0, 0.5, 0.0, 0.0, 0.0), now=0.0).stick
    assert stick[0] > 0


def test_modes() -> None:
    hands = Hands().toggle_walk(now=1.0)
    assert hands.steering.walk
    assert not hands.toggle_walk(now=2.0).steering.walk
    assert hands.zoomed(1, now=2.0).steering.zoom > 1 > hands.zoomed(-1, now=2.0).steering.zoom
    assert hands.zoomed(100, now=2.0).zoom == ZOOM_MAX
    level = hands.level_out(now=3.0)
    assert level.steering.level
    assert level.input == 2
    assert not level.press("e", now=4.0).level
    assert level.press("w", now=4.0).level
