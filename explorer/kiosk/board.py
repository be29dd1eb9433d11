"""Panels of the station's screen: each painted only when what it shows has changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pygame

from explorer.display import Display
from explorer.paint import Brush

Place = Literal["all", "middle", "bottom", "top", "corner", "start"]
GAP = 28  # pixels to the rim, in a window 800 pixels high


class Board:
    """Owned by the main thread."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._shown: dict[str, tuple[object, ...]] = {}

    def show(
        self,
        name: str,
        brush: Brush,
        *what: object,
        draw: Callable[[], pygame.Surface],
        place: Place,
        alpha: float = 1.0,
    ) -> None:
        """Put a panel up. `what` it shows: while that and the brush stay, it is not drawn again."""
        key = (brush, self._display.size, *what)
        if self._shown.get(name) != key:
            self._shown[name] = key
            card = draw()
            left, top = _corner(place, card.get_size(), self._display.size, brush.px(GAP))
            self._display.put(name, card, left=left, top=top)
        self._display.fade(name, alpha)

    def drop(self, *names: str) -> None:
        for name in names:
            if self._shown.pop(name, None) is not None:
                self._display.drop(name)


def _corner(place: Place, card: tuple[int, int], window: tuple[int, int], gap: int) -> tuple[int, int]:
    """Left and top."""
    right, low = window[0] - card[0], window[1] - card[1]
    return {
        "all": (0, low),
        "middle": (right // 2, low // 2),
        "bottom": (right // 2, low - gap),
        "top": (right // 2, gap),
        "corner": (right - gap, low - gap),
        "start": (2 * gap, low - 2 * gap),
    }[place]
