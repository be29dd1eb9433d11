"""The window: events in, hands and actions out. Owned by the main thread."""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Any

os.environ.setdefault("SDL_WINDOWS_DPI_AWARENESS", "permonitorv2")  # pixels, not enlarged ones
import pygame
from pygame._sdl2 import controller

from explorer.bindings import commands, key_axes
from explorer.controls import Grip, Hands
from explorer.gamepad import PadHands
from explorer.settings import Settings

_asked: SimpleQueue[tuple[int, dict[str, Any]]] = SimpleQueue()  # events for the window from other threads

NO_DISPLAY = (
    "no display to open a window on: run `explorer serve` and fly in a browser, or add --path and --out"
)
ACTIONS = {  # what is not for the settings to say
    pygame.K_ESCAPE: "escape",
    pygame.K_RETURN: "accept",
    pygame.K_KP_ENTER: "accept",
    pygame.K_LEFT: "left",
    pygame.K_RIGHT: "right",
    pygame.K_UP: "up",
    pygame.K_DOWN: "down",
}
TYPING = {  # what keys do besides writing letters
    pygame.K_BACKSPACE: "rewind",
    pygame.K_RETURN: "accept",
    pygame.K_KP_ENTER: "accept",
    pygame.K_ESCAPE: "escape",
    pygame.K_F11: "fullscreen",
}
BUTTONS = {  # in the gallery
    pygame.CONTROLLER_BUTTON_A: "accept",
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
    text: str = ""  # typed


def offscreen() -> bool:
    """Whether a window that nobody sees was asked for. EGL draws it without a screen, on the GPU if there is one."""
    return os.environ.get("SDL_VIDEODRIVER") == "offscreen"


def has_display() -> bool:
    """Whether there is something to open a window on."""
    servers = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return offscreen() or bool(servers) or not sys.platform.startswith("linux")


def require_display() -> None:
    """Raises ValueError, naming the browser as way out, where no window can be opened."""
    if not has_display():
        raise ValueError(NO_DISPLAY)


class Window:
    """A resizable OpenGL window, the keys held in it, and a gamepad if there is one."""

    def __init__(
        self,
        size: tuple[int, int],
        *,
        title: str,
        speed: float,
        settings: Settings | None = None,
        fullscreen: bool = False,
    ) -> None:
        """size: of the window; of no account on a full screen."""
        require_display()
        self._fullscreen = fullscreen
        try:
            pygame.display.init()
            pygame.font.init()
            if pygame.display.get_driver() in ("dummy", "offscreen") and not offscreen():
                raise pygame.error("no screen")  # SDL falls back on these by itself
            open_gl(size, fullscreen=fullscreen)
        except pygame.error:
            pygame.quit()
            raise ValueError(NO_DISPLAY) from None
        pygame.display.set_caption(title)
        self.settings = settings or Settings()
        self._commands = commands(self.settings.keys)
        self._pad_hands = PadHands(self.settings.gamepad)
        self.hands = Hands(speed=speed, grip=grip(self.settings))
        self.grabbed = False
        self.typing = False  # keys are letters, not commands
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
        for event in (*_posted(), *pygame.event.get()):
            self.saw(event, now)
            handler = self._handlers.get(event.type)
            came = getattr(event, "at", since)
            if handler is not None and (action := handler(self, event, flying, came)) is not None:
                actions.append(action)
        if self._pads and flying:
            pad = next(iter(self._pads.values()))
            self.hands = self.hands.pad(self._pad_hands.sticks(pad), now=now)
        return actions

    def saw(self, event: pygame.event.Event, now: float) -> None:
        """Every event passes here first: for windows that want to know more than which actions it means."""

    def _key_down(self, event: pygame.event.Event, flying: bool, now: float) -> Action | None:
        key = key_name(event.key)
        if self.typing:
            typed = TYPING.get(event.key)
            return Action(typed) if typed else None
        if flying:
            self.hands = self.hands.press(key, now=now)
        if pygame.K_1 <= event.key <= pygame.K_9 and key not in self._commands:
            return Action("return", event.key - pygame.K_0)
        if event.key == pygame.K_SPACE and not flying:
            return Action("accept")
        name = ACTIONS.get(event.key)
        if name is None or flying:
            name = self._commands.get(key, name)
        return self._asked(name, flying, now)

    def _asked(self, name: str | None, flying: bool, now: float) -> Action | None:
        """An action, or another speed."""
        if name in ("faster", "slower"):
            notches = (1 if name == "faster" else -1) if flying else 0
            self.hands = self.hands.wheel(notches, now=now)
            return None
        return Action(name) if name else None

    def _key_up(self, event: pygame.event.Event, flying: bool, now: float) -> Action | None:
        key = key_name(event.key)
        self.hands = self.hands.release(key, now=now)
        return Action("release") if self._commands.get(key) == "rewind" else None

    def _text(self, event: pygame.event.Event, flying: bool, now: float) -> Action | None:
        return Action("text", text=event.text) if self.typing else None

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
        bound = self._pad_hands.command(event.button)
        name = bound if flying else BUTTONS.get(event.button, bound)
        return self._asked(name, flying, now)

    def _button_up(self, event: pygame.event.Event, flying: bool, now: float) -> Action | None:
        return Action("release") if self._pad_hands.command(event.button) == "rewind" else None

    def _focus_lost(self, event: pygame.event.Event, flying: bool, now: float) -> Action:
        self.hands = self.hands.let_go(now=now)
        self.grab(False)
        return Action("release")

    def _plug(self, event: pygame.event.Event, flying: bool, now: float) -> None:
        if controller.is_controller(event.device_index):
            pad = controller.Controller(event.device_index)
            self._pads[pad.as_joystick().get_instance_id()] = pad

    def _unplug(self, event: pygame.event.Event, flying: bool, now: float) -> None:
        self._pads.pop(event.instance_id, None)
        self.hands = self.hands.pad((0.0,) * 6, now=now)

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

    def never_wait(self) -> None:
        """Flips wait for the display no longer: where the CPU draws, it has no time for that."""
        open_gl(self.size, fullscreen=self._fullscreen, wait=False)

    def close(self) -> None:
        controller.quit()
        pygame.quit()

    _handlers: dict[int, Callable[[Window, pygame.event.Event, bool, float], Action | None]] = {  # noqa: RUF012 -- a constant
        pygame.QUIT: lambda self, event, flying, now: Action("quit"),
        pygame.VIDEORESIZE: lambda self, event, flying, now: Action("resized"),
        pygame.KEYDOWN: _key_down,
        pygame.KEYUP: _key_up,
        pygame.TEXTINPUT: _text,
        pygame.MOUSEMOTION: _motion,
        pygame.MOUSEBUTTONDOWN: _click,
        pygame.MOUSEWHEEL: _wheel,
        pygame.CONTROLLERBUTTONDOWN: _button,
        pygame.CONTROLLERBUTTONUP: _button_up,
        pygame.WINDOWFOCUSLOST: _focus_lost,
        pygame.CONTROLLERDEVICEADDED: _plug,
        pygame.CONTROLLERDEVICEREMOVED: _unplug,
    }


def key_name(code: int) -> str:
    """As settings write it."""
    return pygame.key.name(code, use_compat=False).lower()


def grip(settings: Settings) -> Grip:
    """The settings of hands."""
    turn = math.radians(settings.mouse.sensitivity)
    yaw = -turn if settings.mouse.invert_x else turn
    pitch = -turn if settings.mouse.invert_y else turn
    return Grip(keys=key_axes(settings.keys), mouse_turn=(yaw, pitch), dead_zone=settings.gamepad.dead_zone)


def post_key(key: str, *, down: bool, now: float) -> None:
    """Press or release a key as if by hand at this time. From any thread."""
    _asked.put((pygame.KEYDOWN if down else pygame.KEYUP, {"key": key, "at": now}))


def post_quit() -> None:
    """Close the window as if by hand. From any thread."""
    _asked.put((pygame.QUIT, {}))


def _posted() -> Iterator[pygame.event.Event]:
    """What other threads have asked for. Only the thread of the window touches SDL."""
    while not _asked.empty():
        kind, given = _asked.get()
        yield pygame.event.Event(
            kind, {k: pygame.key.key_code(v) if k == "key" else v for k, v in given.items()}
        )


def open_gl(
    size: tuple[int, int], *, fullscreen: bool = False, hidden: bool = False, wait: bool = True
) -> None:
    """A window with OpenGL 3.3; again: the same window, its context kept. Raises pygame.error.

    wait: its flips wait for the display, where the driver can.
    """
    # Where Mesa draws with the CPU, it takes half the cores and leaves the others to the engine.
    os.environ.setdefault("LP_NUM_THREADS", str(max(1, (os.cpu_count() or 2) // 2)))
    for attribute, value in (
        (pygame.GL_CONTEXT_MAJOR_VERSION, 3),
        (pygame.GL_CONTEXT_MINOR_VERSION, 3),
        (pygame.GL_CONTEXT_PROFILE_MASK, pygame.GL_CONTEXT_PROFILE_CORE),
        (pygame.GL_CONTEXT_FORWARD_COMPATIBLE_FLAG, 1),  # macOS gives nothing newer than 2.1 without it
    ):
        pygame.display.gl_set_attribute(attribute, value)
    kind = pygame.FULLSCREEN if fullscreen else pygame.RESIZABLE
    kind |= pygame.HIDDEN if hidden else 0
    with warnings.catch_warnings():  # pygame warns where a driver cannot wait: then the clock sets the pace
        warnings.simplefilter("ignore")
        pygame.display.set_mode(
            (0, 0) if fullscreen else size, pygame.OPENGL | pygame.DOUBLEBUF | kind, vsync=int(wait)
        )
