"""Hands at the other end of a wire: the pilot's messages become the same `Steering` that keys and mouse make."""

from __future__ import annotations

import math
import time
from dataclasses import replace

from explorer.controls import SPEED_MAX, SPEED_MIN, Controls, Six, Steering, Three
from explorer.mailbox import Mailbox
from explorer.protocol import Control


def steered(before: Steering, control: Control, *, input: int, time: float) -> Steering:
    """What is held now, and running totals one message further. Pure."""
    x, y, z = control.move
    size = max(math.hypot(x, y, z), 1.0)
    yaw, pitch, roll = control.turn
    a, b, c, d, e, f = (p + t for p, t in zip(before.presses, control.taps, strict=True))
    presses: Six = (a, b, c, d, e, f)
    move: Three = (x / size, y / size, z / size)
    return Steering(
        controls=Controls(move, (yaw, pitch, roll), min(max(control.speed, SPEED_MIN), SPEED_MAX)),
        presses=presses,
        look=(before.look[0] + control.look[0], before.look[1] + control.look[1]),
        input=input,
        time=time,
    )


class RemoteHands:
    """Written by the network thread, read by the one that steers. Inputs of successive pilots keep counting up."""

    def __init__(self) -> None:
        self.scenes: Mailbox[str] = Mailbox()  # ids of scenes asked for
        self._newest = (
            Steering(),
            0,
        )  # replaced as one: what is held, and the input before the pilot's first

    @property
    def steering(self) -> Steering:
        return self._newest[0]

    def control_of(self, input: int) -> int:
        """The id that the pilot's page gave to this input; 0 for one of before its time."""
        return max(input - self._newest[1], 0)

    def steer(self, control: Control) -> None:
        before, base = self._newest
        self._newest = steered(before, control, input=base + control.id, time=time.perf_counter()), base

    def release(self) -> None:
        before, _ = self._newest
        idle = Controls(speed=before.controls.speed)
        now = replace(before, controls=idle, input=before.input + 1)
        self._newest = now, now.input

    def choose(self, scene: str) -> None:
        self.scenes.put(scene)
