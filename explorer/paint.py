"""Type and panels in one hand: sizes, colours, rounded cards. Surfaces come out with premultiplied transparency."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import pygame

Color = tuple[int, int, int]
INK: Color = (240, 243, 246)
QUIET: Color = (160, 170, 180)
ACCENT: Color = (255, 190, 92)
ALERT: Color = (255, 92, 80)
CARD = (12, 15, 19, 190)
SIZES = {"small": 14, "body": 17, "title": 24, "large": 40}  # at a window 800 pixels high


@dataclass(frozen=True)
class Brush:
    """Fonts for one window height."""

    height: int = 800
    _fonts: dict[str, pygame.font.Font] = field(default_factory=dict, repr=False)

    @cached_property
    def scale(self) -> float:
        return min(max(self.height / 800, 0.7), 2.5)

    def px(self, at_800: float) -> int:
        """A length given for a window 800 pixels high."""
        return max(round(at_800 * self.scale), 1)

    def font(self, size: str) -> pygame.font.Font:
        if size not in self._fonts:
            # The bundled face is bold and wide: a little smaller than its nominal size reads as intended.
            self._fonts[size] = pygame.font.Font(None, self.px(SIZES[size] * 1.25))
        return self._fonts[size]

    def text(self, words: str, *, size: str = "body", color: Color = INK) -> pygame.Surface:
        return self.font(size).render(words, True, color)

    def card(self, width: int, height: int) -> pygame.Surface:
        """An empty rounded panel."""
        surface = pygame.Surface((width, height), pygame.SRCALPHA)
        pygame.draw.rect(surface, CARD, surface.get_rect(), border_radius=self.px(12))
        return surface

    def clipped(self, words: str, width: int, *, size: str = "body", color: Color = INK) -> pygame.Surface:
        """Text cut with an ellipsis where it would be wider than `width`."""
        font = self.font(size)
        if font.size(words)[0] > width:
            while words and font.size(words + "…")[0] > width:
                words = words[:-1]
            words = words.rstrip() + "…"
        return font.render(words, True, color)

    def wrapped(self, words: str, width: int, *, size: str = "body") -> list[str]:
        """Lines no wider than `width`."""
        lines = [""]
        for word in words.split():
            longer = f"{lines[-1]} {word}".strip()
            if lines[-1] and self.font(size).size(longer)[0] > width:
                lines.append(word)
            else:
                lines[-1] = longer
        return lines


def premultiplied(surface: pygame.Surface) -> pygame.Surface:
    """For `Display.put`: colours times their transparency, so that edges of letters blend cleanly."""
    return surface.premul_alpha()
