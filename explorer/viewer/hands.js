// Keys, mouse, touch and gamepad become the fields of a Control message: axes held, taps and mouse travel since the last.

export const SLOWEST = 0.1; // metres per second
export const FASTEST = 30;
const NOTCH = 10 ** (1 / 12); // twelve notches of the wheel are a factor of ten
const MOUSE_TURN = (0.12 * Math.PI) / 180; // radians per pixel
const DEAD_ZONE = 0.15;
const REPEAT = 250; // milliseconds after which what is held is said again
const KEYS = { // physical key → axis (right, down, forward, yaw right, pitch up, roll clockwise), sign
  KeyD: [0, 1], KeyA: [0, -1], KeyC: [1, 1], Space: [1, -1], KeyW: [2, 1], KeyS: [2, -1],
  ArrowRight: [3, 1], ArrowLeft: [3, -1], ArrowUp: [4, 1], ArrowDown: [4, -1], KeyE: [5, 1], KeyQ: [5, -1],
};
const NOTHING = [0, 0, 0, 0, 0, 0];

export class Hands {
  /** `send(fields)` sends one control; `changed()` tells that the speed did. Deaf until `active` is set. */
  constructor({ canvas, sticks, lifts, send, changed }) {
    Object.assign(this, { canvas, send, changed });
    this.flying = false;
    this.speed = 4;
    this.held = new Set();
    this.touch = [...NOTHING];
    this.id = 0;
    this.presses = [...NOTHING]; // running totals, for the pilot on this page
    this.looked = [0, 0];
    this.clear();
    this.said = "";
    this.saidAt = 0;
    this.listenToKeys();
    this.listenToMouse();
    for (const stick of sticks) this.listenToStick(stick);
    for (const lift of lifts) this.listenToLift(lift);
    const turn = (now) => {
      this.speak(now);
      requestAnimationFrame(turn);
    };
    requestAnimationFrame(turn);
  }

  get active() {
    return this.flying;
  }

  set active(value) {
    if (value === this.flying) return;
    this.flying = value;
    this.held.clear();
    this.touch = [...NOTHING];
    this.clear();
    this.said = "";
    if (!value && document.pointerLockElement) document.exitPointerLock();
  }

  clear() {
    this.taps = [...NOTHING];
    this.look = [0, 0];
  }

  listenToKeys() {
    addEventListener("keydown", (event) => {
      const key = KEYS[event.code];
      if (!this.flying || !key || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.target.closest?.("dialog")) return;
      event.preventDefault();
      if (this.held.has(event.code)) return;
      this.held.add(event.code);
      this.taps[key[0]] += key[1];
      this.presses[key[0]] += key[1];
    });
    addEventListener("keyup", (event) => {
      if (this.held.delete(event.code)) event.preventDefault();
    });
    const letGo = () => {
      this.held.clear();
      this.touch = [...NOTHING];
      this.speak(performance.now());
    };
    addEventListener("blur", letGo);
    document.addEventListener("visibilitychange", () => document.hidden && letGo());
  }

  listenToMouse() {
    const canvas = this.canvas;
    canvas.addEventListener("click", (event) => {
      if (!this.flying || event.pointerType === "touch") return;
      canvas.requestPointerLock?.()?.catch?.(() => {}); // refused: dragging still turns
    });
    canvas.addEventListener("pointermove", (event) => {
      const grabbed = document.pointerLockElement === canvas;
      if (!this.flying || event.pointerType === "touch" || !(grabbed || event.buttons)) return;
      const turn = [event.movementX * MOUSE_TURN, -event.movementY * MOUSE_TURN];
      turn.forEach((by, i) => {
        this.look[i] += by;
        this.looked[i] += by;
      });
    });
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      if (this.flying) this.setSpeed(this.speed * NOTCH ** -Math.sign(event.deltaY));
    }, { passive: false });
  }

  setSpeed(speed) {
    this.speed = Math.min(Math.max(speed, SLOWEST), FASTEST);
    this.changed();
  }

  /** A touch joystick: an element with data-x and data-y naming the axes it drives, and a knob inside. */
  listenToStick(stick) {
    const knob = stick.firstElementChild;
    const [across, along] = [Number(stick.dataset.x), Number(stick.dataset.y)];
    const move = (event) => {
      const box = stick.getBoundingClientRect();
      const reach = box.width / 2;
      let x = (event.clientX - box.left) / reach - 1;
      let y = (event.clientY - box.top) / reach - 1;
      const size = Math.max(Math.hypot(x, y), 1);
      [x, y] = [x / size, y / size];
      this.touch[across] = soften(x);
      this.touch[along] = soften(-y);
      knob.style.transform = `translate(${x * reach * 0.55}px, ${y * reach * 0.55}px)`;
    };
    const end = () => {
      this.touch[across] = this.touch[along] = 0;
      knob.style.transform = "";
    };
    press(stick, move, end);
    stick.addEventListener("pointermove", (event) => stick.hasPointerCapture(event.pointerId) && move(event));
  }

  /** A button held to rise or sink: data-y is -1 or 1 on the down axis. */
  listenToLift(lift) {
    press(lift, () => (this.touch[1] = Number(lift.dataset.y)), () => (this.touch[1] = 0));
  }

  get pad() {
    const pad = (navigator.getGamepads?.() ?? []).find((p) => p?.connected);
    if (!pad || !this.flying || !document.hasFocus()) return NOTHING;
    const axis = (i) => soften(pad.axes[i] ?? 0);
    const button = (i) => pad.buttons[i]?.value ?? 0;
    return [axis(0), button(6) - button(7), -axis(1), axis(2), -axis(3), button(5) - button(4)];
  }

  get axes() {
    const pad = this.pad;
    const axes = this.touch.map((value, i) => value + pad[i]);
    for (const code of this.held) axes[KEYS[code][0]] += KEYS[code][1];
    return axes.map((value) => Math.min(Math.max(value, -1), 1));
  }

  /** Send a control if something changed, or is held and was not mentioned for a while. */
  speak(now) {
    if (!this.flying) return;
    const axes = this.axes;
    const size = Math.max(Math.hypot(axes[0], axes[1], axes[2]), 1);
    const fields = { move: axes.slice(0, 3).map((v) => v / size), turn: axes.slice(3), speed: this.speed };
    const moved = this.taps.some(Boolean) || this.look.some(Boolean);
    const said = JSON.stringify(fields);
    const held = axes.some(Boolean);
    if (!moved && said === this.said && !(held && now - this.saidAt > REPEAT)) return;
    if (!moved && !held && !this.said) return;
    this.id += 1;
    const within = (v) => Math.min(Math.max(v, -3), 3);
    this.send({ id: this.id, time: now / 1000, ...fields, taps: this.taps, look: this.look.map(within) });
    this.clear();
    this.said = said;
    this.saidAt = now;
  }
}

/** A stick without its sloppy middle. */
function soften(value) {
  const size = Math.min(Math.abs(value), 1);
  return size > DEAD_ZONE ? (Math.sign(value) * (size - DEAD_ZONE)) / (1 - DEAD_ZONE) : 0;
}

function press(element, down, up) {
  element.addEventListener("pointerdown", (event) => {
    element.setPointerCapture(event.pointerId);
    down(event);
  });
  for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) element.addEventListener(end, up);
  element.addEventListener("contextmenu", (event) => event.preventDefault());
}
