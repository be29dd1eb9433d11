// How the station is, asked every two seconds, and its buttons.

const $ = (id) => document.getElementById(id);
const PHASES = { attract: "Waiting for a visitor", flying: "A visitor is flying", choosing: "A visitor is choosing", goodbye: "Saying goodbye" };
let drawn = "";

async function look() {
  try {
    const reply = await fetch("status", { cache: "no-store" });
    if (!reply.ok) throw new Error((await reply.text()).trim());
    show(await reply.json());
  } catch (error) {
    state("bad", error instanceof TypeError ? "The station does not answer" : error.message);
  }
}

function show(status) {
  const report = status.report;
  if (!report) state("busy", "The program is starting");
  else if (report.stage === "failed") state("bad", report.note);
  else if (report.stage === "loading") state("busy", report.note || "Loading");
  else state("good", PHASES[report.phase] ?? report.phase);
  figures(status, report);
  scenes(status.scenes, report?.scene);
  $("events").replaceChildren(...status.events.map(line));
}

function state(kind, words) {
  document.body.dataset.state = kind;
  $("state").lastElementChild.textContent = words;
}

function figures(status, report) {
  const rows = [
    ["Up for", span(status.uptime)],
    ["Program restarts", status.restarts],
    ["Engine restarts", report?.engine_restarts ?? "–"],
    ["Visits", report?.visits ?? "–"],
    ["Visit ends in", report?.seconds_left != null ? span(Math.max(report.seconds_left, 0)) : "–"],
    ["Generated", report ? `${report.frames_per_second.toFixed(1)} fps` : "–"],
    ["Language", report?.language ?? "–"],
    ["Phones watching", report?.watch ? report.viewers : "off"],
    ["Address for phones", report?.watch || "–"],
  ];
  $("figures").replaceChildren(...rows.map(([name, value]) => {
    const row = document.createElement("div");
    row.append(text("dt", name), text("dd", value));
    return row;
  }));
}

function scenes(list, current) {
  const key = JSON.stringify(list);
  if (key !== drawn) {
    drawn = key;
    $("scenes").replaceChildren(...list.map((scene) => {
      const button = text("button", scene.title);
      button.type = "button";
      button.dataset.name = scene.name;
      button.onclick = () => ask("scene", { scene: scene.name });
      return button;
    }));
  }
  for (const button of $("scenes").children) button.toggleAttribute("aria-current", button.dataset.name === current);
}

function line(event) {
  const item = document.createElement("li");
  item.className = event.trouble ? "trouble" : "";
  item.append(text("time", new Date(event.time * 1000).toLocaleTimeString()), text("span", event.words));
  return item;
}

function text(tag, words) {
  return Object.assign(document.createElement(tag), { textContent: String(words) });
}

function span(seconds) {
  const s = Math.floor(seconds);
  const [h, m] = [Math.floor(s / 3600), Math.floor(s / 60) % 60];
  return h ? `${h} h ${m} min` : m ? `${m} min ${s % 60} s` : `${s} s`;
}

async function ask(path, words = {}) {
  try {
    const reply = await fetch(path, { method: "POST", body: JSON.stringify(words) });
    $("answer").textContent = (await reply.text()).trim();
  } catch {
    $("answer").textContent = "The station does not answer.";
  }
  setTimeout(() => ($("answer").textContent = ""), 4000);
  look();
}

$("reset").onclick = () => ask("reset");
$("restart").onclick = () => ask("restart");
setInterval(look, 2000);
look();
