"""A gamepad read as the settings say: sticks, triggers and buttons become the six axes, buttons become commands."""

from __future__ import annotations

from collections.abc import Mapping

import pygame
from pygame._sdl2 import controller

from explorer.bindings import AXES, PAD_BUTTONS, PAD_STICKS, PAD_TRIGGERS, commands
from explorer.controls import Six
from explorer.settings import Gamepad

FULL = 32767.0  # of a stick
STICKS: Mapping[str, int] = {
    name: getattr(pygame, f"CONTROLLER_AXIS_{sdl}")
    for name, sdl in zip(
        (*PAD_STICKS, *PAD_TRIGGERS),
        ("LEFTX", "LEFTY", "RIGHTX", "RIGHTY", "TRIGGERLEFT", "TRIGGERRIGHT"),
        strict=True,
    )
}
BUTTONS: Mapping[str, int] = {
    name: getattr(pygame, f"CONTROLLER_BUTTON_{name.upper().replace('DP', 'DPAD_')}") for name in PAD_BUTTONS
}


class PadHands:
    """The bindings of one pilot."""

    def __init__(self, settings: Gamepad) -> None:
        self._settings = settings
        self._commands = {
            BUTTONS[name]: action for name, action in commands(settings.bound).items() if name in BUTTONS
        }

    def command(self, button: int) -> str | None:
        """What pressing this button asks for."""
        return self._commands.get(button)

    def sticks(self, pad: controller.Controller) -> Six:
        """In the order of `Controls.axes`, each in [-1, 1], before the dead zone."""
        axes = [0.0] * 6
        for action, (axis, sign) in AXES.items():
            axes[axis] += sign * max(
                (_pressed(pad, name) for name in self._settings.bound[action]), default=0.0
            )
        axes[3] *= -1 if self._settings.invert_x else 1
        axes[4] *= -1 if self._settings.invert_y else 1
        x, y, z, yaw, pitch, roll = (min(max(a, -1.0), 1.0) for a in axes)
        return x, y, z, yaw, pitch, roll


def _pressed(pad: controller.Controller, name: str) -> float:
    """How far an input is pressed, 0 to 1; a stick only to the named side."""
    if name in BUTTONS:
        return float(pad.get_button(BUTTONS[name]))
    sign = -1.0 if name[0] == "-" else 1.0
    return min(max(sign * pad.get_axis(STICKS[name.lstrip("+-")]) / FULL, 0.0), 1.0)
