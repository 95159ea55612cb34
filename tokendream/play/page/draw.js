// Pictures onto canvases. Nothing here knows of keys or of the network.

const INK = { text: "#aeb7c2", faint: "#2a313a", value: "#66c7b8", reward: "#e3b565", loss: "#e2737c", expected: "#8b7fd6" };

/** A 3 x H x W image, from `offset` on, as ImageData. */
function image(array, offset, height, width) {
  const pixels = new ImageData(width, height);
  const area = height * width;
  for (let i = 0; i < area; i++) {
    for (let c = 0; c < 3; c++) pixels.data[4 * i + c] = array[offset + c * area + i];
    pixels.data[4 * i + 3] = 255;
  }
  return pixels;
}

function sized(canvas, width, height) {
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  return canvas.getContext("2d");
}

/** A context in CSS pixels, sharp on any screen: [context, width, height]. */
function sharp(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  const context = sized(canvas, Math.round(width * ratio), Math.round(height * ratio));
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return [context, width, height];
}

export function frame(canvas, { data, shape }) {
  sized(canvas, shape[2], shape[1]).putImageData(image(data, 0, shape[1], shape[2]), 0, 0);
}

/** n frames in a square grid; those that have ended are dimmed, and each says what it brought. */
export function futures(canvas, { data, shape }, returns, ends, chosen) {
  const [n, , height, width] = shape;
  const side = Math.ceil(Math.sqrt(n));
  const small = document.createElement("canvas");
  const paint = sized(small, width, height);
  const [context, w] = sharp(canvas);
  const gap = 6;
  const cell = (w - gap * (side - 1)) / side;
  context.imageSmoothingEnabled = false;
  context.font = "600 12px ui-sans-serif, system-ui, sans-serif";
  for (let i = 0; i < n; i++) {
    paint.putImageData(image(data, i * 3 * height * width, height, width), 0, 0);
    const [x, y] = [(i % side) * (cell + gap), Math.floor(i / side) * (cell + gap)];
    context.globalAlpha = ends[i] ? 0.3 : 1;
    context.drawImage(small, x, y, cell, cell);
    context.globalAlpha = 1;
    const label = `${returns[i] > 0 ? "+" : ""}${returns[i]}${ends[i] ? " · end" : ""}`;
    if (returns[i] !== 0 || ends[i]) {
      const wide = context.measureText(label).width + 10;
      context.fillStyle = "rgba(12, 15, 19, 0.78)";
      context.fillRect(x, y + cell - 20, wide, 20);
      context.fillStyle = returns[i] > 0 ? INK.reward : returns[i] < 0 ? INK.loss : INK.text;
      context.fillText(label, x + 5, y + cell - 6);
    }
    if (i === chosen) {
      context.strokeStyle = INK.value;
      context.lineWidth = 2;
      context.strokeRect(x + 1, y + 1, cell - 2, cell - 2);
    }
  }
}

/** Token ids as a coloured grid; cells that differ from `other` are framed. */
export function tokens(canvas, ids, side, palette, other, numbers) {
  const [context, width] = sharp(canvas);
  const cell = width / side;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.font = `500 ${Math.min(13, cell * 0.3)}px ui-sans-serif, system-ui, sans-serif`;
  for (let i = 0; i < ids.length; i++) {
    const [x, y] = [(i % side) * cell, Math.floor(i / side) * cell];
    const [r, g, b] = palette[ids[i]];
    context.fillStyle = `rgb(${r} ${g} ${b})`;
    context.fillRect(x, y, Math.ceil(cell), Math.ceil(cell));
    if (numbers && cell >= 26) {
      context.fillStyle = 0.3 * r + 0.6 * g + 0.1 * b > 130 ? "rgba(0, 0, 0, 0.72)" : "rgba(255, 255, 255, 0.85)";
      context.fillText(ids[i], x + cell / 2, y + cell / 2 + 0.5);
    }
    if (other && other[i] !== ids[i]) {
      context.strokeStyle = "rgba(255, 255, 255, 0.95)";
      context.lineWidth = 2;
      context.strokeRect(x + 2, y + 2, cell - 4, cell - 4);
    }
  }
}

// Black over violet and orange to pale yellow: dark where M is sure.
const HEAT = [[8, 9, 12], [66, 28, 99], [156, 46, 92], [229, 106, 60], [250, 186, 92], [253, 240, 190]];

function heat(x) {
  const place = Math.min(0.9999, Math.max(0, x)) * (HEAT.length - 1);
  const [low, part] = [Math.floor(place), place % 1];
  return HEAT[low].map((c, i) => Math.round(c + part * (HEAT[low + 1][i] - c)));
}

/** Entropy of each token, 0 to `most` nats, opaque: one pixel a token. */
export function entropy(canvas, nats, side, most) {
  const pixels = new ImageData(side, side);
  nats.forEach((h, i) => pixels.data.set([...heat(Math.sqrt(h / most)), 255], 4 * i));
  sized(canvas, side, side).putImageData(pixels, 0, 0);
}

/** The same as a veil over a picture: what M is unsure of glows. */
export function veil(canvas, nats, side, most, on) {
  const pixels = new ImageData(side, side);
  if (on) nats.forEach((h, i) => pixels.data.set([255, 150, 60, 215 * Math.sqrt(Math.min(1, h / most))], 4 * i));
  sized(canvas, side, side).putImageData(pixels, 0, 0);
}

/** Value above, reward below; `trace` is 3 x T: value, reward, expected reward. */
export function plot(canvas, { data, shape }, room) {
  const [context, width, height] = sharp(canvas);
  const T = shape[1];
  const [value, reward, expected] = [0, 1, 2].map((row) => data.subarray(row * T, (row + 1) * T));
  const split = height * 0.6;
  const base = (split + height) / 2 + 4;
  const x = (t) => 46 + ((width - 50) * (t + room - T)) / (room - 1);
  context.font = "11px ui-sans-serif, system-ui, sans-serif";
  context.strokeStyle = INK.faint;
  context.lineWidth = 1;
  context.beginPath();
  context.moveTo(46, base + 0.5);
  context.lineTo(width - 4, base + 0.5);
  context.moveTo(46, split + 0.5);
  context.lineTo(width - 4, split + 0.5);
  context.stroke();
  if (T === 0) return;
  let [low, high] = [Math.min(...value), Math.max(...value)];
  const least = Math.max(0.1, 0.1 * Math.max(Math.abs(low), Math.abs(high)));
  if (high - low < least) [low, high] = [(low + high - least) / 2, (low + high + least) / 2];
  const y = (v) => split - 8 - ((split - 16) * (v - low)) / (high - low);
  context.fillStyle = INK.text;
  context.textAlign = "right";
  context.fillText(short(high), 41, 12);
  context.fillText(short(low), 41, split - 4);
  line(context, INK.value, 1.75, value, x, y);
  const reach = (height - split) / 2 - 6;
  const largest = Math.max(1, ...reward.map(Math.abs));
  context.fillText(short(largest), 41, base - reach + 8);
  for (let t = 0; t < T; t++) {
    if (reward[t] === 0) continue;
    context.fillStyle = reward[t] > 0 ? INK.reward : INK.loss;
    const tall = Math.max(3, (reach * Math.abs(reward[t])) / largest);
    context.fillRect(x(t) - 1, reward[t] > 0 ? base - tall : base, 2, tall);
  }
  line(context, INK.expected, 1.25, expected, x, (v) => base - reach * v);
}

/** A number in at most six characters. */
function short(v) {
  return Math.abs(v) >= 10000 ? v.toExponential(0) : String(Number(v.toFixed(Math.abs(v) >= 10 ? 0 : 2)));
}

function line(context, colour, thick, values, x, y) {
  context.strokeStyle = colour;
  context.lineWidth = thick;
  context.lineJoin = "round";
  context.beginPath();
  values.forEach((v, t) => (t ? context.lineTo(x(t), y(v)) : context.moveTo(x(t), y(v))));
  context.stroke();
}
