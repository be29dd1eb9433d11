// The page: one connection to the world, and what people see of it.

import { VERSION, decode, encode } from "./wire.js";
import { Screen } from "./screen.js";
import { Hands } from "./hands.js";
import { Pilot, angles } from "./pilot.js";

const CREDITS = 2; // pictures on their way at most
const WAITS = [0.5, 1, 2, 4, 8]; // seconds between attempts to connect again
const $ = (id) => document.getElementById(id);
const body = document.body;

let socket = null;
let attempts = 0;
let retryAt = 0;
let retryTimer = 0;
let reloadOnly = false; // this page cannot talk to this world: only a new page can
let full = ""; // what a world without a free place said
let greeting = null; // the Hello message
let pacedFor = ""; // the world whose usual speed the hands have
let status = null;
let seat = { role: "spectator", place: 0 };
let shown = []; // the last pictures drawn: when, where from
let clock = null; // the world's seconds less ours, and half the way there and back
const pilot = new Pilot();
const sentAt = new Map(); // control id → when it was sent, until a picture obeys it

const send = (type, fields) => {
  if (socket?.readyState === WebSocket.OPEN) socket.send(encode(type, fields));
};

const shader = await (await fetch("redraw.glsl")).text();
const screen = makeScreen();
const hands = new Hands({
  canvas: $("screen"),
  sticks: document.querySelectorAll(".stick"),
  lifts: document.querySelectorAll(".lift"),
  send(control) {
    sentAt.set(control.id, performance.now());
    if (sentAt.size > 400) sentAt.delete(sentAt.keys().next().value);
    send("control", control);
  },
  changed: () => ($("gear").textContent = `${hands.speed.toFixed(1)} m/s`),
});

function makeScreen() {
  try {
    return new Screen($("screen"), { onRoom: (frames) => send("credit", { frames }), onShown: note, look, shader });
  } catch (error) {
    trouble("This browser cannot show the world", error.message, "Reload");
    reloadOnly = true;
    throw error;
  }
}

// connection

function connect() {
  clearTimeout(retryTimer);
  const mine = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/socket`);
  socket = mine;
  mine.binaryType = "arraybuffer";
  mine.onmessage = (event) => socket === mine && receive(event.data);
  mine.onclose = () => socket === mine && lost();
}

function receive(data) {
  let message;
  try {
    message = decode(data);
  } catch {
    return; // one message cut short; the next is whole again
  }
  if (message?.v !== VERSION) return differ();
  ({ hello, status: world, seat: seated, picture: pictured, error: refused, pong })[message.type]?.(message);
}

function hello(message) {
  if (pacedFor !== message.world) hands.setSpeed(message.speed);
  pacedFor = message.world;
  greeting = message;
  attempts = 0;
  full = "";
  seat = { role: message.role, place: 0 };
  body.dataset.link = "open";
  $("trouble").hidden = true;
  screen.reset();
  clock = null;
  sentAt.clear();
  fillScenes();
  send("credit", { frames: CREDITS });
  send("ping", { time: performance.now() / 1000 });
  render();
}

function lost() {
  socket = null;
  greeting = null;
  seat = { role: "spectator", place: 0 };
  body.dataset.link = "lost";
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
  render();
  if (reloadOnly) return;
  const wait = WAITS[Math.min(attempts, WAITS.length - 1)] * (0.8 + 0.4 * Math.random());
  attempts += 1;
  retryAt = performance.now() + wait * 1000;
  retryTimer = setTimeout(connect, wait * 1000);
  if (attempts > 1 || full) countdown();
}

function countdown() {
  if (body.dataset.link !== "lost" || reloadOnly) return;
  const left = Math.max(0, Math.ceil((retryAt - performance.now()) / 1000));
  const when = left > 0 ? `in ${left} second${left > 1 ? "s" : ""}` : "now";
  const [title, text] = full ? ["Nobody else fits in", full] : ["Connection lost", "The world does not answer."];
  trouble(title, `${text} Trying again ${when}.`, "Try now");
}

function differ() {
  reloadOnly = true;
  trouble("This page is out of date", "The world speaks another version of the protocol. Reload the page to go on.", "Reload");
  socket.close();
}

function trouble(title, text, action) {
  if ($("trouble-title").textContent !== title) $("trouble-title").textContent = title;
  $("trouble-text").textContent = text;
  $("retry").textContent = action;
  $("trouble").hidden = false;
}

// messages

function world(message) {
  if (status && message.scene !== status.scene) shown = [];
  status = message;
  render();
}

function seated(message) {
  const before = seat.role;
  seat = message;
  if (message.reason && (before !== message.role || message.role === "pilot")) toast(message.reason);
  if (message.role === "pilot" && before !== "pilot") {
    document.activeElement?.blur();
    if (matchMedia("(pointer: fine)").matches) toast("W A S D to fly, click to look around with the mouse.", 6);
  }
  render();
}

function refused(message) {
  if (message.code === "version") return differ();
  if (message.code === "full") return void (full = message.message);
  if (message.code !== "spectator" || seat.role === "spectator") toast(message.message);
}

/** Where the pilot on this page is; null for who watches. */
function look(now) {
  if (!hands.active || !pilot.placed) return null;
  pilot.fly(hands, now);
  if (screen.anchor) pilot.holdBack(screen.anchor);
  return pilot;
}

function pictured(message) {
  screen.add(message);
  if (!hands.active || !message.pilot_at) pilot.placed = false;
  else if (!pilot.placed || pilot.world !== message.world) {
    pilot.place(angles(message.pilot_q), message.pilot_t, hands);
    pilot.world = message.world;
  } else if (clock) {
    pilot.correct(angles(message.pilot_q), message.pilot_t, message.pilot_at - clock.ahead - clock.way, hands);
  }
}

function pong(message) {
  const way = (performance.now() / 1000 - message.time) / 2;
  // the quickest answer tells most; others count again after a while
  if (!clock || way <= 1.1 * clock.way) clock = { ahead: message.server - message.time - way, way };
  else clock.way *= 1.05;
  $("network").textContent = Math.max(1, Math.round(performance.now() - message.time * 1000));
}

/** A picture is on the screen: what the instruments say about it. */
function note(picture) {
  const now = performance.now();
  if (shown.length && shown.at(-1).world !== picture.world) shown = [];
  shown.push({ at: now, due: picture.due, t: picture.t, index: picture.index, world: picture.world });
  while (shown.length > 2 && now - shown[0].at > 2000) shown.shift();
  if (sentAt.has(picture.control)) $("response").textContent = Math.round(now - sentAt.get(picture.control));
  for (const id of sentAt.keys()) if (id <= picture.control) sentAt.delete(id);
  body.dataset.frame = picture.index;
}

// what people see

function render() {
  const open = body.dataset.link === "open";
  const pilot = open && seat.role === "pilot";
  const busy = open && !pilot && Boolean(status?.piloted);
  body.dataset.role = pilot ? "pilot" : "spectator";
  body.dataset.busy = busy ? "yes" : "no";
  body.dataset.pilots = greeting?.pilots === false ? "no" : "yes";
  hands.active = pilot;
  $("status").lastElementChild.textContent = sentence(open, pilot, busy);
  $("people").textContent = status?.viewers ?? 1;
  const line = status?.waiting ? `, ${status.waiting} waiting` : "";
  $("invite-text").textContent = !busy
    ? "This place is generated while you fly through it."
    : seat.place
      ? seat.place === 1 ? "You are next in line." : `You are number ${seat.place} in line.`
      : `Somebody else is flying${line}.`;
  $("fly").textContent = !busy ? "Fly" : seat.place ? "Cancel" : "Ask to fly";
  $("fly").classList.toggle("waiting", Boolean(busy && seat.place));
  $("scenes-note").textContent = pilot ? "" : "Whoever flies chooses the scene.";
  for (const button of $("grid").querySelectorAll("button")) {
    button.disabled = !pilot;
    button.toggleAttribute("aria-current", button.dataset.scene === status?.scene);
  }
}

function sentence(open, pilot, busy) {
  if (!open) return body.dataset.link === "lost" ? "Not connected" : "Connecting";
  if (status?.state === "loading") return "Loading the scene";
  if (pilot) return "You are flying";
  return busy || greeting?.pilots === false ? "Watching" : "Nobody is flying";
}

function fillScenes() {
  $("open-scenes").hidden = !greeting.scenes.length || greeting.pilots === false;
  $("open-help").hidden = greeting.pilots === false;
  $("grid").replaceChildren(...greeting.scenes.map((scene, number) => {
    const picture = Object.assign(new Image(), { src: `/scene/${number}.jpg`, alt: "", loading: "lazy" });
    const title = Object.assign(document.createElement("span"), { textContent: scene.title });
    const button = Object.assign(document.createElement("button"), { type: "button" });
    button.dataset.scene = scene.id;
    button.append(picture, title);
    button.onclick = () => {
      send("choose", { scene: scene.id });
      $("scenes").close();
    };
    const item = document.createElement("li");
    item.append(button);
    return item;
  }));
}

let toastTimer = 0;
function toast(text, seconds = 4) {
  $("toast").textContent = text;
  $("toast").hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => ($("toast").hidden = true), seconds * 1000);
}

function instruments() {
  const now = performance.now();
  const live = shown.filter((s) => now - s.at < 1000);
  $("fps").textContent = live.length;
  const [a, b] = [live[0], live.at(-1)];
  const moved = live.length > 1 ? Math.hypot(...b.t.map((v, i) => v - a.t[i])) / Math.max(b.due - a.due, 1e-3) : 0;
  $("speed").textContent = moved.toFixed(1);
  if (body.dataset.link === "lost" && !$("trouble").hidden) countdown();
}

// buttons

$("fly").onclick = () => send("ask", { action: seat.place ? "leave" : "fly" });
$("leave").onclick = () => send("ask", { action: "leave" });
$("slower").onclick = () => hands.setSpeed(hands.speed / 10 ** (1 / 6));
$("faster").onclick = () => hands.setSpeed(hands.speed * 10 ** (1 / 6));
$("open-scenes").onclick = () => $("scenes").showModal();
$("open-help").onclick = () => $("help").showModal();
$("retry").onclick = () => (reloadOnly ? location.reload() : connect());
$("full-screen").onclick = () => (document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen?.());
$("full-screen").hidden = !document.fullscreenEnabled;
for (const dialog of document.querySelectorAll("dialog")) {
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
}
for (const button of document.querySelectorAll(".tools button, .gears button")) {
  button.addEventListener("click", (event) => event.detail && button.blur()); // after a mouse, Space is for flying again
}

// a page put aside keeps its socket, and its place, unless it lets go of them
addEventListener("pagehide", () => socket?.close());
addEventListener("pageshow", (event) => event.persisted && !socket && connect());

setInterval(instruments, 250);
setInterval(() => send("ping", { time: performance.now() / 1000 }), 2000);
connect();
