"""What a pilot may bind: actions, and the names of keys and gamepad inputs, as SDL calls them. Pure."""

from __future__ import annotations

from collections.abc import Mapping

AXES: Mapping[str, tuple[int, float]] = {  # what is held to fly → axis of `Controls.axes`, sign
    "right": (0, 1.0),
    "left": (0, -1.0),
    "down": (1, 1.0),
    "up": (1, -1.0),
    "forward": (2, 1.0),
    "back": (2, -1.0),
    "turn_right": (3, 1.0),
    "turn_left": (3, -1.0),
    "look_up": (4, 1.0),
    "look_down": (4, -1.0),
    "roll_right": (5, 1.0),
    "roll_left": (5, -1.0),
}

Bound = Mapping[str, tuple[str, ...]]  # action → inputs

KEYS: Bound = {
    "forward": ("w",),
    "back": ("s",),
    "left": ("a",),
    "right": ("d",),
    "up": ("space",),
    "down": ("c",),
    "turn_left": ("left",),
    "turn_right": ("right",),
    "look_up": ("up",),
    "look_down": ("down",),
    "roll_left": ("q",),
    "roll_right": ("e",),
    "faster": ("=",),
    "slower": ("-",),
    "restart": ("r",),
    "gallery": ("n",),
    "rewind": ("backspace",),
    "mark": ("b",),
    "branch": ("j",),
    "timeline": ("l",),
    "pause": ("p",),
    "single": (".",),
    "words": ("t",),
    "save": ("f5",),
    "seed": ("f6",),
    "refiner": ("f8",),
    "walk": ("f",),
    "level": ("k",),
    "zoom_in": ("z",),
    "zoom_out": ("x",),
    "raw": ("v",),
    "record": ("f9",),
    "screenshot": ("f12",),
    "figures": ("tab",),
    "fullscreen": ("f11",),
    "help": ("h", "f1"),
}
PAD: Bound = {
    "forward": ("-lefty",),
    "back": ("+lefty",),
    "left": ("-leftx",),
    "right": ("+leftx",),
    "up": ("righttrigger",),
    "down": ("lefttrigger",),
    "turn_left": ("-rightx",),
    "turn_right": ("+rightx",),
    "look_up": ("-righty",),
    "look_down": ("+righty",),
    "roll_left": ("leftshoulder",),
    "roll_right": ("rightshoulder",),
    "faster": ("dpup",),
    "slower": ("dpdown",),
    "restart": ("y",),
    "gallery": ("b",),
    "record": (),
    "screenshot": (),
    "figures": ("back",),
    "fullscreen": (),
    "help": ("start",),
    "rewind": ("x",),
    "mark": (),
    "branch": (),
    "timeline": (),
    "pause": (),
    "single": (),
    "words": (),
    "save": (),
    "seed": (),
    "refiner": (),
    "walk": ("rightstick",),
    "level": ("leftstick",),
    "zoom_in": (),
    "zoom_out": (),
    "raw": (),
}

RESERVED = "escape"  # the way out of everything
KEY_NAMES = frozenset(
    (
        *"abcdefghijklmnopqrstuvwxyz0123456789",
        *"'-,./;=[\\]`",
        *(f"f{n}" for n in range(1, 16)),
        *("space", "tab", "return", "backspace", "insert", "delete", "home", "end", "pageup", "pagedown"),
        *("left", "right", "up", "down", "capslock", "scrolllock", "printscreen", "pause", "menu"),
        *(f"{side} {name}" for side in ("left", "right") for name in ("shift", "ctrl", "alt", "gui")),
        *(f"keypad {name}" for name in (*"0123456789./*-+=", "enter")),
    )
)
PAD_STICKS = ("leftx", "lefty", "rightx", "righty")
PAD_TRIGGERS = ("lefttrigger", "righttrigger")
PAD_BUTTONS = (
    *("a", "b", "x", "y", "back", "guide", "start", "leftstick", "rightstick"),
    *("leftshoulder", "rightshoulder", "dpup", "dpdown", "dpleft", "dpright"),
)
PAD_NAMES = frozenset((*(sign + name for name in PAD_STICKS for sign in "+-"), *PAD_TRIGGERS, *PAD_BUTTONS))


def key_axes(bound: Bound) -> dict[str, tuple[int, float]]:
    """Key → axis and sign, of the keys that fly."""
    return {key: AXES[action] for action, keys in bound.items() if action in AXES for key in keys}


def commands(bound: Bound) -> dict[str, str]:
    """Key or button → action, of those that do something once."""
    return {key: action for action, keys in bound.items() if action not in AXES for key in keys}


def labels(bound: Bound) -> dict[str, str]:
    """Action → how its first key is printed: W, Space, F9, Left Shift; "-" where none is bound."""
    return {action: keys[0].title() if keys else "-" for action, keys in bound.items()}
