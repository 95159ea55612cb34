// Keys, buttons and touch into messages. What a game's buttons are called, the server says.

/** Commands in the order of the toolbar: [id, label, key, shown key, title]. An empty id starts a new group. */
export const COMMANDS = [
  ["back10", "−10", "<Comma", "⇧ ,", "undo ten steps"],
  ["back", "−1", "Comma", ",", "undo a step"],
  ["pause", "pause", "KeyP", "P", "pause or go on"],
  ["step", "+1", "Period", ".", "one step"],
  [""],
  ["slower", "slower", "Minus", "−", "slow motion"],
  ["faster", "faster", "Equal", "+", "faster"],
  [""],
  ["reset", "reset", "KeyR", "R", "the dream back to where it began; side by side a new dream of what is shown"],
  ["new", "new", "KeyG", "G", "a new game, the next episode"],
  ["futures", "futures", "KeyF", "F", "sixteen futures of this moment"],
  [""],
  ["entropy", "veil", "KeyE", "E", "uncertainty over the dream"],
  ["numbers", "ids", "KeyT", "T", "numbers of the tokens"],
  [""],
  ["record", "record", "KeyV", "V", "start or stop recording"],
  ["picture", "picture", "KeyC", "C", "a picture of this view"],
  ["reload", "reload", "KeyX", "X", "read the run's last checkpoint"],
  ["help", "keys", "Slash", "?", "all keys"],
];

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
    this.send({ do: "hold", buttons });
  }
}

/** A pad for fingers: a cross with diagonals where the game has directions, and every other button beside it. */
export function buildPad(pad, keys, held) {
  pad.replaceChildren();
  const has = (button) => button in keys;
  const cross = document.createElement("div");
  cross.className = "cross";
  const rows = [["LEFT", "UP"], ["UP"], ["RIGHT", "UP"], ["LEFT"], [], ["RIGHT"], ["LEFT", "DOWN"], ["DOWN"], ["RIGHT", "DOWN"]];
  const arrows = ["↖", "↑", "↗", "←", "", "→", "↙", "↓", "↘"];
  const usable = (i) => rows[i].length > 0 && rows[i].every(has);
  for (const first of [0, 3, 6]) {
    const row = [first, first + 1, first + 2];
    if (!row.some(usable)) continue; // a game without up and down has a pad of one row
    cross.append(...row.map((i) => (usable(i) ? padButton(arrows[i], rows[i], held) : document.createElement("span"))));
  }
  if (["UP", "DOWN", "LEFT", "RIGHT"].some(has)) pad.append(cross);
  const others = Object.keys(keys).filter((b) => !["UP", "DOWN", "LEFT", "RIGHT"].includes(b));
  const beside = document.createElement("div");
  beside.className = "others";
  for (const button of others) beside.append(padButton(button.toLowerCase(), [button], held));
  if (others.length) pad.append(beside);
}

function padButton(label, buttons, held) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = label;
  button.dataset.buttons = buttons.join("+");
  button.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    held.press(`pointer ${event.pointerId}`, buttons);
  });
  button.addEventListener("contextmenu", (event) => event.preventDefault());
  for (const gone of ["pointerup", "pointercancel", "pointerleave"])
    button.addEventListener(gone, (event) => held.release(`pointer ${event.pointerId}`));
  return button;
}

/** Keyboard: `keys` is button -> codes, `run(id)` obeys a command, `mode(i)` enters the i-th mode. */
export function listen(keys, held, run, mode) {
  const buttonOf = new Map(Object.entries(keys()).flatMap(([button, codes]) => codes.map((code) => [code, button])));
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
