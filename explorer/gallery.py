"""The choice of a first picture: a grid of scenes. Layout and selection are pure; `draw` paints them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pygame

from engine.picture import prepare_picture
from explorer.assets import Scene
from explorer.paint import Brush, rounded
from explorer.theme import ACCENT, GROUND, INK, QUIET

Box = tuple[int, int, int, int]  # left, top, width, height
SHAPE = 1.6  # width over height of a thumbnail


@dataclass(frozen=True, slots=True)
class Grid:
    """Where the cards lie in a window, and which one is chosen."""

    count: int
    size: tuple[int, int]  # of the window
    chosen: int = 0

    @property
    def columns(self) -> int:
        """As many as make the cards largest."""
        return max(range(1, self.count + 1), key=lambda n: self._card_width(n))

    def _card_width(self, columns: int) -> float:
        rows = -(-self.count // columns)
        room_x = (self.size[0] - 2 * self._margin - (columns - 1) * self._gap) / columns
        room_y = (self.size[1] - self._head - self._margin - (rows - 1) * self._gap) / rows - self._label
        return min(room_x, room_y * SHAPE)

    @property
    def _margin(self) -> int:
        return max(round(0.05 * self.size[1]), 8)

    @property
    def _head(self) -> int:
        return round(0.155 * self.size[1])

    @property
    def _gap(self) -> int:
        return max(round(0.024 * self.size[1]), 4)

    @property
    def _label(self) -> int:
        return round(0.042 * self.size[1])

    def card(self, i: int) -> Box:
        """The thumbnail's rectangle; its title lies below."""
        n = self.columns
        width = max(int(self._card_width(n)), 8)
        height = round(width / SHAPE)
        left = (self.size[0] - n * width - (n - 1) * self._gap) // 2
        step_y = height + self._label + self._gap
        return left + i % n * (width + self._gap), self._head + i // n * step_y, width, height

    def at(self, x: int, y: int) -> int | None:
        """The scene under a point, its title included."""
        for i in range(self.count):
            left, top, width, height = self.card(i)
            if left <= x < left + width and top <= y < top + height + self._label:
                return i
        return None

    def move(self, dx: int, dy: int) -> Grid:
        """The neighbour; at the rim the choice stays."""
        row, column = divmod(self.chosen, self.columns)
        column = min(max(column + dx, 0), self.columns - 1)
        i = max(row + dy, 0) * self.columns + column
        return replace(self, chosen=i) if i < self.count else self

    def point(self, x: int, y: int) -> Grid:
        i = self.at(x, y)
        return self if i is None else replace(self, chosen=i)


class GalleryPainter:
    """Keeps the thumbnails of one window size."""

    def __init__(self, scenes: Sequence[Scene]) -> None:
        self._scenes = scenes
        self._thumbs: list[pygame.Surface] = []
        self._size = (0, 0)

    def draw(
        self,
        brush: Brush,
        grid: Grid,
        *,
        status: str,
        title: str = "World Explorer",
        hint: str = "Choose where to begin, then fly.",
    ) -> pygame.Surface:
        """The whole window."""
        surface = pygame.Surface(grid.size, pygame.SRCALPHA)
        surface.fill((*GROUND, 255))
        left = grid.card(0)[0]
        line = round(0.098 * grid.size[1])
        heading = brush.text(title, size="large")
        surface.blit(heading, (left, line - heading.get_height()))
        surface.blit(brush.text(hint, color=QUIET), (left, line))
        ready = brush.text(status, size="small", color=QUIET)
        right = grid.card(grid.columns - 1)
        surface.blit(ready, (right[0] + right[2] - ready.get_width(), line + brush.px(3)))
        self._prepare(grid.card(0)[2:])
        for i in range(grid.count):
            self._card(surface, brush, grid, i)
        return surface

    def _prepare(self, size: tuple[int, ...]) -> None:
        width, height = size
        if self._size != (width, height):
            self._size = (width, height)
            self._thumbs = [self._thumb(scene) for scene in self._scenes]

    def _thumb(self, scene: Scene) -> pygame.Surface:
        pixels, _ = prepare_picture(scene.rgb, scene.intrinsics, width=self._size[0], height=self._size[1])
        return pygame.image.frombuffer(pixels.tobytes(), self._size, "RGB")

    def _card(self, surface: pygame.Surface, brush: Brush, grid: Grid, i: int) -> None:
        left, top, width, height = grid.card(i)
        chosen = i == grid.chosen
        if chosen:
            rim = brush.px(3)
            frame = (width + 4 * rim, height + 4 * rim)
            surface.blit(rounded(frame, ACCENT, radius=brush.px(9)), (left - 2 * rim, top - 2 * rim))
            inside = (width + 2 * rim, height + 2 * rim)
            surface.blit(rounded(inside, GROUND, radius=brush.px(6)), (left - rim, top - rim))
        surface.blit(self._thumbs[i], (left, top))
        if not chosen:
            veil = pygame.Surface((width, height), pygame.SRCALPHA)
            veil.fill((*GROUND, 70))
            surface.blit(veil, (left, top))
        title = brush.clipped(self._scenes[i].title, width, size="small", color=INK if chosen else QUIET)
        surface.blit(title, (left, top + height + brush.px(9)))
