// Keys, buttons and touch into commands. What a game's buttons are called, the server says.

import { element } from "./draw.js";

/** The toolbar in its order: [id, label, key, shown key, title, what is sent in a state]. An empty id starts a new group,
 * and what sends nothing is done by the page itself. */
export const COMMANDS = [
  ["back10", "−10", "<Comma", "⇧ ,", "undo ten steps", () => ["rewind", 10]],
  ["back", "−1", "Comma", ",", "undo a step", () => ["rewind", 1]],
  ["pause", "pause", "KeyP", "P", "pause or go on", (state) => ["pause", !state.paused]],
  ["step", "+1", "Period", ".", "one step", () => ["step"]],
  [""],
  ["slower", "slower", "Minus", "−", "slow motion", (state, speeds) => ["speed", beside(speeds, state.fps, -1)]],
  ["faster", "faster", "Equal", "+", "faster", (state, speeds) => ["speed", beside(speeds, state.fps, 1)]],
  [""],
  ["reset", "reset", "KeyR", "R", "the dream back to where it began; side by side a new dream of what is shown", () => ["reset"]],
  ["new", "new", "KeyG", "G", "a new game, the next episode", () => ["new"]],
  ["futures", "futures", "KeyF", "F", "sixteen futures of this moment", (state) => ["futures", !state.futures]],
  [""],
  ["entropy", "veil", "KeyE", "E", "uncertainty over the dream"],
  ["numbers", "ids", "KeyT", "T", "numbers of the tokens"],
  [""],
  ["record", "record", "KeyV", "V", "start or stop recording", (state) => ["record", state.recording === null]],
  ["picture", "picture", "KeyC", "C", "a picture of this view", () => ["picture"]],
  ["reload", "reload", "KeyX", "X", "read the run's last checkpoint", () => ["reload"]],
  ["help", "keys", "Slash", "?", "all keys"],
];

function beside(speeds, fps, by) {
  return speeds[Math.min(speeds.length - 1, Math.max(0, speeds.indexOf(fps) + by))];
}

/** Keys and touched buttons that are held, in the order in which they were pressed. */
export class Held {
  constructor(send) {
    this.send = send;
    this.sources = new Map(); // key or pointer -> buttons
    this.said = "";
  }

  press(source, buttons) {
    this.sources.delete(source);
    this.sources.set(source, buttons);
    this.say();
  }

  release(source) {
    if (this.sources.delete(source)) this.say();
  }

  clear() {
    this.sources.clear();
    this.say();
  }

  say() {
    const buttons = [...new Set([...this.sources.values()].flat())].join("\t");
    if (buttons === this.said) return;
    this.said = buttons;
    this.send("hold", buttons);
  }
}

const CROSS = [
  [["↖", "LEFT", "UP"], ["↑", "UP"], ["↗", "RIGHT", "UP"]],
  [["←", "LEFT"], [""], ["→", "RIGHT"]],
  [["↙", "LEFT", "DOWN"], ["↓", "DOWN"], ["↘", "RIGHT", "DOWN"]],
];

/** A pad for fingers: a cross with diagonals where the game has directions, and every other button beside it. */
export function buildPad(pad, keys, held) {
  const usable = ([, ...buttons]) => buttons.length > 0 && buttons.every((button) => button in keys);
  const rows = CROSS.filter((row) => row.some(usable)); // a game without up and down has a pad of one row
  const cross = element("div", "cross");
  cross.append(...rows.flat().map((cell) => (usable(cell) ? padButton(cell, held) : element("span"))));
  const others = element("div", "others");
  for (const button of Object.keys(keys))
    if (!CROSS.flat(2).includes(button)) others.append(padButton([button.toLowerCase(), button], held));
  pad.replaceChildren(...[cross, others].filter((part) => part.children.length > 0));
}

function padButton([label, ...buttons], held) {
  const made = element("button", "", label);
  made.dataset.buttons = buttons.join("+");
  made.onpointerdown = (event) => {
    event.preventDefault();
    held.press(`pointer ${event.pointerId}`, buttons);
  };
  made.oncontextmenu = (event) => event.preventDefault();
  made.onpointerup = made.onpointercancel = made.onpointerleave = (event) => held.release(`pointer ${event.pointerId}`);
  return made;
}

/** Keyboard: `keys` is button -> codes, `run(id)` obeys a command, `mode(i)` enters the i-th mode. */
export function listen(keys, held, run, mode) {
  const buttonOf = new Map(Object.entries(keys).flatMap(([button, codes]) => codes.map((code) => [code, button])));
  const commandOf = new Map(COMMANDS.filter(([id]) => id).map(([id, , code]) => [code, id]));
  window.onkeydown = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("select, dialog[open]")) return; // a closed dialog keeps the focus for one more frame
    const button = buttonOf.get(event.code);
    const command = commandOf.get((event.shiftKey && event.code === "Comma" ? "<" : "") + event.code);
    const digit = /^Digit([1-8])$/.exec(event.code);
    if (button === undefined && command === undefined && !digit) return;
    event.preventDefault();
    if (event.repeat && !["back", "step"].includes(command)) return;
    if (button !== undefined) held.press(event.code, [button]);
    else if (digit) mode(Number(digit[1]) - 1);
    else run(command);
  };
  window.onkeyup = (event) => held.release(event.code);
  window.onblur = () => held.clear();
}
