"""What a value in a station file may be: each check takes the value and returns what it means. Pure.

A check raises ValueError saying only what is allowed; the reader adds where and what was found.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from explorer.kiosk.chord import Chord, parse_chord

Check = Callable[[Any], Any]


def number(low: float, high: float, *, zero: str = "") -> Check:
    """A finite number in a range; zero: what 0 means where it is outside."""

    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"use a number from {low:g} to {high:g}")
        if not (low <= value <= high or (zero and value == 0)):
            raise ValueError(f"use {low:g} to {high:g}{f', or 0 for {zero}' if zero else ''}")
        return float(value)

    return check


def whole(low: int, high: int) -> Check:
    """A whole number in a range."""

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"use a whole number from {low} to {high}")
        return value

    return check


def text(pattern: str, allowed: str) -> Check:
    """A string that matches a pattern as a whole; allowed: the pattern in words."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or re.fullmatch(pattern, value) is None:
            raise ValueError(f"use {allowed}")
        return value

    return check


def names(pattern: str, allowed: str, *, least: int = 0) -> Check:
    """A list of different strings of one pattern."""
    one = text(pattern, allowed)

    def check(value: Any) -> tuple[str, ...]:
        if not isinstance(value, list) or not least <= len(value) <= 100:
            raise ValueError(f"use a list of {least or 'any'} or more of {allowed}")
        if len(set(map(str, value))) != len(value):
            raise ValueError("name each only once")
        return tuple(one(item) for item in value)

    return check


def yes(value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError("use true or false")
    return value


def path(value: Any) -> Path | None:
    """A path, ~ being the home folder; None for an empty string."""
    if not isinstance(value, str) or "\0" in value:
        raise ValueError('use a path in quotes, or "" for none')
    return Path(value).expanduser() if value else None


def paths(value: Any) -> tuple[Path, ...]:
    """A list of paths."""
    if not isinstance(value, list) or len(value) > 100:
        raise ValueError("use a list of paths")
    return tuple(one for item in value if (one := path(item)))


def chord(value: Any) -> Chord:
    """Keys pressed together."""
    if not isinstance(value, str):
        raise ValueError('use keys in quotes, such as "ctrl+shift+q"')
    return parse_chord(value)


HOST = text(  # no label of a name is empty, or longer than names can have
    r"(?!\.|.*\.\.|.*[^.]{64})[A-Za-z0-9.:_-]{1,253}", "an address such as 127.0.0.1 or 0.0.0.0"
)
ADDRESS = text(r"|https?://[^\s\"<>]{1,200}", 'an address such as "http://192.0.2.7:8765/"')
