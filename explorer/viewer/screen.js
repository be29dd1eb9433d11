// The canvas: pictures in, each with its pose and time; at every refresh the one that is due is drawn from where the
// pilot is by now, as the window does it (redraw.glsl is the same).

import { DEPTHS, between, leashed, lens, partWay, reachOf, transfer } from "./view.js";
import { angles } from "./pilot.js";

const HELD = 4; // decoded pictures that may wait; beyond them no more are bought
const MAX_DELAY = 0.15; // seconds by which playing may lag behind the steadiest arrival

const FADE = 0.0625; // seconds in which a newer picture takes over
const OLDER = 10; // pictures between two that are kept as backdrop
const ANCHOR_RATE = 20; // per second
const SLOW = 0.03; // seconds between refreshes, smoothed, from which on they are drawn smaller
const SOFTWARE = /swiftshader|llvmpipe|software|basic render/i; // renderers that are slow for certain
const SMALLEST = 320; // pixels that a canvas is wide at least
const ROLES = ["newest", "before", "older"];

// `at`: shares of the picture shown, beyond 0 and 1 where the canvas is wider or higher than that
const VERTEX = `#version 300 es
uniform vec2 extent; // of the picture on the canvas, shares of it
out vec2 at;
void main() {
  vec2 corner = vec2((gl_VertexID << 1) & 2, gl_VertexID & 2);
  at = (vec2(corner.x, 1.0 - corner.y) - 0.5) / extent + 0.5;
  gl_Position = vec4(corner * 2.0 - 1.0, 0.0, 1.0);
}`;
const HEAD = "#version 300 es\nprecision highp float;\nprecision highp int;\n";

export class Screen {
  /**
   * `onRoom(n)`: there is room for n more pictures. `onShown(picture)`: this one is on the screen now.
   * `look(now)`: { turn, t } of who flies here, or null for who watches. `shader`: the text of redraw.glsl.
   */
  constructor(canvas, { onRoom, onShown, look, shader }) {
    this.canvas = canvas;
    this.look = look;
    this.shader = shader;
    this.onRoom = onRoom;
    this.onShown = onShown;
    this.queue = [];
    this.current = null; // the picture shown, with pose and intrinsics
    this.layers = []; // textures: the newest picture and the one before
    this.older = []; // two more, some time apart; the last is the backdrop
    this.scale = 1; // of the canvas: what it has fewer pixels than the screen, the browser enlarges
    this.pace = 0; // seconds between refreshes in which something was drawn, smoothed
    this.anchor = null; // where the generated camera was at the last look
    this.drawn = ""; // what was drawn last
    this.since = 0; // when the newest came to the screen, seconds
    this.owed = 0; // credits not yet given
    this.lags = []; // arrival minus due time of the last pictures, seconds
    canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
    canvas.addEventListener("webglcontextrestored", () => this.prepare());
    new ResizeObserver(() => this.resize()).observe(canvas);
    this.prepare();
    const turn = (now) => {
      this.refresh(now / 1000);
      requestAnimationFrame(turn);
    };
    requestAnimationFrame(turn);
  }

  prepare() {
    const gl = this.canvas.getContext("webgl2", { alpha: false, antialias: false, powerPreference: "low-power" });
    if (!gl) throw new Error("This browser does not offer WebGL 2, which is needed to draw the world.");
    this.gl = gl;
    const told = gl.getExtension("WEBGL_debug_renderer_info");
    const renderer = gl.getParameter(told ? told.UNMASKED_RENDERER_WEBGL : gl.RENDERER);
    if (SOFTWARE.test(renderer)) this.scale = 0.25;
    const program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, HEAD + this.shader]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
    gl.useProgram(program);
    this.uniform = (name) => gl.getUniformLocation(program, name);
    ROLES.forEach((role, i) => gl.uniform1i(this.uniform(`color_${role}`), i));
    ROLES.slice(0, 2).forEach((role, i) => gl.uniform1i(this.uniform(`depth_${role}`), 3 + i));
    gl.bindVertexArray(gl.createVertexArray());
    this.layers = [];
    this.older = [];
    if (this.current) this.upload(this.current);
  }

  /** Forget what waits: a new connection begins, with no credits out. */
  reset() {
    for (const picture of this.queue) picture.bitmap.close();
    this.queue = [];
    this.lags = [];
    this.owed = 0;
  }

  /** A picture message that has just arrived. */
  async add(message) {
    const arrived = performance.now() / 1000;
    this.lags.push(arrived - message.due);
    if (this.lags.length > 64) this.lags.shift();
    try {
      const bitmap = await createImageBitmap(new Blob([message.data], { type: "image/jpeg" }));
      const depth = new Uint8Array(message.depth ?? []); // a copy: the message goes
      const nearest = depth.length ? 1.1 * DEPTHS[depth.reduce((a, b) => Math.max(a, b), 0)] : 0;
      const known = { turn: angles(message.q), depth, nearest, reach: reachOf(depth) };
      this.queue.push({ ...message, ...known, data: null, bitmap, arrived });
      this.queue.sort((a, b) => a.due - b.due);
    } finally {
      this.owed += 1;
      this.giveRoom();
    }
  }

  giveRoom() {
    if (this.owed && this.queue.length < HELD) {
      this.onRoom(Math.min(this.owed, 2));
      this.owed = 0;
    }
  }

  /** Seconds to add to a picture's due time: the usual way here, and a little more where arrival is uneven. */
  get lag() {
    const sorted = [...this.lags].sort((a, b) => a - b);
    const usual = sorted[Math.floor(0.9 * (sorted.length - 1))] ?? 0;
    return Math.min(usual, (sorted[0] ?? 0) + MAX_DELAY);
  }

  refresh(now) {
    const lag = this.lag;
    let next = null;
    while (this.queue.length && (this.queue[0].due + lag <= now + 0.004 || this.queue.length > HELD)) {
      next?.bitmap.close();
      next = this.queue.shift();
    }
    if (next) {
      this.current?.bitmap.close();
      this.current = next;
      this.upload(next);
      this.since = now;
    }
    if (this.current) this.redraw(now);
    if (next) {
      this.onShown(next);
      this.giveRoom();
    }
  }

  upload(picture) {
    const { gl } = this;
    const newest = this.layers[0]?.picture;
    if (newest && (newest.world !== picture.world || newest.index > picture.index || newest.width !== picture.width)) {
      for (const layer of [...this.layers, ...this.older]) this.release(layer);
      this.layers = [];
      this.older = [];
    }
    const color = this.texture(gl.LINEAR_MIPMAP_LINEAR, gl.LINEAR);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, picture.bitmap);
    gl.generateMipmap(gl.TEXTURE_2D);
    const depth = this.texture(gl.NEAREST, gl.NEAREST);
    const { length } = picture.depth;
    const across = length ? Math.round(Math.sqrt((length * picture.width) / picture.height)) : 1;
    const metres = length ? Float32Array.from(picture.depth, (c) => DEPTHS[c]) : new Float32Array(1);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.R32F, across, metres.length / across, 0, gl.RED, gl.FLOAT, metres);
    this.layers.unshift({ color, depth, picture });
    if (this.layers.length > 2) this.age(this.layers.pop());
  }

  texture(smaller, larger) {
    const { gl } = this;
    const texture = gl.createTexture();
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, texture);
    for (const side of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, side, gl.CLAMP_TO_EDGE);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, smaller);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, larger);
    return texture;
  }

  /** Keep one now and then for the backdrop. */
  age(layer) {
    if (this.older.length && layer.picture.index - this.older[0].picture.index < OLDER) return this.release(layer);
    this.older.unshift(layer);
    if (this.older.length > 2) this.release(this.older.pop());
  }

  release({ color, depth }) {
    this.gl.deleteTexture(color);
    this.gl.deleteTexture(depth);
  }

  resize() {
    const { clientWidth, clientHeight } = this.canvas;
    const most = Math.min(window.devicePixelRatio || 1, 2);
    const scale = Math.max(most * this.scale, Math.min(most, SMALLEST / Math.max(clientWidth, 1)));
    this.canvas.width = Math.max(1, Math.round(clientWidth * scale));
    this.canvas.height = Math.max(1, Math.round(clientHeight * scale));
    this.drawn = "";
    if (this.current) this.redraw(performance.now() / 1000);
  }

  /** Draw if something else would be seen than last time, and no finer than there is time for. */
  redraw(now) {
    const view = this.view(now);
    const fade = Math.min((now - this.since) / FADE, 1);
    const drawn = JSON.stringify([view.turn, view.t, fade, this.current.index, this.current.world]);
    const again = drawn !== this.drawn;
    if (again) this.draw(view, fade);
    if (again && this.last) this.pace += 0.05 * (Math.min(now - this.last, 0.1) - this.pace);
    this.last = again ? now : 0;
    this.drawn = drawn;
    if (this.pace > SLOW && this.scale > 0.25) {
      this.scale /= 2;
      this.pace = 0;
      this.resize();
    }
  }

  /** From where to draw: the generated camera, between two pictures; who flies sees from where he is. */
  view(now) {
    const { current, queue } = this;
    let anchor = queue.length && queue[0].world === current.world ? between(current, queue[0], now - this.lag) : current;
    if (this.anchor?.world === current.world) {
      // pictures that come late begin elsewhere than the last one stopped: glide over
      anchor = partWay(this.anchor, anchor, 1 - Math.exp(-ANCHOR_RATE * Math.max(now - this.anchor.at, 0)));
    }
    this.anchor = { turn: anchor.turn, t: anchor.t, world: current.world, at: now };
    const pilot = this.look(now);
    return pilot ? leashed(pilot, anchor, current.reach) : anchor;
  }

  draw(view, fade) {
    const { gl, canvas, current } = this;
    const wide = canvas.width / current.width;
    const high = canvas.height / current.height;
    // fill the screen where that cuts off little, else show all but a sliver
    const zoom = Math.min(Math.max(wide, high), 1.18 * Math.min(wide, high));
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.uniform2f(this.uniform("extent"), (current.width * zoom) / canvas.width, (current.height * zoom) / canvas.height);
    const [newest, before] = [this.layers[0], this.layers.at(-1)];
    const older = this.older.at(-1) ?? before;
    [newest, before, older].forEach((layer, i) => this.tell(ROLES[i], i, layer, view));
    const moved = Math.hypot(...view.t.map((v, i) => v - older.picture.t[i]));
    gl.uniform1f(this.uniform("fade"), before === newest ? 1 : fade);
    gl.uniform1f(this.uniform("distant"), older === newest ? 0 : Math.exp((-3 * moved) / (older.picture.reach || 1)));
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  tell(role, unit, { color, depth, picture }, view) {
    const { gl } = this;
    const { turn, shift, steps } = transfer(picture, view, lens(this.current, true));
    gl.uniformMatrix3fv(this.uniform(`${role}.turn`), false, turn.flat());
    gl.uniform3fv(this.uniform(`${role}.shift`), shift);
    gl.uniform1f(this.uniform(`${role}.near`), picture.nearest);
    gl.uniform1i(this.uniform(`${role}.steps`), picture.nearest ? steps : 0);
    gl.activeTexture(gl.TEXTURE0 + unit);
    gl.bindTexture(gl.TEXTURE_2D, color);
    if (unit > 1) return;
    gl.activeTexture(gl.TEXTURE3 + unit);
    gl.bindTexture(gl.TEXTURE_2D, depth);
  }
}
