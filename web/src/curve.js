// Resident memory over time: a stack of named lines with limits, growth and peaks; uPlot draws it. A range brushed here
// is the range of the flame graph.

import uPlot from "uplot";
import { colour, element, formatBytes, formatDuration, onNewWidth, signed } from "./ui.js";

const AHEAD = 0.15;
const MAX_LIMIT = 4;

export class MemoryCurve {
  constructor(section, facts, moments, onRange) {
    Object.assign(this, { facts, moments, onRange });
    this.range = [0, moments[moments.length - 1] ?? 0];
    this.host = element("div", { class: "curve" });
    this.key = element("table", { class: "key" });
    this.words = element("p", { class: "dim" });
    section.append(element("h2", {}, "Resident memory"), this.words, element("div", { class: "curve-and-key" }, this.host, element("div", {}, this.key)),
      this.#sliders());
    this.#say();
    this.#draw();
    onNewWidth(this.host, () => this.#draw());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw());
  }

  #sliders() {
    const last = this.moments.length - 1;
    const slider = (label, value, end) => {
      const input = element("input", {
        type: "range", min: 0, max: last, value, step: 1,
        oninput: () => this.#setRange(...this.#slid(end)),
      });
      const shown = element("output", {}, formatDuration(this.moments[value]));
      return { input, shown, label: element("label", {}, element("span", {}, label), input, shown) };
    };
    this.from = slider("From", 0, 0);
    this.to = slider("to", last, 1);
    this.whole = element("button", { type: "button", onclick: () => this.#setRange(0, last) }, "Whole trace");
    return element("div", { class: "controls range" }, element("span", {}, "Time range of the flame graph:"), this.from.label, this.to.label, this.whole);
  }

  // Sliders that would cross push each other.
  #slid(end) {
    let from = Number(this.from.input.value), to = Number(this.to.input.value);
    if (from >= to) {
      if (end === 0) to = Math.min(from + 1, this.moments.length - 1);
      from = Math.min(from, to - 1);
    }
    return [Math.max(0, from), to];
  }

  #setRange(from, to) {
    this.from.input.value = from;
    this.to.input.value = to;
    this.from.shown.textContent = formatDuration(this.moments[from]);
    this.to.shown.textContent = formatDuration(this.moments[to]);
    this.range = [this.moments[from], this.moments[to]];
    this.plot?.redraw(false);
    this.onRange(from, to);
  }

  setTimes(fromS, toS) {
    const nearest = (at) => this.moments.reduce((best, each, i) => Math.abs(each - at) < Math.abs(this.moments[best] - at) ? i : best, 0);
    let from = nearest(fromS), to = nearest(toS);
    if (from === to) to < this.moments.length - 1 ? to++ : from--;
    this.#setRange(Math.max(0, from), to);
  }

  #say() {
    const { facts } = this;
    const parts = [];
    if (facts.peak?.between) {
      parts.push(`The kernel saw a peak of ${formatBytes(facts.peak.bytes)} before ${formatDuration(facts.peak.at)}, between two readings.`);
    } else if (facts.peak) parts.push(`Peak ${formatBytes(facts.peak.bytes)} at ${formatDuration(facts.peak.at)}.`);
    if (facts.growth) {
      const { slope, low, high } = facts.growth;
      const sure = low < high ? ` (95 % sure: ${formatBytes(low * 60)} to ${formatBytes(high * 60)})` : "";
      parts.push(`Growth ${signed(formatBytes(slope * 60), slope)} a minute${sure}.`);
    }
    for (const limit of facts.limits.slice(0, 3)) parts.push(`${limit.text[0].toUpperCase()}${limit.text.slice(1)}.`);
    if (!facts.lines.length) parts.push("How it divides by use was not recorded.");
    this.words.textContent = parts.join(" ");
  }

  #draw() {
    const width = this.host.clientWidth;
    const { facts } = this;
    if (!width || facts.times.length < 2) return;
    this.plot?.destroy();
    const sums = this.#stacked();
    const ink = colour("ink-dim"), grid = colour("grid");
    const end = facts.times[facts.times.length - 1];
    const series = sums.map(({ id, label }) => ({
      label, stroke: colour("paper"), width: 1, fill: colour(`m-${id}`), points: { show: false },
    }));
    const axis = { stroke: ink, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1 } };
    const options = {
      width, height: Math.max(220, Math.min(340, Math.round(width * 0.36))),
      legend: { show: false },
      scales: {
        x: { time: false, range: () => [0, end * (facts.growth ? 1 + AHEAD : 1)] },
        y: { range: (_, __, max) => [0, this.#top(max)] },
      },
      axes: [
        { ...axis, values: (_, ticks) => ticks.map(formatDuration) },
        { ...axis, size: 74, values: (_, ticks) => ticks.map((each) => formatBytes(each)), incrs: BYTES },
      ],
      cursor: { drag: { x: true, y: false, setScale: false }, points: { show: false }, y: false },
      series: [{}, ...series],
      hooks: {
        draw: [(plot) => this.#over(plot)],
        setSelect: [(plot) => {
          if (plot.select.width < 3) return;
          this.setTimes(plot.posToVal(plot.select.left, "x"), plot.posToVal(plot.select.left + plot.select.width, "x"));
          plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
        }],
        setCursor: [(plot) => this.#values(plot.cursor.idx)],
      },
    };
    this.host.replaceChildren();
    this.plot = new uPlot(options, [facts.times, ...sums.map((each) => each.values)], this.host);
    this.host.setAttribute("role", "img");
    this.host.setAttribute("aria-label", `Resident memory over time. ${this.words.textContent}`);
    this.#values(null);
  }

  // Sums from the bottom of the stack up; the highest is drawn first, so that each fill ends at the line below.
  #stacked() {
    const { facts } = this;
    if (!facts.lines.length) return [{ id: "total", label: "resident memory", values: facts.total }];
    const sums = [];
    let below = facts.times.map(() => 0);
    for (const line of [...facts.lines].reverse()) {
      below = below.map((value, i) => value + line.values[i]);
      sums.unshift({ id: line.id, label: line.label, values: below });
    }
    return sums;
  }

  #top(max) {
    const limit = this.#nearLimit(max);
    return Math.max(max * 1.12, limit ? limit.bytes * 1.06 : 0) || 1;
  }

  // The least limit, where it is near enough to be drawn.
  #nearLimit(max) {
    const [least] = [...this.facts.limits].filter((each) => each.kind !== "java-heap" && each.kind !== "max-direct-memory")
      .sort((a, b) => a.bytes - b.bytes);
    return least && least.bytes <= MAX_LIMIT * max ? least : null;
  }

  #over(plot) {
    const { ctx } = plot;
    const { facts } = this;
    const x = (value) => plot.valToPos(value, "x", true), y = (value) => plot.valToPos(value, "y", true);
    const { left, top, width, height } = plot.bbox;
    const px = devicePixelRatio;
    const end = facts.times[facts.times.length - 1], ahead = end * (1 + AHEAD);
    ctx.save();
    ctx.beginPath();
    ctx.rect(left, top, width, height);
    ctx.clip();
    ctx.font = `${12 * px}px system-ui, sans-serif`;
    if (facts.growth) {
      const first = facts.times[0], last = facts.total[facts.total.length - 1];
      const at = (slope, time) => y(last + slope * (time - end));
      ctx.fillStyle = colour("band");
      ctx.beginPath();
      ctx.moveTo(x(end), y(last));
      ctx.lineTo(x(ahead), at(facts.growth.high, ahead));
      ctx.lineTo(x(ahead), at(facts.growth.low, ahead));
      ctx.fill();
      line(colour("ink"), [4, 4], [x(first), at(facts.growth.slope, first)], [x(ahead), at(facts.growth.slope, ahead)]);
    }
    const limit = this.#nearLimit(Math.max(...facts.total));
    if (limit) {
      line(colour("bad"), [8, 4], [left, y(limit.bytes)], [left + width, y(limit.bytes)]);
      text(`limit ${formatBytes(limit.bytes)}`, left + 6 * px, y(limit.bytes) + 15 * px, colour("bad"), "left");
    }
    if (facts.peak && facts.peak.bytes <= plot.scales.y.max) {
      const at = [x(facts.peak.at), y(facts.peak.bytes)];
      ctx.beginPath();
      ctx.arc(...at, 4 * px, 0, 7);
      ctx.fillStyle = colour("ink");
      ctx.fill();
      const isRight = at[0] > left + width * 0.7;
      text(`peak ${formatBytes(facts.peak.bytes)}`, at[0] + (isRight ? -8 : 8) * px, at[1] - 8 * px, colour("ink"), isRight ? "right" : "left");
    }
    const [from, to] = this.range;
    if (from > 0 || to < this.moments[this.moments.length - 1]) {
      ctx.fillStyle = colour("unselected");
      ctx.fillRect(left, top, x(from) - left, height);
      ctx.fillRect(x(to), top, left + width - x(to), height);
      line(colour("ink"), [], [x(from), top], [x(from), top + height]);
      line(colour("ink"), [], [x(to), top], [x(to), top + height]);
    }
    ctx.restore();

    function line(stroke, dash, start, stop) {
      ctx.strokeStyle = stroke;
      ctx.lineWidth = 1.5 * px;
      ctx.setLineDash(dash.map((each) => each * px));
      ctx.beginPath();
      ctx.moveTo(...start);
      ctx.lineTo(...stop);
      ctx.stroke();
      ctx.setLineDash([]);
    }

    function text(words, atX, atY, fill, align) {
      ctx.textAlign = align;
      ctx.lineWidth = 3 * px;
      ctx.strokeStyle = colour("paper");
      ctx.strokeText(words, atX, atY);
      ctx.fillStyle = fill;
      ctx.fillText(words, atX, atY);
    }
  }

  // The key: each line with its value at the start and at the cursor, or at the end.
  #values(index) {
    const { facts } = this;
    const at = index ?? facts.times.length - 1;
    const lines = facts.lines.length ? facts.lines : [{ id: "total", label: "resident memory", values: facts.total }];
    const row = (line, name) => {
      const change = line.values[at] - line.values[0];
      const [head, tail] = (line.label ?? "").split(": ");
      return element("tr", {},
        element("th", { scope: "row" }, name ? null : element("i", { class: `swatch m-${line.id}` }), name ?? head, tail ? element("small", {}, tail) : null),
        element("td", { class: "number" }, formatBytes(line.values[at])),
        element("td", { class: "number dim" }, change ? signed(formatBytes(change), change) : ""));
    };
    this.key.replaceChildren(
      element("caption", {}, `at ${formatDuration(facts.times[at])}, and the change since ${formatDuration(facts.times[0])}`),
      element("tbody", {}, lines.map((line) => row(line)), facts.lines.length ? row({ values: facts.total }, "all") : null));
  }
}

const BYTES = [];
for (let size = 1; size < 2 ** 50; size *= 2) BYTES.push(size);
