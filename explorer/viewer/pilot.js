// Where the pilot is now: explorer/pilot.py flown here too, so that the view answers before the world has heard of it.
// The world's word corrects it, gently.

const TURN = [0.8, 0.6, 0.6]; // yaw, pitch, roll, radians per second
const LAG = 5.5; // per second: rate at which velocity follows
const LIMIT = [Infinity, (60 * Math.PI) / 180, (30 * Math.PI) / 180];
const LOOK = { rate: 1.5, follow: 25, backlog: 0.6 }; // radians per second, per second, radians
const PULSE = 0.25; // seconds that the shortest tap counts for
const LEAD = { turn: 1.2, seconds: 2, slowest: 2 }; // how far it may be ahead of what is generated
const MEMORY = 3; // seconds of its own past that it remembers
const EASE = 0.15; // of a difference to the world's word is mended with each
const LOST = { turn: 1, move: 10 }; // radians and metres beyond which it is not mended but believed

const within = (x, limit) => Math.min(Math.max(x, -limit), limit);
const wrapped = (a) => Math.atan2(Math.sin(a), Math.cos(a));

/** Columns of Ry(yaw) Rx(pitch) Rz(roll): camera axes in the world. */
export function axes([yaw, pitch, roll]) {
  const [cy, sy, cp, sp, cr, sr] = [yaw, pitch, roll].flatMap((a) => [Math.cos(a), Math.sin(a)]);
  return [
    [cy * cr + sy * sp * sr, cp * sr, -sy * cr + cy * sp * sr],
    [-cy * sr + sy * sp * cr, cp * cr, sy * sr + cy * sp * cr],
    [sy * cp, -sp, cy * cp],
  ];
}

/** Yaw, pitch, roll of a unit quaternion w, x, y, z. */
export function angles([w, x, y, z]) {
  const m12 = 2 * (y * z - w * x);
  return [
    Math.atan2(2 * (x * z + w * y), 1 - 2 * (x * x + y * y)),
    Math.asin(within(-m12, 1)),
    Math.atan2(2 * (x * y + w * z), 1 - 2 * (x * x + z * z)),
  ];
}

export class Pilot {
  constructor() {
    this.past = []; // where it was: { at, turn, t }
    this.placed = false;
  }

  /** Begin at a pose, at rest, with nothing left to do. `hands`: running totals of presses and mouse travel. */
  place(turn, t, hands) {
    Object.assign(this, { turn: [...turn], t: [...t], velocity: [0, 0, 0], rate: [0, 0, 0], pulse: Array(6).fill(0) });
    this.presses = [...hands.presses];
    this.look = [...hands.looked];
    this.past = [];
    this.placed = true;
  }

  /** Fly until `now` (seconds). `hands` have axes, speed, presses and looked. */
  fly(hands, now) {
    const dt = Math.min(now - (this.past.at(-1)?.at ?? now), 0.25);
    if (dt > 0) this.step(hands, dt);
    this.past.push({ at: now, turn: [...this.turn], t: [...this.t] });
    while (this.past[0].at < now - MEMORY) this.past.shift();
  }

  step(hands, dt) {
    hands.presses.forEach((total, i) => {
      if (total !== this.presses[i]) this.pulse[i] = Math.sign(total - this.presses[i]) * PULSE;
    });
    this.presses = [...hands.presses];
    const ends = this.pulse.map(Math.abs).filter((p) => p > 0 && p < dt);
    if (ends.length) {
      const first = Math.min(...ends);
      this.glide(hands, first);
      return this.step(hands, dt - first);
    }
    this.glide(hands, dt);
  }

  glide(hands, dt) {
    const held = hands.axes.map((a, i) => a || Math.sign(this.pulse[i]));
    const size = Math.max(Math.hypot(held[0], held[1], held[2]), 1);
    const keep = Math.exp(-LAG * dt);
    const lagged = (now, goal) => [goal + (now - goal) * keep, goal * dt + ((now - goal) * (1 - keep)) / LAG];
    const moved = [0, 0, 0];
    const turned = [0, 0, 0];
    for (let i = 0; i < 3; i++) {
      [this.velocity[i], moved[i]] = lagged(this.velocity[i], (held[i] / size) * hands.speed);
      [this.rate[i], turned[i]] = lagged(this.rate[i], held[3 + i] * TURN[i]);
    }
    const along = axes(this.after(turned.map((a) => a / 2)));
    this.t = this.t.map((v, i) => v + along[0][i] * moved[0] + along[1][i] * moved[1] + along[2][i] * moved[2]);
    this.turn = this.after(turned);
    this.turn = this.after([...this.followed(hands, dt), 0]);
    this.pulse = this.pulse.map((p) => (Math.abs(p) - dt > 1e-9 ? Math.sign(p) * (Math.abs(p) - dt) : 0));
  }

  after(by) {
    return this.turn.map((a, i) => {
      const limit = Math.max(LIMIT[i], Math.abs(a));
      return i ? within(a + by[i], limit) : wrapped(a + by[i]);
    });
  }

  /** Mouse travel turned now: yaw, pitch. */
  followed(hands, dt) {
    return [0, 1].map((i) => {
      const pending = within(hands.looked[i] - this.look[i], LOOK.backlog);
      const now = Math.abs(pending) < 1e-5 ? pending : within(pending * (1 - Math.exp(-LOOK.follow * dt)), LOOK.rate * dt);
      this.look[i] = hands.looked[i] - pending + now;
      return now;
    });
  }

  /** Wait for a world that does not keep up: no further ahead of the generated camera. */
  holdBack(generated) {
    const speed = Math.max(Math.hypot(...this.velocity), LEAD.slowest);
    const shorter = (v, most) => v.map((a) => a * Math.min(most / Math.max(Math.hypot(...v), 1e-12), 1));
    const turn = shorter(this.turn.map((a, i) => wrapped(a - generated.turn[i])), LEAD.turn);
    const move = shorter(this.t.map((a, i) => a - generated.t[i]), LEAD.seconds * speed);
    this.turn = turn.map((a, i) => generated.turn[i] + a);
    this.t = move.map((a, i) => generated.t[i] + a);
  }

  /** The world says that the pilot was there at the time `at` of this page. */
  correct(turn, t, at, hands) {
    const then = this.past.findLast((p) => p.at <= at) ?? this.past[0];
    if (!then) return;
    const off = turn.map((a, i) => wrapped(a - then.turn[i]));
    const away = t.map((v, i) => v - then.t[i]);
    if (Math.hypot(...off) > LOST.turn || Math.hypot(...away) > LOST.move) return this.place(turn, t, hands);
    for (const p of [this, ...this.past]) {
      p.turn = p.turn.map((a, i) => a + EASE * off[i]);
      p.t = p.t.map((v, i) => v + EASE * away[i]);
    }
  }
}
