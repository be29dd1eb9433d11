"""Type and panels in one hand: sizes, colours, rounded cards. Surfaces come out with premultiplied transparency."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import as_file, files
from itertools import groupby
from pathlib import Path

import pygame
import pygame.freetype

from explorer.theme import ACCENT, BOLD, GLASS, INK, RADIUS, SIZES, TRACK, Color

EAST_ASIAN = 0x2E80  # code points from here on are not in Inter
EAST_ASIAN_FACES = {"zh": "NotoSansSC.otf"}  # language → face; others read the Japanese forms
IDEOGRAPHIC = "NotoSansJP.otf"


@dataclass(frozen=True)
class Brush:
    """Fonts for one window height. `face` replaces the bundled ones; `language` chooses the forms of ideographs."""

    height: int = 800
    language: str = "en"
    face: Path | None = None
    _fonts: dict[tuple[str, str], pygame.font.Font] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def scale(self) -> float:
        return min(max(self.height / 800, 0.7), 2.7)

    def px(self, at_800: float) -> int:
        """A length given for a window 800 pixels high."""
        return max(round(at_800 * self.scale), 1)

    def font(self, size: str, *, ideographs: bool = False) -> pygame.font.Font:
        """The face for one size of the scale."""
        name = self._face_name(size, ideographs=ideographs)
        if (size, name) not in self._fonts:
            with _face(name, self.face) as path:
                self._fonts[size, name] = pygame.font.Font(str(path), self.px(SIZES[size]))
        return self._fonts[size, name]

    def _face_name(self, size: str, *, ideographs: bool) -> str:
        if ideographs:
            return EAST_ASIAN_FACES.get(self.language, IDEOGRAPHIC)
        return "Inter-SemiBold.otf" if size in BOLD else "Inter-Regular.otf"

    def width(self, words: str, *, size: str = "body") -> int:
        """Of a line of text, pixels."""
        return sum(self.font(size, ideographs=east).size(run)[0] for east, run in _runs(words))

    def text(self, words: str, *, size: str = "body", color: Color = INK) -> pygame.Surface:
        """One line, transparent around its letters."""
        runs = list(_runs(words))
        if len(runs) == 1:
            return self.font(size, ideographs=runs[0][0]).render(words, True, color)
        fonts = [self.font(size, ideographs=east) for east, _ in runs]
        ascent = max((f.get_ascent() for f in fonts), default=0)
        height = max((ascent - f.get_ascent() + f.get_height() for f in fonts), default=self.px(SIZES[size]))
        line = pygame.Surface((self.width(words, size=size), height), pygame.SRCALPHA)
        line.fill((*color, 0))
        left = 0
        for font, (_, run) in zip(fonts, runs, strict=True):
            part = font.render(run, True, color)
            line.blit(part, (left, ascent - font.get_ascent()))
            left += part.get_width()
        return line

    def card(self, width: int, height: int) -> pygame.Surface:
        """An empty rounded panel."""
        return rounded((width, height), GLASS, radius=self.px(RADIUS))

    def bar(self, surface: pygame.Surface, box: pygame.Rect, share: float, *, color: Color = ACCENT) -> None:
        """A track with its first `share` filled, 0 to 1."""
        pygame.draw.rect(surface, TRACK, box, border_radius=box.height // 2)
        filled = pygame.Rect(box.left, box.top, max(round(box.width * share), box.height), box.height)
        pygame.draw.rect(surface, color, filled, border_radius=box.height // 2)

    def clipped(self, words: str, width: int, *, size: str = "body", color: Color = INK) -> pygame.Surface:
        """Text cut with an ellipsis where it would be wider than `width`."""
        if self.width(words, size=size) > width:
            while words and self.width(words + "…", size=size) > width:
                words = words[:-1]
            words = words.rstrip() + "…"
        return self.text(words, size=size, color=color)

    def wrapped(self, words: str, width: int, *, size: str = "body") -> list[str]:
        """Lines no wider than `width`. Breaks at spaces, and between ideographs."""
        lines = [""]
        for word in _words(words):
            longer = lines[-1] + word
            if lines[-1] and self.width(longer.rstrip(), size=size) > width:
                lines[-1] = lines[-1].rstrip()
                lines.append(word.lstrip())
            else:
                lines[-1] = longer
        return [line.rstrip() for line in lines]


def _face(name: str, face: Path | None) -> AbstractContextManager[Path]:
    return as_file(files("explorer") / "fonts" / name) if face is None else nullcontext(face)


def _east(letter: str) -> bool:
    return ord(letter) >= EAST_ASIAN


def _runs(words: str) -> Iterable[tuple[bool, str]]:
    """Pieces of a line, each of one face."""
    return ((east, "".join(run)) for east, run in groupby(words, key=_east))


def _words(words: str) -> Iterable[str]:
    """Pieces between which a line may be broken; a piece keeps the space before it. No line begins with a full stop."""
    piece = ""
    for letter in words:
        breaks = letter == " " or (_east(letter) and letter not in "、。，．！？」』）：；ー")
        if piece and breaks and not piece.isspace():
            yield piece
            piece = ""
        piece += letter
    yield piece


def missing_letters(words: str, *, language: str = "en", face: Path | None = None) -> str:
    """Letters of `words` that would be drawn as empty boxes, each once. Raises ValueError for a face that is no font."""
    pygame.freetype.init()
    brush = Brush(language=language, face=face)
    missing: dict[str, None] = {}
    for east, run in _runs(" ".join(words.split())):
        with _face(brush._face_name("body", ideographs=east), face) as path:
            try:
                metrics = pygame.freetype.Font(str(path), 16).get_metrics(run)
            except (pygame.error, OSError, RuntimeError):
                raise ValueError(
                    f"{path} cannot be read as a font: use a TrueType or OpenType file"
                ) from None
        missing |= {letter: None for letter, m in zip(run, metrics, strict=True) if m is None}
    return "".join(missing)


def rounded(size: tuple[int, int], color: tuple[int, ...], *, radius: int) -> pygame.Surface:
    """A filled rectangle with smooth round corners; color: RGB or RGBA."""
    opacity = color[3] if len(color) > 3 else 255
    surface = pygame.Surface(size, pygame.SRCALPHA)
    surface.fill((*color[:3], opacity))
    radius = min(radius, size[0] // 2, size[1] // 2)
    if radius < 1:
        return surface
    disc = pygame.Surface((8 * radius, 8 * radius), pygame.SRCALPHA)
    disc.fill((*color[:3], 0))
    pygame.draw.circle(disc, (*color[:3], opacity), (4 * radius, 4 * radius), 4 * radius)
    disc = pygame.transform.smoothscale(disc, (2 * radius, 2 * radius))
    for right in (0, 1):
        for low in (0, 1):
            corner = pygame.Rect(right * (size[0] - radius), low * (size[1] - radius), radius, radius)
            surface.fill((0, 0, 0, 0), corner)
            surface.blit(disc, corner, (right * radius, low * radius, radius, radius), pygame.BLEND_RGBA_ADD)
    return surface


def premultiplied(surface: pygame.Surface) -> pygame.Surface:
    """For `Display.put`: colours times their transparency, so that edges of letters blend cleanly."""
    return surface.premul_alpha()
