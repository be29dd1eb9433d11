"""The pilot's settings: TOML text to checked values. Pure; every mistake is one sentence with its line."""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, NoReturn

from explorer.bindings import KEY_NAMES, KEYS, PAD, PAD_NAMES, RESERVED, Bound
from explorer.controls import DEAD_ZONE, MOUSE_TURN, SPEED_DEFAULT, SPEED_MAX, SPEED_MIN

MAX_TEXT = 100_000  # characters of a settings file
MOST_KEYS = 8  # per action


def _number(default: float, low: float, high: float, says: str, *, also: float | None = None) -> Any:
    return field(default=default, metadata={"range": (low, high), "says": says, "also": also})


def _said(default: bool | str, says: str) -> Any:
    return field(default=default, metadata={"says": says})


@dataclass(frozen=True, kw_only=True)
class Mouse:
    sensitivity: float = _number(round(math.degrees(MOUSE_TURN), 6), 0.01, 2.0, "degrees per pixel of travel")
    invert_x: bool = _said(False, "right turns left")
    invert_y: bool = _said(False, "away looks down")


@dataclass(frozen=True, kw_only=True)
class Gamepad:
    dead_zone: float = _number(DEAD_ZONE, 0.0, 0.9, "share of a stick's way that does nothing")
    invert_x: bool = _said(False, "the looking stick turns the other way")
    invert_y: bool = _said(False, "the looking stick looks the other way")
    bound: Bound = field(default_factory=lambda: dict(PAD))


@dataclass(frozen=True, kw_only=True)
class Flight:
    speed: float = _number(SPEED_DEFAULT, SPEED_MIN, SPEED_MAX, "metres per second at the start")
    fov: float = _number(
        0.0, 10.0, 150.0, "field of view of pictures, degrees; 0: from the picture, else 64", also=0.0
    )


@dataclass(frozen=True, kw_only=True)
class Hud:
    figures: bool = _said(True, "show speed, frame rates and position")
    hints: bool = _said(True, "say how to fly when a flight begins")


@dataclass(frozen=True, kw_only=True)
class Recordings:
    folder: str = _said("", "where films, pictures and saved flights go; empty: Pictures/world-explorer")
    hud: bool = _said(False, "film the window with its panels, not the world's clean frames")


@dataclass(frozen=True, kw_only=True)
class Timeline:
    memory: float = _number(
        0.0, 0.1, 1000.0, "gigabytes of moments in main memory; 0: 0.5 in pocket, 16 in sana-wm", also=0.0
    )
    disk: float = _number(
        0.0, 0.1, 1000.0, "gigabytes of moments on disk; 0: 4 in pocket, 32 in sana-wm", also=0.0
    )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything a settings file can say; the defaults are what a missing file means."""

    keys: Bound = field(default_factory=lambda: dict(KEYS))
    mouse: Mouse = Mouse()
    gamepad: Gamepad = Gamepad()
    flight: Flight = Flight()
    hud: Hud = Hud()
    recording: Recordings = Recordings()
    timeline: Timeline = Timeline()


@dataclass(frozen=True)
class _Place:
    """A key of the file, for sentences about it."""

    file: str
    text: str
    section: str
    key: str = ""

    def refuse(self, what: str) -> NoReturn:
        name = f"{self.section}.{self.key}" if self.key else f"[{self.section}]"
        line = self._line()
        raise ValueError(f"{self.file}{f', line {line}' if line else ''}: {name} {what}")

    def _line(self) -> int | None:
        """Where it is written, found as a reader would: the header, then the key below it, or both with a dot."""
        here, found = "", None
        section, key = re.escape(self.section), re.escape(self.key)
        dotted = re.compile(rf"\s*{section}\b(\s*\.\s*{key}\b)?")
        for number, line in enumerate(self.text.splitlines(), start=1):
            if match := re.match(r"\s*\[\s*([^\]]+?)\s*\]", line):
                here = match[1]
                found = number if here == self.section else found
            elif self.key and here == self.section and re.match(rf"\s*[\"']?{key}\b", line):
                return number
            elif not here and dotted.match(line):
                found = number
        return found


def parse_settings(text: str, *, file: str = "settings") -> Settings:
    """Check everything a file says. Raises ValueError: file, line, key, value, and what is allowed."""
    if len(text) > MAX_TEXT:
        raise ValueError(f"{file} has {len(text)} characters: settings have at most {MAX_TEXT}")
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{file} is not TOML: {error}") from None
    except RecursionError:
        raise ValueError(f"{file} is nested too deep: settings have sections and keys, no more") from None
    known = [f.name for f in fields(Settings)]
    values: dict[str, Any] = {}
    for section, content in data.items():
        place = _Place(file, text, section)
        if section not in known:
            place.refuse(f"is unknown{_nearest(section, known)}")
        if not isinstance(content, dict):
            place.refuse(f"is a section: write [{section}] and its keys below")
        default = getattr(Settings(), section)
        if is_dataclass(default):
            values[section] = _section(type(default), content, file, text, section)
        else:
            values[section] = _bound(content, KEYS, KEY_NAMES, file, text, section)
    return Settings(**values)


def _section(kind: Any, content: Mapping[str, Any], file: str, text: str, section: str) -> Any:
    known = {f.name: f for f in fields(kind) if f.name != "bound"}
    bound = {key: value for key, value in content.items() if kind is Gamepad and key not in known}
    values: dict[str, Any] = {}
    for key, value in content.items():
        place = _Place(file, text, section, key)
        if key in known:
            values[key] = _value(value, known[key], place)
        elif kind is not Gamepad:
            place.refuse(f"is unknown{_nearest(key, known)}")
    if kind is Gamepad:
        values["bound"] = _bound(bound, PAD, PAD_NAMES, file, text, section, known)
    return kind(**values)


def _value(value: Any, spec: Any, place: _Place) -> bool | float | str:
    if isinstance(spec.default, bool):
        return value if isinstance(value, bool) else place.refuse(f"= {value!r}: use true or false")
    if isinstance(spec.default, float):
        low, high = spec.metadata["range"]
        also = spec.metadata["also"]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not (low <= value <= high or value == also):
            zero = f", or {also:g}" if also is not None else ""
            place.refuse(f"= {value!r} is out of range: use {low:g} to {high:g}{zero}")
        return float(value)
    if not isinstance(value, str) or len(value) > 1000 or not value.isprintable():
        place.refuse("is no text: write a folder in quotes")
    if value and not Path(value).expanduser().is_absolute():
        place.refuse(f"= {value!r} is relative: write the whole path, or begin with ~")
    return str(value)


def _bound(
    content: Mapping[str, Any],
    defaults: Bound,
    names: frozenset[str],
    file: str,
    text: str,
    section: str,
    others: Iterable[str] = (),
) -> Bound:
    """Bindings over the defaults. A key taken for one action is no longer that of another by default."""
    chosen: dict[str, tuple[str, ...]] = {}
    owner: dict[str, str] = {}
    for action, inputs in content.items():
        place = _Place(file, text, section, action)
        if action not in defaults:
            place.refuse(f"is unknown{_nearest(action, (*others, *defaults))}")
        chosen[action] = _inputs(inputs, names, place)
        for name in chosen[action]:
            if name in owner:
                place.refuse(f"= '{name}' is bound to {owner[name]} already: give each key one action")
            owner[name] = action
    return {
        action: chosen.get(action, tuple(name for name in inputs if name not in owner))
        for action, inputs in defaults.items()
    }


def _inputs(inputs: Any, names: frozenset[str], place: _Place) -> tuple[str, ...]:
    listed = [inputs] if isinstance(inputs, str) else inputs
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        place.refuse(f'= {inputs!r} is no key: write a name or a list of names, such as ["w", "keypad 8"]')
    lower = list(dict.fromkeys(name.lower() for name in listed))
    for name in lower:
        if name == RESERVED:
            place.refuse("= 'escape' is the way out and stays so: use another key")
        if name not in names:
            place.refuse(f"= '{name[:40]}' is no name{_nearest(name, names)}")
    if len(lower) > MOST_KEYS:
        place.refuse(f"has {len(lower)} keys: use at most {MOST_KEYS}")
    return tuple(lower)


def _nearest(word: str, known: Iterable[str]) -> str:
    """What was meant, else everything there is where that is short."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f": did you mean '{close[0]}'?"
    return f": use one of {', '.join(known)}"
