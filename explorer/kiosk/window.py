"""The station's window: any input counts, the keys that would leave do nothing, the operator's chord does."""

from __future__ import annotations

import pygame

from explorer.kiosk.chord import Chord
from explorer.window import Action, Window

MOTION = 3  # pixels a mouse must travel between two events: a table shakes
STICK = 0.4  # of a stick's way: worn sticks drift
KEYS = {
    pygame.K_l: "language",
    pygame.K_r: "again",
    pygame.K_n: "scenes",
    pygame.K_h: "help",
    pygame.K_F1: "help",
}
BUTTONS = {
    pygame.CONTROLLER_BUTTON_X: "language",
    pygame.CONTROLLER_BUTTON_Y: "again",
    pygame.CONTROLLER_BUTTON_B: "scenes",
    pygame.CONTROLLER_BUTTON_START: "help",
}
CHOOSING = frozenset({"left", "right", "up", "down", "accept", "point", "click"})
MASKS = (
    ("ctrl", pygame.KMOD_CTRL),
    ("alt", pygame.KMOD_ALT),
    ("shift", pygame.KMOD_SHIFT),
    ("super", pygame.KMOD_META),
)


class StationWindow(Window):
    """A window that visitors cannot leave."""

    def __init__(
        self, size: tuple[int, int], *, title: str, speed: float, fullscreen: bool, leave: Chord
    ) -> None:
        super().__init__(size, title=title, speed=speed, fullscreen=fullscreen)
        self.leave = leave
        self.padded = False  # the last input came from a gamepad
        self._touched = False
        self._wanted: list[Action] = []
        self._downs: list[pygame.event.Event] = []
        self._pointing = False
        pygame.mouse.set_visible(False)
        pygame.event.set_keyboard_grab(True)  # the desktop's own shortcuts never see a key

    def visit(self, *, flying: bool, now: float) -> tuple[list[Action], bool]:
        """The station's actions since the last call, and whether anybody touched anything."""
        self._touched, self._wanted, self._downs = False, [], []
        actions = [a for a in self.pump(flying=flying, now=now) if a.name in CHOOSING or a.name == "resized"]
        held = flying and not self.hands.controls.idle
        return [*self._wanted, *actions], self._touched or held

    def point(self, on: bool) -> None:
        """Show the mouse, where there is something to point at."""
        if on != self._pointing:
            self._pointing = on
            pygame.mouse.set_visible(on)

    def grab(self, on: bool) -> None:
        if on != self.grabbed:
            super().grab(on)
            pygame.mouse.set_visible(self._pointing)

    def take_up(self, now: float) -> None:
        """The keys that went down last steer: whoever begins a visit by holding one flies at once."""
        for event in self._downs:
            self._key_down(event, True, now)

    def saw(self, event: pygame.event.Event, now: float) -> None:
        match event.type:
            case pygame.KEYDOWN:
                self._key(event)
            case pygame.CONTROLLERBUTTONDOWN:
                self._touch(padded=True)
                if name := BUTTONS.get(event.button):
                    self._wanted.append(Action(name))
            case pygame.CONTROLLERAXISMOTION if abs(event.value) > STICK * 32767:
                self._touch(padded=True)
            case pygame.MOUSEMOTION if abs(event.rel[0]) + abs(event.rel[1]) >= MOTION:
                self._touch(padded=False)
            case pygame.MOUSEBUTTONDOWN | pygame.MOUSEWHEEL:
                self._touch(padded=False)

    def _key(self, event: pygame.event.Event) -> None:
        pressed = {name: bool(event.mod & mask) for name, mask in MASKS}
        if Chord(key=pygame.key.name(event.key), **pressed) == self.leave:
            self._wanted.append(Action("leave"))
            return
        self._touch(padded=False)
        self._downs.append(event)
        if name := KEYS.get(event.key):
            self._wanted.append(Action(name))

    def _touch(self, *, padded: bool) -> None:
        self._touched, self.padded = True, padded
