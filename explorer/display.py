"""The picture on the screen: drawn from the pilot's view, enlarged sharply, panels on top. Owned by the main thread."""

from __future__ import annotations

import time
from dataclasses import dataclass

import moderngl
import numpy as np
import pygame
from numpy.typing import NDArray

from engine.frame import Frame
from explorer import opengl
from explorer.fineness import WAYS, Fineness
from explorer.redraw import Redraw
from explorer.reproject import View
from explorer.theme import GROUND

QUAD = """#version 330
uniform vec4 place;  // left, bottom, width, height in clip space
out vec2 uv;
void main() {
    uv = vec2((gl_VertexID & 1), (gl_VertexID >> 1));
    gl_Position = vec4(place.xy + uv * place.zw, 0.0, 1.0);
}
"""
# One axis of a Catmull-Rom spline (Catmull & Rom 1974): interpolates, so that what is sharp stays sharp.
# Two passes of four reads each instead of one of sixteen; texelFetch is three times as fast as texture on llvmpipe.
ENLARGE = """#version 330
uniform sampler2D source;
uniform ivec2 axis;
in vec2 uv;
out vec4 color;
void main() {
    ivec2 size = textureSize(source, 0);
    vec2 p = uv * vec2(size);
    float x = dot(p, vec2(axis)) - 0.5;
    float f = fract(x);
    vec4 w = vec4(((-0.5 * f + 1.0) * f - 0.5) * f, (1.5 * f - 2.5) * f * f + 1.0,
                  ((-1.5 * f + 2.0) * f + 0.5) * f, (0.5 * f - 0.5) * f * f);
    ivec2 at = ivec2(p) * (1 - axis) + int(floor(x)) * axis;
    ivec2 low = ivec2(0), high = size - 1;
    color = w.x * texelFetch(source, clamp(at - axis, low, high), 0)
          + w.y * texelFetch(source, clamp(at, low, high), 0)
          + w.z * texelFetch(source, clamp(at + axis, low, high), 0)
          + w.w * texelFetch(source, clamp(at + 2 * axis, low, high), 0);
}
"""
PANEL = """#version 330
uniform sampler2D source;
uniform float alpha;
in vec2 uv;
out vec4 color;
void main() { color = texture(source, vec2(uv.x, 1.0 - uv.y)) * alpha; }
"""
FADE = 0.0625  # seconds in which a newer frame takes over: one frame's time, so that they melt together
BACKGROUND = (GROUND[0] / 255, GROUND[1] / 255, GROUND[2] / 255)


def letter_box(picture: tuple[int, int], window: tuple[int, int]) -> tuple[int, int, int, int]:
    """Left, top, width, height of the largest centred rectangle of the picture's shape."""
    scale = min(window[0] / picture[0], window[1] / picture[1])
    width, height = round(picture[0] * scale), round(picture[1] * scale)
    return (window[0] - width) // 2, (window[1] - height) // 2, width, height


@dataclass(slots=True)
class Panel:
    """A small picture with transparency, on top of the world."""

    texture: moderngl.Texture
    left: int
    top: int
    alpha: float = 1.0


class Display:
    """Draws into the current GL window. A view is drawn at every refresh; a raw picture once, and then copied."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.gl = opengl.context()
        self.software = opengl.is_cpu(self.gl.info["GL_RENDERER"])
        self.flip_seconds = 0.0  # that the last flip took: long where it waits for the screen
        self.fineness = Fineness(budget=0.018, way=2) if self.software else Fineness(budget=0.007, way=0)
        self._enlarge = self.gl.program(vertex_shader=QUAD, fragment_shader=ENLARGE)
        self._panel = self.gl.program(vertex_shader=QUAD, fragment_shader=PANEL)
        self._enlarge_quad = self.gl.vertex_array(self._enlarge, [])
        self._panel_quad = self.gl.vertex_array(self._panel, [])
        self._panels: dict[str, Panel] = {}
        self._redraw = Redraw(self.gl)
        self._since, self._fresh = (
            0.0,
            False,
        )  # when the newest frame came, and whether it is still to be drawn
        self._view: View | None = None
        self._drawn: tuple[object, ...] = ()  # what the picture on the screen was drawn from
        self._source: moderngl.Texture | None = None
        self._viewed: moderngl.Framebuffer | None = None  # a view, before it is enlarged
        self._wide: moderngl.Framebuffer | None = None  # enlarged along rows
        self._full: moderngl.Framebuffer | None = (
            None  # the window's picture without panels, where it is not `_direct`
        )
        self._direct: moderngl.Texture | None = None  # a view that every refresh spreads over the window
        self.resize(size)

    @property
    def way(self) -> str:
        """How finely views are drawn, in a word."""
        return WAYS[self.fineness.way].name

    def resize(self, size: tuple[int, int]) -> None:
        """The window has changed; the picture is drawn again."""
        self.size = size
        self._release(self._full)
        self._full = self._target(size)
        self._full.clear(*BACKGROUND)
        self._drop_wide()
        if self._source is not None:
            self._draw_picture(self._source)

    def frame(self, frame: Frame, *, now: float) -> None:
        """Take a newer generated frame for `look` to draw."""
        self._redraw.add(frame)
        self._since, self._fresh = now, True

    def look(self, view: View | None, *, now: float) -> None:
        """Draw the frames from `view`, here and now; None: the newest frame as it was generated."""
        newest = self._redraw.newest
        if newest is None:
            return
        if view is None:
            if self._view is not None or self._fresh:
                self.picture(newest.pixels)
        else:
            fade = min((now - self._since) / FADE, 1.0)
            # at rest nothing is drawn again: the machine has a world to make
            drawn = (view.key, newest.index, newest.world, fade, self.fineness.way, self.size)
            if self._view is None or drawn != self._drawn:
                self._draw_view(view, newest, fade=fade)
            self._drawn = drawn
        self._view, self._fresh = view, False

    def _draw_view(self, view: View, newest: Frame, *, fade: float) -> None:
        assert self._full is not None
        way = WAYS[self.fineness.way]
        height, width, _ = newest.pixels.shape
        box = letter_box((width, height), self.size)
        size = (round(width * way.scale), round(height * way.scale)) if way.scale else box[2:]
        if self._viewed is None or self._viewed.size != size:
            self._release(self._viewed)
            self._viewed = self._target(size)
        self._viewed.use()
        self._redraw.draw(self._viewed, view, fade=fade if way.fade else 1.0, moved=way.moved)
        texture = self._viewed.color_attachments[0]
        assert isinstance(texture, moderngl.Texture)
        if self._source is not None:  # borders of a raw picture may differ
            self._source.release()
            self._source = None
            self._full.clear(*BACKGROUND)
        self._direct = None
        if way.scale and way.sharp:
            self._draw_picture(texture)
        else:
            self._direct = texture

    def _spread(self, texture: moderngl.Texture, target: moderngl.Framebuffer) -> None:
        """Enlarge linearly, or copy where the size is right."""
        box = letter_box(texture.size, self.size)
        target.use()
        target.viewport = (0, 0, *self.size)
        if box[2:] != self.size:
            target.clear(*BACKGROUND)
        target.viewport = box
        texture.filter = (moderngl.LINEAR, moderngl.LINEAR)
        texture.use(0)
        self._panel["alpha"] = 1.0
        self._panel["place"] = (-1.0, -1.0, 2.0, 2.0)
        self._panel_quad.render(moderngl.TRIANGLE_STRIP, vertices=4)

    def still(self, pixels: NDArray[np.uint8]) -> None:
        """Show a picture that is seen from nowhere, until the next frame comes. [Y, X, 3] RGB."""
        self._redraw.clear()
        self._view, self._fresh, self._drawn = None, False, ()
        self.picture(pixels)

    def picture(self, pixels: NDArray[np.uint8]) -> None:
        """Take a new [Y, X, 3] RGB frame."""
        size = pixels.shape[1], pixels.shape[0]
        if self._source is None or self._source.size != size:
            if self._source is not None:
                self._source.release()
            self._source = self.gl.texture(size, 3, alignment=1)
            assert self._full is not None
            self._full.clear(*BACKGROUND)
        self._source.write(np.ascontiguousarray(pixels))
        self._direct = None
        self._draw_picture(self._source)

    def _draw_picture(self, source: moderngl.Texture) -> None:
        """Enlarge by a spline."""
        assert self._full is not None
        left, top, width, height = letter_box(source.size, self.size)
        if self._wide is None or self._wide.size != (width, source.height):
            self._drop_wide()
            self._wide = self._target((width, source.height))
        self._pass(source, self._wide, (0, 0, width, source.height), (1, 0))
        texture = self._wide.color_attachments[0]
        assert isinstance(texture, moderngl.Texture)
        self._pass(texture, self._full, (left, top, width, height), (0, 1), upright=True)

    def _pass(
        self,
        source: moderngl.Texture,
        target: moderngl.Framebuffer,
        box: tuple[int, int, int, int],
        axis: tuple[int, int],
        *,
        upright: bool = False,
    ) -> None:
        """upright: row 0 goes to the top, where GL has its last."""
        target.use()
        target.viewport = box
        source.use(0)
        self._enlarge["axis"] = axis
        self._enlarge["place"] = (-1.0, 1.0, 2.0, -2.0) if upright else (-1.0, -1.0, 2.0, 2.0)
        self._enlarge_quad.render(moderngl.TRIANGLE_STRIP, vertices=4)

    def blank(self) -> None:
        """No picture: background only."""
        assert self._full is not None
        self._full.clear(*BACKGROUND)
        self._direct = None
        self._redraw.clear()
        self._drawn = ()

    def put(self, name: str, surface: pygame.Surface, *, left: int, top: int, alpha: float = 1.0) -> None:
        """Show or replace a panel; its surface has premultiplied transparency."""
        old = self._panels.get(name)
        texture = old.texture if old is not None else None
        if texture is None or texture.size != surface.get_size():
            if texture is not None:
                texture.release()
            texture = self.gl.texture(surface.get_size(), 4)
            texture.filter = (moderngl.NEAREST, moderngl.NEAREST)
        texture.write(pygame.image.tobytes(surface, "RGBA"))
        self._panels[name] = Panel(texture, left, top, alpha)

    def fade(self, name: str, alpha: float) -> None:
        """Set a panel's strength, 0 to 1; nothing happens when there is none."""
        if name in self._panels:
            self._panels[name].alpha = alpha

    def drop(self, name: str) -> None:
        if panel := self._panels.pop(name, None):
            panel.texture.release()

    def draw(self, *, begun: float | None = None, read: bool = False) -> NDArray[np.uint8] | None:
        """One refresh: the picture, the panels, flip.

        begun: perf_counter seconds when drawing it began.  read: return the window, [Y, X, 3] RGB, as it is then shown.
        """
        assert self._full is not None
        if self._direct is not None:
            self._spread(self._direct, self.gl.screen)
        self.gl.screen.viewport = (0, 0, *self.size)
        if self._direct is None:
            self.gl.copy_framebuffer(self.gl.screen, self._full)
        self.gl.screen.use()
        self.gl.enable(moderngl.BLEND)
        self.gl.blend_func = moderngl.ONE, moderngl.ONE_MINUS_SRC_ALPHA
        for panel in self._panels.values():
            if panel.alpha > 0:
                self._draw_panel(panel)
        self.gl.disable(moderngl.BLEND)
        shown = self._rows(self.gl.screen) if read else None
        if begun is not None:
            self.gl.finish()  # else flip() waits for the GPU and the screen at once
            self.fineness.drew(time.perf_counter() - begun)
        flipping = time.perf_counter()
        pygame.display.flip()
        self.flip_seconds = time.perf_counter() - flipping
        return shown

    def _draw_panel(self, panel: Panel) -> None:
        width, height = self.size
        w, h = panel.texture.size
        panel.texture.use(0)
        self._panel["alpha"] = panel.alpha
        bottom = height - panel.top - h
        self._panel["place"] = (
            2 * panel.left / width - 1,
            2 * bottom / height - 1,
            2 * w / width,
            2 * h / height,
        )
        self._panel_quad.render(moderngl.TRIANGLE_STRIP, vertices=4)

    def grab(self) -> NDArray[np.uint8]:
        """What is shown, without panels and borders: [Y, X, 3] RGB at the window's size."""
        assert self._full is not None
        if self._direct is not None:
            self._spread(self._direct, self._full)
        rows = self._rows(self._full)
        source = self._source or (self._viewed.color_attachments[0] if self._viewed else None)
        if source is None:
            return rows
        left, top, w, h = letter_box(source.size, self.size)
        return rows[top : top + h, left : left + w].copy()

    def _rows(self, target: moderngl.Framebuffer) -> NDArray[np.uint8]:
        """A target of the window's size from its top: [Y, X, 3] RGB."""
        width, height = self.size
        data = target.read(viewport=(0, 0, width, height), components=3, alignment=1)
        return np.frombuffer(data, np.uint8).reshape(height, width, 3)[::-1].copy()

    def _target(self, size: tuple[int, int]) -> moderngl.Framebuffer:
        texture = self.gl.texture(size, 4)
        texture.filter = (moderngl.NEAREST, moderngl.NEAREST)
        texture.repeat_x = texture.repeat_y = False
        return self.gl.framebuffer([texture])

    def _drop_wide(self) -> None:
        self._release(self._wide)
        self._wide = None

    def _release(self, target: moderngl.Framebuffer | None) -> None:
        if target is not None:
            for texture in target.color_attachments:
                texture.release()
            target.release()
