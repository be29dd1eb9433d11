"""The pilot under what hands do, and off the ground. Pure."""

from __future__ import annotations

from dataclasses import replace

from engine.camera import Array
from engine.clearance import cleared
from explorer.controls import Steering
from explorer.pilot import PILOT, PilotConfig, PilotState, steered


def guided(
    state: PilotState, steering: Steering, dt: float, points: Array, pilot: PilotConfig = PILOT
) -> PilotState:
    """The pilot `dt` seconds later. points: [n, 3] of what he keeps off, see `engine.clearance`."""
    after = steered(state, steering, dt, pilot)
    pose = cleared(state.pose, after.pose, points, dt)
    return after if pose is after.pose else replace(after, pose=pose)
