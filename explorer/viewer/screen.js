// The canvas: pictures in, each with its pose and time; at every refresh the one that is due is drawn.

const HELD = 4; // decoded pictures that may wait; beyond them no more are bought
const MAX_DELAY = 0.15; // seconds by which playing may lag behind the steadiest arrival

const VERTEX = `#version 300 es
out vec2 at;
void main() {
  at = vec2((gl_VertexID << 1) & 2, gl_VertexID & 2);
  gl_Position = vec4(at * 2.0 - 1.0, 0.0, 1.0);
}`;

// The picture, enlarged with a Catmull-Rom spline: four taps a side, the middle two folded into one bilinear fetch.
// Around it, its own colours far out of focus, so that no screen has black bars.
const FRAGMENT = `#version 300 es
precision highp float;
in vec2 at;
out vec4 colour;
uniform sampler2D picture;
uniform vec2 size;   // of the picture, pixels
uniform vec2 extent; // of the picture on the canvas, shares of it

vec3 sharp(vec2 uv) {
  vec2 p = uv * size - 0.5;
  vec2 f = fract(p);
  vec2 base = floor(p) + 0.5;
  vec2 w0 = f * (-0.5 + f * (1.0 - 0.5 * f));
  vec2 w3 = f * f * (-0.5 + 0.5 * f);
  vec2 w1 = 1.0 + f * f * (-2.5 + 1.5 * f);
  vec2 w12 = 1.0 - w0 - w3;
  vec2 x[3] = vec2[3](base - 1.0, base + (w12 - w1) / w12, base + 2.0);
  vec2 w[3] = vec2[3](w0, w12, w3);
  vec3 sum = vec3(0.0);
  for (int j = 0; j < 3; j++)
    for (int i = 0; i < 3; i++)
      sum += w[i].x * w[j].y * textureLod(picture, vec2(x[i].x, x[j].y) / size, 0.0).rgb;
  return clamp(sum, 0.0, 1.0);
}

vec3 soft(vec2 uv) {
  vec3 sum = vec3(0.0);
  for (int j = -1; j <= 1; j++)
    for (int i = -1; i <= 1; i++)
      sum += textureLod(picture, clamp(uv + 0.1 * vec2(i, j), 0.02, 0.98), 5.0).rgb;
  return sum / 9.0;
}

void main() {
  vec2 uv = (vec2(at.x, 1.0 - at.y) - 0.5) / extent + 0.5;
  vec2 beyond = max(abs(uv - 0.5) - 0.5, 0.0) * extent;
  if (beyond.x + beyond.y > 0.0)
    colour = vec4(soft(clamp(uv, 0.0, 1.0)) * 0.34 * exp(-3.5 * length(beyond)), 1.0);
  else
    colour = vec4(sharp(uv), 1.0);
}`;

export class Screen {
  /** `onRoom(n)`: there is room for n more pictures. `onShown(picture)`: this one is on the screen now. */
  constructor(canvas, { onRoom, onShown }) {
    this.canvas = canvas;
    this.onRoom = onRoom;
    this.onShown = onShown;
    this.queue = [];
    this.current = null; // the picture shown, with pose and intrinsics
    this.owed = 0; // credits not yet given
    this.lags = []; // arrival minus due time of the last pictures, seconds
    this.texture = 0;
    this.dirty = true;
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
    const program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
    gl.useProgram(program);
    this.uniforms = { size: gl.getUniformLocation(program, "size"), extent: gl.getUniformLocation(program, "extent") };
    gl.bindVertexArray(gl.createVertexArray());
    gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
    for (const side of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, side, gl.CLAMP_TO_EDGE);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR_MIPMAP_LINEAR);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.LINEAR);
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
      this.queue.push({ ...message, data: null, bitmap, arrived });
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
    }
    if (this.dirty && this.current) this.draw();
    if (next) {
      this.onShown(next);
      this.giveRoom();
    }
  }

  upload(picture) {
    const gl = this.gl;
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, picture.bitmap);
    gl.generateMipmap(gl.TEXTURE_2D);
    this.dirty = true;
  }

  resize() {
    const scale = Math.min(window.devicePixelRatio || 1, 2);
    this.canvas.width = Math.max(1, Math.round(this.canvas.clientWidth * scale));
    this.canvas.height = Math.max(1, Math.round(this.canvas.clientHeight * scale));
    this.dirty = true;
    if (this.current) this.draw();
  }

  draw() {
    const { gl, canvas, current } = this;
    const wide = canvas.width / current.width;
    const high = canvas.height / current.height;
    // fill the screen where that cuts off little, else show all but a sliver
    const zoom = Math.min(Math.max(wide, high), 1.18 * Math.min(wide, high));
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.uniform2f(this.uniforms.size, current.width, current.height);
    gl.uniform2f(this.uniforms.extent, (current.width * zoom) / canvas.width, (current.height * zoom) / canvas.height);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
    this.dirty = false;
  }
}
