"""The window: events in, hands and actions out. Owned by the main thread."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
os.environ.setdefault("SDL_WINDOWS_DPI_AWARENESS", "permonitorv2")  # pixels, not enlarged ones
import pygame
from pygame._sdl2 import controller

from explorer.controls import Hands

NO_DISPLAY = (
    "no display to open a window on: run `explorer serve` and fly in a browser, or add --path and --out"
)
ACTIONS = {
    pygame.K_F1: "help",
    pygame.K_h: "help",
    pygame.K_TAB: "figures",
    pygame.K_v: "raw",
    pygame.K_f: "walk",
    pygame.K_l: "level",
    pygame.K_z: "zoom_in",
    pygame.K_x: "zoom_out",
    pygame.K_n: "gallery",
    pygame.K_r: "restart",
    pygame.K_F9: "record",
    pygame.K_F12: "screenshot",
    pygame.K_F11: "fullscreen",
    pygame.K_ESCAPE: "escape",
    pygame.K_RETURN: "accept",
    pygame.K_KP_ENTER: "accept",
    pygame.K_LEFT: "left",
    pygame.K_RIGHT: "right",
    pygame.K_UP: "up",
    pygame.K_DOWN: "down",
}
BUTTONS = {
    pygame.CONTROLLER_BUTTON_A: "accept",
    pygame.CONTROLLER_BUTTON_B: "gallery",
    pygame.CONTROLLER_BUTTON_Y: "restart",
    pygame.CONTROLLER_BUTTON_START: "help",
    pygame.CONTROLLER_BUTTON_BACK: "figures",
    pygame.CONTROLLER_BUTTON_DPAD_LEFT: "left",
    pygame.CONTROLLER_BUTTON_DPAD_RIGHT: "right",
    pygame.CONTROLLER_BUTTON_DPAD_UP: "up",
    pygame.CONTROLLER_BUTTON_DPAD_DOWN: "down",
}


@dataclass(frozen=True, slots=True)
class Action:
    """Something asked for once, with the mouse position where it matters."""

    name: str
    x: int = 0
    y: int = 0


def require_display() -> None:
    """Raises ValueError, naming the browser as way out, where no window can be opened."""
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        raise ValueError(NO_DISPLAY)


class Window:
    """A resizable OpenGL window, the keys held in it, and a gamepad if there is one."""

    def __init__(self, size: tuple[int, int], *, title: str, speed: float) -> None:
        require_display()
        try:
            pygame.display.init()
            pygame.font.init()
            if pygame.display.get_driver() in ("dummy", "offscreen"):
                raise pygame.error("no screen")
            _open(size)
        except pygame.error:
            pygame.quit()
            raise ValueError(NO_DISPLAY) from None
        pygame.display.set_caption(title)
        self.hands = Hands(speed=speed)
        self.grabbed = False
        self._looked = 0.0  # perf_counter seconds of the last look at the events
        self._pads: dict[int, controller.Controller] = {}
        controller.init()
        pygame.key.set_repeat()

    @property
    def size(self) -> tuple[int, int]:
        return pygame.display.get_window_size()

    def pump(self, *, flying: bool, now: float) -> list[Action]:
        """Take all waiting events. While `flying`, flight keys steer; else they only choose.

        An event says not when it came. It may have waited since the last look, so that is its time: latencies are
        upper bounds.
        """
        actions: list[Action] = []
        since, self._looked = self._looked or now, now
        for event in pygame.event.get():
            handler = self._handlers.get(event.type)
            came = getattr(event, "at", since)
            if handler is not None and (action := handler(self, event, flying, came)) is not None:
                actions.append(action)
        if self._pads and flying:
            self.hands = self.hands.pad(self._sticks(), now=now)
        return actions

    def _key_down(self, event: pygame.event.Event, flying: bool, now: float) -> Action | None:
        if flying:
            self.hands = self.hands.press(pygame.key.name(event.key), now=now)
        if event.key == pygame.K_SPACE and not flying:
            return Action("accept")
        name = ACTIONS.get(event.key)
        return Action(name) if name else None

    def _key_up(self, event: pygame.event.Event, flying: bool, now: float) -> None:
        self.hands = self.hands.release(pygame.key.name(event.key), now=now)

    def _motion(self, event: pygame.event.Event, flying: bool, now: float) -> Action | None:
        if self.grabbed:
            self.hands = self.hands.mouse(*event.rel, now=now)
            return None
        return Action("point", *event.pos)

    def _click(self, event: pygame.event.Event, flying: bool, now: float) -> Action | None:
        if event.button != 1:
            return None
        if flying:
            self.grab(True)
        return Action("click", *event.pos)

    def _wheel(self, event: pygame.event.Event, flying: bool, now: float) -> None:
        self.hands = self.hands.wheel(event.y, now=now)

    def _button(self, event: pygame.event.Event, flying: bool, now: float) -> Action | None:
        name = BUTTONS.get(event.button)
        if flying and name in ("up", "down"):
            self.hands = self.hands.wheel(1 if name == "up" else -1, now=now)
        return Action(name) if name else None

    def _focus_lost(self, event: pygame.event.Event, flying: bool, now: float) -> None:
        self.hands = self.hands.let_go(now=now)
        self.grab(False)

    def _plug(self, event: pygame.event.Event, flying: bool, now: float) -> None:
        if controller.is_controller(event.device_index):
            pad = controller.Controller(event.device_index)
            self._pads[pad.as_joystick().get_instance_id()] = pad

    def _unplug(self, event: pygame.event.Event, flying: bool, now: float) -> None:
        self._pads.pop(event.instance_id, None)
        self.hands = self.hands.pad((0.0,) * 6, now=now)

    def _sticks(self) -> tuple[float, float, float, float, float, float]:
        """Left stick flies, right stick looks, triggers lift and sink, shoulders roll."""
        pad = next(iter(self._pads.values()))
        lift = _axis(pad, pygame.CONTROLLER_AXIS_TRIGGERRIGHT) - _axis(
            pad, pygame.CONTROLLER_AXIS_TRIGGERLEFT
        )
        right, left = pygame.CONTROLLER_BUTTON_RIGHTSHOULDER, pygame.CONTROLLER_BUTTON_LEFTSHOULDER
        return (
            _axis(pad, pygame.CONTROLLER_AXIS_LEFTX),
            -lift,
            -_axis(pad, pygame.CONTROLLER_AXIS_LEFTY),
            _axis(pad, pygame.CONTROLLER_AXIS_RIGHTX),
            -_axis(pad, pygame.CONTROLLER_AXIS_RIGHTY),
            float(pad.get_button(right)) - float(pad.get_button(left)),
        )

    def grab(self, on: bool) -> None:
        """Hold the mouse inside the window, or give it back."""
        if on != self.grabbed:
            self.grabbed = on
            pygame.event.set_grab(on)
            pygame.mouse.set_visible(not on)
            pygame.mouse.get_rel()

    def fresh_hands(self) -> None:
        """Nothing held; the speed and the count of inputs stay."""
        self.hands = replace(self.hands, held=frozenset())

    def close(self) -> None:
        controller.quit()
        pygame.quit()

    _handlers: dict[int, Callable[[Window, pygame.event.Event, bool, float], Action | None]] = {  # noqa: RUF012 -- a constant
        pygame.QUIT: lambda self, event, flying, now: Action("quit"),
        pygame.VIDEORESIZE: lambda self, event, flying, now: Action("resized"),
        pygame.KEYDOWN: _key_down,
        pygame.KEYUP: _key_up,
        pygame.MOUSEMOTION: _motion,
        pygame.MOUSEBUTTONDOWN: _click,
        pygame.MOUSEWHEEL: _wheel,
        pygame.CONTROLLERBUTTONDOWN: _button,
        pygame.WINDOWFOCUSLOST: _focus_lost,
        pygame.CONTROLLERDEVICEADDED: _plug,
        pygame.CONTROLLERDEVICEREMOVED: _unplug,
    }


def _axis(pad: controller.Controller, axis: int) -> float:
    return max(pad.get_axis(axis) / 32767.0, -1.0)


def post_key(key: str, *, down: bool, now: float) -> None:
    """Press or release a key as if by hand at this time. From any thread."""
    kind = pygame.KEYDOWN if down else pygame.KEYUP
    pygame.event.post(pygame.event.Event(kind, key=pygame.key.key_code(key), at=now))


def post_quit() -> None:
    """Close the window as if by hand. From any thread."""
    pygame.event.post(pygame.event.Event(pygame.QUIT))


def _open(size: tuple[int, int]) -> None:
    for attribute, value in (
        (pygame.GL_CONTEXT_MAJOR_VERSION, 3),
        (pygame.GL_CONTEXT_MINOR_VERSION, 3),
        (pygame.GL_CONTEXT_PROFILE_MASK, pygame.GL_CONTEXT_PROFILE_CORE),
        (pygame.GL_CONTEXT_FORWARD_COMPATIBLE_FLAG, 1),  # macOS gives nothing newer than 2.1 without it
    ):
        pygame.display.gl_set_attribute(attribute, value)
    pygame.display.set_mode(size, pygame.OPENGL | pygame.DOUBLEBUF | pygame.RESIZABLE)
