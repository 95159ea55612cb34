// The page: what came from the server onto the screen, what a person does to the server.

import { COMMANDS, Held, buildPad, listen } from "./controls.js";
import * as draw from "./draw.js";
import { Link } from "./wire.js";

const $ = (id) => document.getElementById(id);
const canvas = (id) => $(id).querySelector("canvas");
const TRACE = 240;

let setup = null;
let last = null; // the picture on the screen
const shown = { entropy: false, numbers: true };
const speeds = () => (setup ? setup.speeds : [15]);

const link = new Link({
  open: () => document.body.classList.remove("lost"),
  lost: () => {
    if (!document.body.classList.contains("lost")) notice("the server is out of reach; trying again");
    document.body.classList.add("lost");
  },
  text: (message) => {
    if (message.setup) begin(message.setup);
    if (message.you) whoHolds(message.you);
    if (message.notice) notice(message.notice, message.file);
  },
  picture: (picture) => {
    last = picture;
    if (setup) show(picture);
  },
});
const send = (message) => link.send(message);
const held = new Held(send);

// What stays the same.

function begin(facts) {
  setup = facts;
  $("env").textContent = facts.env.replace(/^.*\//, "");
  document.title = `${facts.env} · tokendream play`;
  $("modes").replaceChildren(...groups(facts.modes));
  $("actions").replaceChildren(
    ...facts.actions.map(({ name }, action) => {
      const row = element("button", "row");
      row.append(element("span", "", name.toLowerCase()), bar(`action-${action}`), element("em"));
      row.title = `what if: take ${name} now`;
      row.onclick = press(() => send({ do: "act", action }));
      return row;
    }),
  );
  $("actions").classList.toggle("many", facts.actions.length > 10);
  $("episodes").replaceChildren(...facts.episodes.map(({ title }, i) => new Option(title, i)));
  buildPad($("pad"), facts.keys, held);
  listen(() => setup.keys, held, run, (i) => enter(setup.modes[i].name));
  describeKeys();
  if (last) show(last);
}

function groups(modes) {
  const titles = ["game", "dream", "side by side", "replay"];
  return titles.map((title, g) => {
    const group = element("div", "group");
    group.append(element("span", "", title));
    for (const i of [2 * g, 2 * g + 1]) {
      const button = element("button", "", g === 3 ? ["alone", "beside"][i % 2] : ["agent", "you"][i % 2]);
      if (i === 7) button.append(element("small", "", " a dream"));
      button.dataset.mode = modes[i].name;
      button.title = `${modes[i].title} (key ${i + 1})`;
      button.prepend(element("kbd", "", String(i + 1)));
      button.onclick = press(() => enter(modes[i].name));
      group.append(button);
    }
    return group;
  });
}

function enter(mode) {
  held.clear();
  send({ do: "mode", mode });
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

function describeKeys() {
  const nice = (code) => code.replace(/^Key|^Digit/, "").replace("Arrow", "").replace("Space", "space").toLowerCase();
  const rows = [["1 – 8", "modes, as numbered"]];
  for (const [button, codes] of Object.entries(setup.keys)) rows.push([codes.map(nice).join("  "), button.toLowerCase()]);
  for (const [id, , , key, title] of COMMANDS) if (id) rows.push([key, title]);
  $("keys").replaceChildren(...rows.flatMap(([k, what]) => [element("dt", "", k), element("dd", "", what)]));
}

// What a person does.

function run(id) {
  const state = last ? last.state : {};
  const at = speeds().indexOf(state.fps);
  const actions = {
    back10: () => send({ do: "rewind", steps: 10 }),
    back: () => send({ do: "rewind", steps: 1 }),
    pause: () => send({ do: "pause", on: !state.paused }),
    step: () => send({ do: "step" }),
    slower: () => send({ do: "speed", fps: speeds()[Math.max(0, at - 1)] }),
    faster: () => send({ do: "speed", fps: speeds()[Math.min(speeds().length - 1, at + 1)] }),
    reset: () => send({ do: "reset" }),
    new: () => send({ do: "new" }),
    futures: () => send({ do: "futures", on: !state.futures }),
    record: () => send({ do: "record", on: state.recording === null }),
    picture: () => send({ do: "picture" }),
    reload: () => send({ do: "reload" }),
    help: () => $("help").showModal(),
    entropy: () => toggle("entropy"),
    numbers: () => toggle("numbers"),
  };
  actions[id]();
}

function toggle(what) {
  shown[what] = !shown[what];
  if (last) show(last);
}

/** A click that leaves no focus behind: the space bar is a key of the game. */
function press(what) {
  return (event) => {
    event.currentTarget.blur();
    what();
  };
}

$("take").onclick = press(() => send({ do: "take" }));
$("help-close").onclick = () => $("help").close();
$("episodes").onchange = (event) => {
  event.target.blur();
  send({ do: "open", episode: Number(event.target.value) });
};
$("seek").oninput = (event) => send({ do: "seek", frame: Number(event.target.value) });
$("seek").onchange = (event) => event.target.blur();
canvas("futures").onclick = (event) => {
  const box = event.currentTarget.getBoundingClientRect();
  const [column, row] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  send({ do: "choose", future: 4 * Math.floor(4 * row) + Math.floor(4 * column) });
};
window.onresize = () => last && show(last);

// What is seen.

function show({ state, arrays }) {
  const mode = setup.modes.find(({ name }) => name === state.mode);
  const dreaming = state.mode.endsWith("-dream");
  Object.assign(document.body.dataset, { mode: state.mode, step: state.step, paused: state.paused, fps: state.fps });
  document.body.classList.toggle("alone", dreaming);
  const about = [setup.run, `epoch ${state.epoch}`, setup.device, `${state.fps} steps/s`];
  if (state.newest > state.epoch) about[1] += ` (${state.newest} is there)`;
  $("about").textContent = about.join(" · ");
  for (const button of $("modes").querySelectorAll("button"))
    button.classList.toggle("on", button.dataset.mode === state.mode);

  $("panels").hidden = Boolean(state.futures);
  $("futures").hidden = !state.futures;
  if (state.futures) showFutures(state.futures, arrays.futures);
  else showPanels(state, arrays, dreaming);
  showNumbers(state, arrays, dreaming);

  $("pad").hidden = mode.who !== "person";
  $("replay").hidden = !state.replay;
  if (state.replay) {
    const { episode, at, length } = state.replay;
    if (document.activeElement !== $("episodes")) $("episodes").value = episode;
    $("seek").max = length - 1;
    if (document.activeElement !== $("seek")) $("seek").value = at;
    $("at").textContent = `${at} / ${length - 1}`;
  }
  $("do-pause").firstChild.textContent = state.paused ? "go on" : "pause";
  $("do-record").firstChild.textContent = state.recording === null ? "record" : `stop · ${state.recording}`;
  $("do-record").classList.toggle("recording", state.recording !== null);
  $("do-pause").classList.toggle("on", state.paused);
  $("futures-step").textContent = state.futures ? `${state.futures.at} steps on; click one to go on in it` : "";
  for (const name of ["entropy", "numbers"]) $(`do-${name}`).classList.toggle("on", shown[name]);
  $("do-futures").classList.toggle("on", Boolean(state.futures));
}

function showPanels(state, arrays, dreaming) {
  const kind = dreaming || state.mode.endsWith("-both") ? "goes on by itself" : "each next frame, predicted";
  $("dream-kind").textContent = kind;
  for (const name of ["frame", "reconstruction", "dream"]) {
    const panel = arrays[`panel.${name}`];
    $(`panel-${name}`).classList.toggle("absent", !panel);
    if (panel) draw.frame(canvas(`panel-${name}`), panel);
  }
  const real = arrays["tokens.reconstruction"]?.data;
  const dreamt = arrays["tokens.dream"]?.data;
  for (const [name, ids, other] of [["reconstruction", real, null], ["dream", dreamt, real]]) {
    $(`tokens-${name}`).classList.toggle("absent", !ids);
    if (ids) draw.tokens(canvas(`tokens-${name}`), ids, setup.grid, setup.palette, other, shown.numbers);
  }
  if (real && dreamt) {
    const differ = dreamt.filter((token, i) => token !== real[i]).length;
    $("tokens-kind").textContent = `of the dream; ${differ} of ${dreamt.length} differ`;
  } else $("tokens-kind").textContent = "of the dream";
  const overlay = $("panel-dream").querySelector(".overlay");
  const most = Math.log(setup.codes);
  const nats = arrays.entropy?.data ?? new Float32Array(setup.grid ** 2);
  draw.veil(overlay, nats, setup.grid, most, shown.entropy);
  draw.entropy(canvas("entropy"), nats, setup.grid, most);
  const mean = nats.reduce((sum, h) => sum + h, 0) / nats.length;
  $("entropy-mean").textContent = `${mean.toFixed(2)} nats a token, of ${most.toFixed(1)}`;
}

function showFutures({ returns, ends }, frames) {
  draw.futures(canvas("futures"), frames, returns, ends);
}

function showNumbers(state, arrays, dreaming) {
  $("score").textContent = Math.round(100 * state.score) / 100;
  $("score-name").textContent = dreaming ? "dreamt score" : "score";
  $("step").textContent = state.step;
  $("value").textContent = state.value.toFixed(2).replace(/^-(0\.00)$/, "$1");
  const probs = arrays.probs.data;
  [...$("actions").children].forEach((row, action) => {
    row.querySelector(".bar > div").style.width = `${100 * probs[action]}%`;
    row.lastChild.textContent = (100 * probs[action]).toFixed(0);
    row.classList.toggle("taken", action === state.action);
  });
  const expected = state.expected ?? [0, 0, 0];
  const sign = state.reward === undefined ? -1 : 1 + Math.sign(state.reward);
  for (const i of [0, 1, 2]) {
    $(`reward-${i}`).style.width = `${100 * expected[i]}%`;
    $(`came-${i}`).textContent = i === sign ? (i === 1 ? "came" : signed(state.reward)) : "";
  }
  $("end-bar").style.width = `${100 * (state.end_prob ?? 0)}%`;
  $("came-end").textContent = state.end ? (state.over ? "over" : "came") : "";
  draw.plot($("plot"), arrays.trace, TRACE);
}

const signed = (x) => (x > 0 ? "+" : "") + Math.round(100 * x) / 100;

function whoHolds({ controls, free, viewers }) {
  document.body.classList.toggle("watching", !controls);
  const others = viewers > 1 ? ` · ${viewers} watch` : "";
  $("viewers").textContent = (controls ? "you hold the controls" : free ? "the controls are free" : "you are watching") + others;
  $("take").hidden = controls;
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

function element(tag, kind = "", text = "") {
  const made = document.createElement(tag);
  if (tag === "button") made.type = "button";
  if (kind) made.className = kind;
  if (text) made.textContent = text;
  return made;
}

function bar(id) {
  const made = element("div", "bar");
  made.append(element("div"));
  made.firstChild.id = id;
  return made;
}
