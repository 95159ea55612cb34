// Numbers onto the page. Nothing here knows of keys or of the network.

export function element(tag, kind = "", text = "") {
  const made = document.createElement(tag);
  if (tag === "button") made.type = "button";
  made.className = kind;
  made.textContent = text;
  return made;
}

/** The n cells of a grid as square as it can be. */
function cells(grid, n, tag = "span") {
  if (grid.children.length !== n) {
    grid.style.setProperty("--side", Math.ceil(Math.sqrt(n)));
    grid.replaceChildren(...Array.from({ length: n }, () => element(tag)));
  }
  return [...grid.children];
}

/** Token ids; cells that differ from `other` are framed. A colour of the palette is L, a, b of OKLab. */
export function tokens(grid, ids, palette, other, numbers) {
  cells(grid, ids.length).forEach((cell, i) => {
    const colour = palette[ids[i]];
    cell.style.background = `oklab(${colour.join(" ")})`;
    cell.textContent = numbers ? ids[i] : "";
    cell.classList.toggle("light", colour[0] > 0.6);
    cell.classList.toggle("differs", Boolean(other) && other[i] !== ids[i]);
  });
}

/** Entropy of each token, 0 to `most` nats: what M is unsure of glows. */
export function glow(grid, nats, most) {
  cells(grid, nats.length).forEach((cell, i) => (cell.style.opacity = Math.sqrt(nats[i] / most).toFixed(3)));
}

/** What each future brought, over its picture; those that have ended are dimmed. */
export function futures(grid, { returns, ends }, choose) {
  cells(grid, returns.length, "button").forEach((cell, i) => {
    const brought = returns[i] === 0 && !ends[i] ? "" : signed(returns[i]) + (ends[i] ? " · end" : "");
    cell.replaceChildren(element("b", ["loss", "", "reward"][1 + Math.sign(returns[i])], brought));
    cell.classList.toggle("ended", ends[i]);
    cell.ariaLabel = `future ${i + 1}`;
    cell.onclick = () => choose(i);
  });
}

/** Value above; rewards and what M expected of them below, around their zero. `room`: steps that fit. */
export function plot(svg, [value, reward, expected], room) {
  const [width, height] = [svg.clientWidth, svg.clientHeight];
  const split = height * 0.6;
  const base = (split + height) / 2 + 4;
  const reach = (height - split) / 2 - 6;
  const x = (t) => (46 + ((width - 50) * (t + room - value.length)) / (room - 1)).toFixed(1);
  const path = (name, d) => svg.querySelector(`path.${name}`).setAttribute("d", d);
  const line = (values, y) => values.map((v, t) => `${t ? "L" : "M"}${x(t)} ${y(v).toFixed(1)}`).join("");
  const label = (name, y, text) => {
    svg.querySelector(`.${name}`).setAttribute("y", y);
    svg.querySelector(`.${name}`).textContent = value.length ? short(text) : "";
  };

  const [least, most] = [Math.min(...value), Math.max(...value)];
  const middle = (least + most) / 2;
  const half = Math.max(0.05, 0.05 * Math.max(Math.abs(least), Math.abs(most)), (most - least) / 2);
  const largest = Math.max(1, ...reward.map(Math.abs));
  const bar = (r) => Math.sign(r) * Math.max(3, (reach * Math.abs(r)) / largest);
  const bars = (sign) => reward.map((r, t) => (r * sign > 0 ? `M${x(t)} ${base}v${-bar(r)}` : "")).join("");
  path("axis", `M46 ${split}H${width - 4}M46 ${base}H${width - 4}`);
  path("value", line(value, (v) => split / 2 - ((split / 2 - 8) * (v - middle)) / half));
  const furthest = Math.max(1, ...expected.map(Math.abs));
  path("expected", line(expected, (v) => base - (reach * v) / furthest));
  path("reward", bars(1));
  path("loss", bars(-1));
  label("high", 12, middle + half);
  label("low", split - 4, middle - half);
  label("largest", base - reach + 8, largest);
}

export const signed = (x) => (x > 0 ? "+" : "") + Math.round(100 * x) / 100;

/** A number in at most six characters. */
function short(v) {
  return Math.abs(v) >= 10000 ? v.toExponential(0) : String(Number(v.toFixed(Math.abs(v) >= 10 ? 0 : 2)));
}
