"""Generated frames drawn again from where the pilot is now, on the GPU: turned exactly, moved by their own depth.

Every pixel of the view walks along its ray from near to far through the frame's depth until it meets a surface. Where
it meets none, because the frame does not see there, the frame before is asked, then the nearest background; past a
frame's soft edge there is an older frame, and at last its own mirror image, out of focus.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.resources import files

import moderngl
import numpy as np
from numpy.typing import NDArray

from engine.frame import Frame
from explorer.reproject import View, reach_of, transfer, travel

STILL = 0.25  # pixels: movement below which a frame is only turned
STEP = 1.5  # pixels of a frame between two looks along a ray
STEPS = 24  # looks at most
OLDER = 10  # frames between two that are kept as backdrop

VERTEX = """#version 330
out vec2 at;
void main() {
    at = vec2((gl_VertexID & 1), (gl_VertexID >> 1));
    gl_Position = vec4(at * 2.0 - 1.0, 0.0, 1.0);
}
"""
# The page in a browser draws by the same.
FRAGMENT = "#version 330\n" + (files("explorer") / "viewer" / "redraw.glsl").read_text()


@dataclass(slots=True)
class Layer:
    """A frame on the GPU."""

    color: moderngl.Texture
    depth: moderngl.Texture
    frame: Frame
    nearest: float  # 1/m; 0 where nothing is known
    reach: float | None  # metres

    def seen(self, view: View, *, moved: bool) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
        """Turn, shift, and how many looks the shift needs; none where nothing is to be moved."""
        T, s = transfer(self.frame.pose, self.frame.intrinsics, view)
        deep = moved and self.nearest > 0
        way = travel(T, s, nearest=self.nearest, size=self.color.size) if deep else 0.0
        steps = 0 if way < STILL else min(math.ceil(min(way, 1e6) / STEP) + 1, STEPS)
        return T, s, steps


class Redraw:
    """Keeps the frames that a view is drawn from, and draws it. Lives on the thread of its GL context."""

    def __init__(self, gl: moderngl.Context) -> None:
        self.gl = gl
        self._program = gl.program(vertex_shader=VERTEX, fragment_shader=FRAGMENT)
        for unit, name in enumerate(("newest", "before", "older")):
            self._program[f"color_{name}"] = unit
        for unit, name in enumerate(("newest", "before"), start=3):
            self._program[f"depth_{name}"] = unit
        self._quad = gl.vertex_array(self._program, [])
        self._layers: list[Layer] = []  # the newest and the one before
        self._older: list[Layer] = []  # two more, some time apart: the last is the backdrop

    @property
    def newest(self) -> Frame | None:
        return self._layers[0].frame if self._layers else None

    def add(self, frame: Frame) -> None:
        """Take a newer frame; another flight or size forgets the rest."""
        newest = self.newest
        if newest is not None and (
            newest.world != frame.world
            or newest.pixels.shape != frame.pixels.shape
            or frame.index < newest.index
        ):
            self.clear()
        self._layers.insert(0, self._layer(frame))
        if len(self._layers) > 2:
            self._age(self._layers.pop())

    def _age(self, layer: Layer) -> None:
        """Keep one now and then, so that the backdrop is one to two times OLDER frames old."""
        if self._older and layer.frame.index - self._older[0].frame.index < OLDER:
            self._release(layer)
            return
        self._older.insert(0, layer)
        if len(self._older) > 2:
            self._release(self._older.pop())

    def clear(self) -> None:
        for layer in (*self._layers, *self._older):
            self._release(layer)
        self._layers, self._older = [], []

    def draw(
        self, target: moderngl.Framebuffer, view: View, *, fade: float = 1.0, moved: bool = True
    ) -> None:
        """Fill `target`. fade: weight of the newest frame over the one before, 0 to 1.  moved: False only turns."""
        newest, before = self._layers[0], self._layers[-1]
        older = (self._older or self._layers)[-1]
        for name, layer in (("newest", newest), ("before", before), ("older", older)):
            self._tell(name, layer, view, moved=moved)
        for unit, texture in enumerate((newest.color, before.color, older.color, newest.depth, before.depth)):
            texture.use(unit)
        self._program["fade"] = fade if before is not newest else 1.0
        away = float(np.linalg.norm(older.frame.pose.t - view.pose.t))
        self._program["distant"] = (
            math.exp(-3.0 * away / (older.reach or 1.0)) if older is not newest else 0.0
        )
        target.use()
        self._quad.render(moderngl.TRIANGLE_STRIP, vertices=4)

    def _tell(self, name: str, layer: Layer, view: View, *, moved: bool) -> None:
        T, s, steps = layer.seen(view, moved=moved)
        self._program[f"{name}.turn"] = tuple(T.T.ravel())  # GL counts by columns
        if name != "older":
            self._program[f"{name}.shift"] = tuple(s)
            self._program[f"{name}.near"] = layer.nearest
            self._program[f"{name}.steps"] = steps

    def _layer(self, frame: Frame) -> Layer:
        height, width, _ = frame.pixels.shape
        color = self.gl.texture((width, height), 3, np.ascontiguousarray(frame.pixels), alignment=1)
        color.repeat_x = color.repeat_y = False
        color.build_mipmaps()
        color.filter = (moderngl.LINEAR_MIPMAP_LINEAR, moderngl.LINEAR)
        d = frame.inverse_depth
        known = np.zeros((1, 1), np.float16) if d is None else d
        depth = self.gl.texture(known.shape[::-1], 1, np.ascontiguousarray(known), dtype="f2", alignment=1)
        depth.filter = (moderngl.NEAREST, moderngl.NEAREST)
        return Layer(color, depth, frame, 1.1 * float(known.max()), reach_of(frame))

    def _release(self, layer: Layer) -> None:
        layer.color.release()
        layer.depth.release()
