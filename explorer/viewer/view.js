// From where a picture is drawn again: explorer/reproject.py for the page.

import { axes } from "./pilot.js";

const SHOWN = 0.85; // share of a generated picture that is shown
const TURN = { free: 0.1, most: 0.26 }; // radians: how far a view may lead what is generated
const MOVE = { free: 0.1, most: 0.3 }; // the same, as shares of the median distance of things
const FARTHEST = 400; // metres, and of the code of depth:
const DECADES = Math.log(1600);

const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const wrapped = (a) => Math.atan2(Math.sin(a), Math.cos(a));

/** Inverse depth in 1/m, by the byte that stands for it. */
export const DEPTHS = Float32Array.from({ length: 256 }, (_, c) => (c ? Math.exp(((c - 1) / 254) * DECADES) / FARTHEST : 0));

/** Median distance of things in metres of coded depth; 0: unknown. */
export function reachOf(depth) {
  const things = depth.filter((c) => c > 0).sort();
  return things.length ? 1 / DEPTHS[things[things.length >> 1]] : 0;
}

/** fx, fy, cx, cy of a picture as shares of its size; shown: only of its central part. */
export function lens({ intrinsics: [fx, fy, cx, cy], width, height }, shown = false) {
  const k = shown ? SHOWN : 1;
  return [fx / width / k, fy / height / k, 0.5 + (cx / width - 0.5) / k, 0.5 + (cy / height - 0.5) / k];
}

/** Between two pictures, as time is: yaw, pitch, roll and place. */
export function between(a, b, now) {
  return partWay(a, b, Math.min(Math.max((now - a.due) / Math.max(b.due - a.due, 1e-6), 0), 1));
}

/** Between two poses: 0 is `a`, 1 is `b`. */
export function partWay(a, b, share) {
  return {
    turn: a.turn.map((v, i) => v + share * wrapped(b.turn[i] - v)),
    t: a.t.map((v, i) => v + share * (b.t[i] - v)),
  };
}

/** `pose`, but no further from `anchor` than its picture carries. */
export function leashed(pose, anchor, reach) {
  const turn = pose.turn.map((a, i) => wrapped(a - anchor.turn[i]));
  const move = pose.t.map((v, i) => v - anchor.t[i]);
  const k = kept(Math.hypot(...turn), TURN.free, TURN.most);
  const m = reach ? kept(Math.hypot(...move), MOVE.free * reach, MOVE.most * reach) : 0;
  return { turn: anchor.turn.map((a, i) => a + k * turn[i]), t: anchor.t.map((v, i) => v + m * move[i]) };
}

function kept(size, free, most) {
  return size <= free ? 1 : (free + (most - free) * Math.tanh((size - free) / (most - free))) / size;
}

/** The turn (columns of a matrix) and the shift that take a view's points to a picture's, and the looks they need. */
export function transfer(picture, pose, viewLens) {
  const back = axes(picture.turn); // camera axes in the world: rows of the way back
  const there = axes(pose.turn);
  const [fx, fy, cx, cy] = lens(picture);
  const [gx, gy, hx, hy] = viewLens;
  const project = (v) => [fx * v[0] + cx * v[2], fy * v[1] + cy * v[2], v[2]];
  const cameraOf = (v) => project(back.map((axis) => dot(axis, v)));
  const [x, y, z] = there.map(cameraOf);
  const turn = [x.map((v) => v / gx), y.map((v) => v / gy), z.map((v, i) => v - (x[i] * hx) / gx - (y[i] * hy) / gy)];
  const shift = cameraOf(pose.t.map((v, i) => v - picture.t[i]));
  return { turn, shift, steps: looks(turn, shift, picture) };
}

function looks(turn, shift, picture) {
  let way = 0;
  for (const u of [0, 0.5, 1])
    for (const v of [0, 0.5, 1]) {
      const p = turn[0].map((a, i) => a * u + turn[1][i] * v + turn[2][i]);
      const q = p.map((a, i) => a + shift[i] * picture.nearest);
      if (p[2] < 1e-3 || q[2] < 1e-3) return 24;
      way = Math.max(way, Math.abs(q[0] / q[2] - p[0] / p[2]) * picture.width, Math.abs(q[1] / q[2] - p[1] / p[2]) * picture.height);
    }
  return way < 0.25 ? 0 : Math.min(Math.ceil(way / 1.5) + 1, 24);
}
