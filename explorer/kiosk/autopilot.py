"""The flight that nobody steers: a slow wander, as positions of a gamepad's sticks. Pure."""

from __future__ import annotations

import math

from explorer.controls import Six

STEP = 0.25  # seconds for which a position is kept
FORWARD, TURN, NOD, LIFT = 0.62, 0.42, 0.13, 0.20  # of full deflection; a stick's dead zone is 0.15


def sticks(seconds: float) -> Six:
    """What is held so long after a flight began, in the order of `Controls.axes`: always forward, turning in slow waves.

    The periods have no common multiple within an hour, so that no two minutes look alike; both turns and climbs even out.
    """
    t = STEP * math.floor(seconds / STEP)
    ease = min(t / 3.0, 1.0)  # from rest
    turn = TURN * math.sin(t * math.tau / 23.0) * abs(math.sin(t * math.tau / 61.0))
    nod = NOD * math.cos(t * math.tau / 17.0)  # a cosine: its sum nods as far down as up
    lift = -LIFT * math.sin(t * math.tau / 29.0)
    return (0.0, lift * ease, FORWARD * ease, turn * ease, nod * ease, 0.0)
