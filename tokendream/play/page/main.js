// The page: what came from the server onto the screen, what a person does to the server.

import { COMMANDS, Held, buildPad, listen } from "./controls.js";
import * as draw from "./draw.js";
import { Link } from "./link.js";

const $ = (id) => document.getElementById(id);
const { element, signed } = draw;
const TRACE = 240;

let setup = null;
let last = null; // the picture on the screen
const shown = { entropy: false, numbers: true };

const link = new Link({
  open: () => {
    document.body.classList.remove("lost");
    held.said = ""; // the server let go of all keys when it lost the page
    held.say();
  },
  lost: () => {
    if (!document.body.classList.contains("lost")) notice("the server is out of reach; trying again");
    document.body.classList.add("lost");
  },
  facts: (message) => {
    if (message.setup) begin(message.setup);
    if (message.you) whoHolds(message.you);
    if (message.notice) notice(message.notice, message.file);
  },
  picture: (picture) => {
    last = picture;
    refresh();
  },
});
const send = (...command) => link.send(...command);
const held = new Held(send);
const modes = [...$("modes").querySelectorAll("button")];

// What stays the same.

function begin(facts) {
  setup = facts;
  $("env").textContent = facts.env.replace(/^.*\//, "");
  $("facts").textContent = facts.facts;
  $("book").hidden = !facts.book;
  if (facts.book) $("book").querySelector("img").src = facts.book;
  document.title = `${facts.env} · tokendream play`;
  $("actions").replaceChildren(
    ...facts.actions.map((name, action) => {
      const row = element("button", "row");
      const bar = element("div", "bar");
      bar.append(element("div"));
      row.append(element("span", "", name.toLowerCase()), bar, element("em"));
      row.title = `what if: take ${name} now`;
      row.onclick = press(() => send("act", action));
      return row;
    }),
  );
  $("actions").classList.toggle("many", facts.actions.length > 10);
  $("episodes").replaceChildren(...facts.episodes.map((title, i) => new Option(title, i)));
  buildPad($("pad"), facts.keys, held);
  listen(facts.keys, held, run, (i) => modes[i].click());
  const nice = (code) => code.replace(/^Key|^Arrow/, "").toLowerCase();
  const rows = Object.entries(facts.keys).map(([button, codes]) => [codes.map(nice).join("  "), button.toLowerCase()]);
  for (const [id, , , key, title] of COMMANDS) if (id) rows.push([key, title]);
  $("keys").replaceChildren(
    ...[["1 – 8", "modes, as numbered"], ...rows].flatMap(([k, what]) => [element("dt", "", k), element("dd", "", what)]),
  );
  refresh();
}

// What a person does.

/** A click that leaves no focus behind: the space bar is a key of the game. */
function press(what) {
  return (event) => {
    event.currentTarget.blur();
    what(event);
  };
}

function run(id) {
  const [, , , , , message] = COMMANDS.find(([name]) => name === id);
  if (message) return last && setup && send(...message(last.state, setup.speeds));
  if (id === "help") return $("help").showModal();
  shown[id] = !shown[id];
  refresh();
}

$("transport").replaceChildren(
  ...COMMANDS.map(([id, label, , key, title]) => {
    if (!id) return element("hr");
    const button = element("button", "", label);
    button.id = `do-${id}`;
    button.title = `${title} (${key})`;
    button.append(element("kbd", "", key));
    button.onclick = press(() => run(id));
    return button;
  }),
);
for (const button of modes)
  button.onclick = press(() => {
    held.clear();
    send("mode", button.dataset.mode);
  });
$("take").onclick = press(({ target }) => send(target.value));
$("help-close").onclick = () => $("help").close();
$("episodes").onchange = press(({ target }) => send("open", Number(target.value)));
$("seek").oninput = ({ target }) => send("seek", Number(target.value));
$("seek").onchange = ({ target }) => target.blur();
window.onresize = refresh;

// What is seen.

function refresh() {
  if (last && setup) show(last);
}

function show({ state, panels, tokens, probs, trace, entropy }) {
  const [who, kind] = state.mode.split("-"); // as in "agent-both"; of "replay" there is no kind
  const dreaming = kind === "dream";
  Object.assign(document.body.dataset, { mode: state.mode, step: state.step, paused: state.paused, fps: state.fps });
  document.body.classList.toggle("alone", dreaming);
  const newer = state.newest > state.epoch ? ` (${state.newest} is there)` : "";
  $("about").textContent = `${setup.run} · epoch ${state.epoch}${newer} · ${setup.device} · ${state.fps} steps/s`;
  for (const button of modes) button.classList.toggle("on", button.dataset.mode === state.mode);

  $("panels").hidden = Boolean(state.futures);
  $("futures").hidden = !state.futures;
  if (state.futures) {
    $("futures").querySelector("img").src = panels.futures;
    draw.futures($("futures").querySelector(".grid"), state.futures, (i) => send("choose", i));
    $("futures-step").textContent = `${state.futures.at} steps on; click one to go on in it`;
  } else showPanels(panels, tokens, entropy || (tokens.dream || tokens.reconstruction).map(() => 0));
  $("dream-kind").textContent = kind && kind !== "game" ? "goes on by itself" : "each next frame, predicted";
  showNumbers(state, probs, dreaming);
  draw.plot($("plot"), trace, TRACE);

  $("pad").hidden = who !== "person";
  $("replay").hidden = !state.replay;
  if (state.replay) {
    const { episode, at, length } = state.replay;
    if (document.activeElement !== $("episodes")) $("episodes").value = episode;
    $("seek").max = length - 1;
    if (document.activeElement !== $("seek")) $("seek").value = at;
    $("at").textContent = `${at} / ${length - 1}`;
  }
  const recording = state.recording !== null;
  $("do-pause").firstChild.textContent = state.paused ? "go on" : "pause";
  $("do-record").firstChild.textContent = recording ? `stop · ${state.recording}` : "record";
  $("do-record").classList.toggle("recording", recording);
  for (const [id, on] of Object.entries({ pause: state.paused, futures: Boolean(state.futures), ...shown }))
    $(`do-${id}`).classList.toggle("on", on);
}

function showPanels(panels, { reconstruction: real, dream: dreamt }, nats) {
  document.body.classList.toggle("native", Boolean(panels.screen));
  for (const name of ["screen", "frame", "reconstruction", "dream"]) {
    $(`panel-${name}`).classList.toggle("absent", !panels[name]);
    if (panels[name]) $(`panel-${name}`).querySelector("img").src = panels[name];
  }
  for (const [name, ids, other] of [["reconstruction", real, null], ["dream", dreamt, real]]) {
    $(`tokens-${name}`).classList.toggle("absent", !ids);
    if (ids) draw.tokens($(`tokens-${name}`).querySelector(".grid"), ids, setup.palette, other, shown.numbers);
  }
  const differ = real && dreamt ? dreamt.filter((token, i) => token !== real[i]).length : 0;
  $("tokens-kind").textContent = real && dreamt ? `of the dream; ${differ} of ${dreamt.length} differ` : "of the dream";
  const most = Math.log(setup.codes);
  for (const grid of document.querySelectorAll(".glow")) draw.glow(grid, nats, most);
  $("veil").hidden = !shown.entropy || nats.length !== setup.grid ** 2; // it lies over a square grid only
  const mean = nats.reduce((sum, h) => sum + h, 0) / nats.length;
  $("entropy-mean").textContent = `${mean.toFixed(2)} nats a token, of ${most.toFixed(1)}`;
}

function showNumbers(state, probs, dreaming) {
  $("score").textContent = Math.round(100 * state.score) / 100;
  $("score-name").textContent = dreaming ? "dreamt score" : "score";
  $("step").textContent = state.step;
  $("value").textContent = state.value.toFixed(2).replace(/^-(0\.00)$/, "$1");
  [...$("actions").children].forEach((row, action) => {
    fill(row, probs[action], (100 * probs[action]).toFixed(0));
    row.classList.toggle("taken", action === state.action);
  });
  const came = state.reward === undefined ? null : Math.sign(state.reward);
  for (const sign of [-1, 0, 1])
    fill($(`reward${sign}`), state.expected?.[1 + sign], sign !== came ? "" : sign ? signed(state.reward) : "came");
  fill($("end"), state.end_prob, state.end ? (state.over ? "over" : "came") : "");
}

/** A row's bar, 0 to 1, and what stands beside it. */
function fill(row, part = 0, text) {
  row.querySelector(".bar > div").style.width = `${100 * part}%`;
  row.lastElementChild.textContent = text;
}

function whoHolds({ controls, free, viewers }) {
  document.body.classList.toggle("watching", !controls);
  const others = viewers > 1 ? ` · ${viewers} watch` : "";
  $("viewers").textContent = (controls ? "you hold the controls" : free ? "the controls are free" : "you are watching") + others;
  $("take").hidden = controls && viewers === 1;
  $("take").value = controls ? "release" : "take";
  $("take").textContent = controls ? "give them back" : "take the controls";
}

function notice(line, file) {
  const box = element("p", "", line);
  if (file) {
    const anchor = element("a", "", "fetch it");
    anchor.href = `/files/${encodeURIComponent(file)}${location.search}`;
    anchor.download = file;
    box.append(" ", anchor);
  }
  $("notices").append(box);
  while ($("notices").children.length > 4) $("notices").firstChild.remove();
  setTimeout(() => box.remove(), file ? 20000 : 6000);
}
