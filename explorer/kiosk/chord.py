"""Keys pressed together: what the operator presses to close a station. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

MODIFIERS = ("ctrl", "alt", "shift", "super")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chord:
    """One key with modifiers."""

    key: str  # as SDL names it
    ctrl: bool = False
    alt: bool = False
    shift: bool = False
    super: bool = False

    def __str__(self) -> str:
        return "+".join([name for name in MODIFIERS if getattr(self, name)] + [self.key])


def parse_chord(text: str) -> Chord:
    """From "ctrl+shift+q". Raises ValueError for what no visitor should be able to press by chance."""
    *modifiers, key = [part.strip() for part in text.lower().split("+")]
    if not set(modifiers) <= set(MODIFIERS) or re.fullmatch(r"[a-z0-9]|f[1-9]|f1[0-2]", key) is None:
        raise ValueError(f"use {', '.join(MODIFIERS)} and a letter, digit or F1 to F12, such as ctrl+shift+q")
    if len(set(modifiers)) < 2:
        raise ValueError(
            "use at least two of ctrl, alt, shift and super, so that nobody presses it by chance"
        )
    return Chord(key=key, **dict.fromkeys(modifiers, True))
