"""Generated frames drawn again from where the pilot is now, on the GPU: turned exactly, moved by their own depth.

Every pixel of the view walks along its ray from near to far through the frame's depth until it meets a surface. Where
it meets none, because the frame does not see there, the frame before is asked, then the nearest background; past a
frame's soft edge there is an older frame, and at last its own mirror image, out of focus.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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
# Row 0 of every texture is the top of its picture, of the target too.
FRAGMENT = """#version 330
struct Seen { mat3 turn; vec3 shift; float near; int steps; };
uniform Seen newest, before, older;
uniform sampler2D color_newest, color_before, color_older;
uniform sampler2D depth_newest, depth_before;
uniform float fade;      // weight of the newest frame over the one before
uniform float distant;   // weight of the older frame
in vec2 at;
out vec4 color;

const float AGREE = 0.12;   // of inverse depth: a ray this close to a surface has met it
const float RIM = 0.045;    // share of a picture over which its edge is faded

float inside(vec2 uv) {
    vec2 rim = smoothstep(vec2(0.0), vec2(RIM), min(uv, 1.0 - uv));
    return rim.x * rim.y;
}

// Catmull-Rom, the middle two taps of each side in one bilinear fetch
vec3 sharp(sampler2D source, vec2 uv) {
    vec2 size = vec2(textureSize(source, 0));
    vec2 p = uv * size - 0.5, f = fract(p), base = floor(p) + 0.5;
    vec2 w0 = f * (-0.5 + f * (1.0 - 0.5 * f)), w3 = f * f * (-0.5 + 0.5 * f);
    vec2 w1 = 1.0 + f * f * (-2.5 + 1.5 * f), w12 = 1.0 - w0 - w3;
    vec2 low = (base - 1.0) / size, middle = (base + (w12 - w1) / w12) / size, high = (base + 2.0) / size;
    vec3 sum = textureLod(source, middle, 0.0).rgb * w12.x * w12.y;  // of nine, the corners weigh under 1 %
    sum += textureLod(source, vec2(low.x, middle.y), 0.0).rgb * w0.x * w12.y;
    sum += textureLod(source, vec2(high.x, middle.y), 0.0).rgb * w3.x * w12.y;
    sum += textureLod(source, vec2(middle.x, low.y), 0.0).rgb * w12.x * w0.y;
    sum += textureLod(source, vec2(middle.x, high.y), 0.0).rgb * w12.x * w3.y;
    return clamp(sum / (w12.x * w12.y + (w0.x + w3.x) * w12.y + w12.x * (w0.y + w3.y)), 0.0, 1.0);
}

float depth_at(sampler2D depth, vec2 uv) {
    vec2 size = vec2(textureSize(depth, 0));
    return max(texelFetch(depth, ivec2(clamp(uv * size, vec2(0.0), size - 1.0)), 0).r, 0.0);
}

// Where in a frame this ray ends: (u, v, 1 met, 0.5 the background nearest to it, 0 nowhere)
vec3 find(Seen seen, sampler2D depth) {
    vec3 ray = seen.turn * vec3(at, 1.0);
    if (seen.steps == 0)
        return vec3(ray.xy / ray.z, ray.z > 0.0 ? 1.0 : 0.0);
    vec3 back = vec3(0.0);
    float back_depth = 1e9, q0 = seen.near, e0 = 1.0;
    for (int i = 0; i <= seen.steps; i++) {
        float q = seen.near * (1.0 - float(i) / float(seen.steps));
        vec3 p = ray + seen.shift * q;
        if (p.z <= 0.0) continue;
        vec2 uv = p.xy / p.z;
        float d = depth_at(depth, uv), e = q / p.z - d;
        if (e <= 0.0 && e0 > 0.0) {
            float qm = mix(q0, q, clamp(e0 / (e0 - e), 0.0, 1.0));
            p = ray + seen.shift * qm;
            vec2 met = p.xy / p.z;
            float dm = depth_at(depth, met), z = qm / p.z;
            if (abs(z - dm) <= AGREE * max(z, dm) + 1e-4) return vec3(met, 1.0);
        }
        if (d < back_depth) { back_depth = d; back = vec3(uv, 0.5); }
        q0 = q; e0 = e;
    }
    return back;
}

void main() {
    vec3 here = find(newest, depth_newest);
    float sure = here.z == 1.0 ? inside(here.xy) : 0.0;
    vec3 picture = sharp(color_newest, here.xy);
    if (sure == 1.0 && fade == 1.0) { color = vec4(picture, 1.0); return; }

    vec3 ray = newest.turn * vec3(at, 1.0);
    vec2 straight = ray.xy / max(ray.z, 1e-3);
    float beyond = length(max(abs(straight - 0.5) - 0.5, 0.0));
    vec2 mirrored = 1.0 - abs(1.0 - mod(straight, 2.0));
    vec3 base = textureLod(color_newest, mirrored, min(2.0 + 18.0 * beyond, 5.0)).rgb * (0.7 + 0.3 * exp(-5.0 * beyond));
    vec3 past = older.turn * vec3(at, 1.0);
    if (past.z > 0.0)
        base = mix(base, textureLod(color_older, past.xy / past.z, 1.0).rgb, inside(past.xy / past.z) * distant);
    if (here.z == 0.5)
        base = mix(base, textureLod(color_newest, here.xy, 1.5).rgb, inside(here.xy));
    vec3 then = find(before, depth_before);
    float known = then.z == 1.0 ? inside(then.xy) : 0.0;
    if (known > 0.0)
        base = mix(base, sharp(color_before, then.xy), known);
    color = vec4(mix(base, picture, sure * mix(1.0, fade, known)), 1.0);
}
"""


@dataclass(slots=True)
class Layer:
    """A frame on the GPU."""

    color: moderngl.Texture
    depth: moderngl.Texture
    frame: Frame
    nearest: float  # 1/m; 0 where nothing is known
    reach: float | None  # metres

    def seen(self, view: View) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
        """Turn, shift, and how many looks the shift needs."""
        T, s = transfer(self.frame.pose, self.frame.intrinsics, view)
        way = travel(T, s, nearest=self.nearest, size=self.color.size) if self.nearest else 0.0
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

    def draw(self, target: moderngl.Framebuffer, view: View, *, fade: float = 1.0) -> None:
        """Fill `target`. fade: weight of the newest frame over the one before, 0 to 1."""
        newest, before = self._layers[0], self._layers[-1]
        older = (self._older or self._layers)[-1]
        self._tell("newest", newest, view)
        self._tell("before", before, view)
        self._tell("older", older, view)
        for unit, texture in enumerate((newest.color, before.color, older.color, newest.depth, before.depth)):
            texture.use(unit)
        self._program["fade"] = fade if before is not newest else 1.0
        moved = float(np.linalg.norm(older.frame.pose.t - view.pose.t))
        self._program["distant"] = (
            math.exp(-3.0 * moved / (older.reach or 1.0)) if older is not newest else 0.0
        )
        target.use()
        self._quad.render(moderngl.TRIANGLE_STRIP, vertices=4)

    def _tell(self, name: str, layer: Layer, view: View) -> None:
        T, s, steps = layer.seen(view)
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
