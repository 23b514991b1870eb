// The flame graph: what to draw, and how it is used by mouse, finger and keyboard. d3-flame-graph draws it.

import flamegraph from "d3-flame-graph";
import { select as d3select } from "d3-selection";
import { Stacks, Tree } from "./tree.js";
import {
  colour, copyText, element, formatBytes, formatCount, formatDuration, formatShare, later, onNewWidth, select, signed,
  toggle,
} from "./ui.js";

const METRICS = [
  ["outstanding", "outstanding bytes"], ["growth", "growth"], ["allocated", "allocated bytes"], ["freed", "freed bytes"],
  ["count", "outstanding blocks"], ["resident", "resident part of mappings"], ["lifetime", "lifetime: bytes x time held"],
];
const COMPARED = [["outstanding", "bytes not freed"], ["allocated", "bytes allocated"], ["count", "blocks not freed"]];
const CHANGES = { grows: "grows (+)", same: "unchanged (=)", shrinks: "shrinks (\u2212)" };
const UNCHANGED = 0.01;
const GROUP_NAMES = {
  program: "program", java: "Java", library: "library", runtime: "JVM", plumbing: "allocator, start-up", unnamed: "no symbol",
  kernel: "kernel", thread: "thread",
};
const MAX_FRAMES = 2500;
const MIN_WIDTH_PX = 1;

export class FlameGraph {
  #chart = null;
  #focused = 0;

  constructor(section, profile) {
    this.profile = profile;
    this.range = { from: 0, to: profile.moments.length - 1 };
    this.settings = {
      metric: profile.compared?.metric ?? "outstanding", by: "merged", fold: true, hide: hasPlumbing(profile), invert: false, up: false,
    };
    this.mask = null;
    this.focusPath = [];
    this.term = "";
    this.#build(section);
    onNewWidth(this.canvas, () => this.draw());
  }

  #build(section) {
    const { profile, settings } = this;
    const set = (key) => (value) => {
      settings[key] = value;
      this.#remake();
    };
    this.search = element("input", {
      type: "search", placeholder: "Search functions (regular expression)", "aria-label": "Search functions",
      oninput: later(150, () => this.find(this.search.value)),
    });
    this.found = element("output", { "aria-live": "polite", class: "found" });
    this.filter = element("p", { class: "filter", hidden: true });
    this.rangeText = element("p", { class: "dim" });
    this.details = element("div", { class: "details", "aria-live": "polite" });
    this.canvas = element("div", { class: "flame", role: "tree", "aria-label": "Flame graph; arrow keys move, Enter zooms, Escape zooms out" });
    this.canvas.addEventListener("keydown", (event) => this.#key(event));
    this.canvas.addEventListener("focusin", (event) => this.#show(nodeOf(event.target)));
    this.canvas.addEventListener("mouseover", (event) => this.#show(nodeOf(event.target)));
    this.reset = element("button", { type: "button", onclick: () => this.zoom(0) }, "Reset zoom");
    section.append(
      element("h2", {}, "Flame graph"),
      element("div", { class: "controls" },
        select("Width", metricsOf(profile), settings.metric, set("metric")),
        select("Threads", [["merged", "merged"], ["pool", "by pool"], ...(profile.compared ? [] : [["thread", "by thread"]])], settings.by, set("by")),
        toggle("hide plumbing", settings.hide, set("hide"), "Leave out libraries, the JVM, allocators and thread starts"),
        toggle("fold recursion", settings.fold, set("fold"), "Show a repeated cycle of calls once"),
        toggle("allocator first", settings.invert, set("invert"), "Merge stacks from the allocating function to its callers"),
        toggle("flames", settings.up, (up) => { settings.up = up; this.draw(); }, "Draw callers below instead of above"),
        element("span", { class: "search" }, this.search, this.found),
        this.reset),
      this.filter, this.rangeText, this.canvas, this.details,
      element("p", { class: "legend" }, legendOf(profile).map(([key, name]) => element("span", {}, element("i", { class: `swatch ${key}` }), name))),
    );
    this.#remake();
  }

  setRange(from, to) {
    this.range = { from, to };
    this.#measure();
  }

  // Count only these sites; null: all.
  only(sites, label) {
    this.mask = null;
    this.filter.hidden = !sites;
    if (sites) {
      this.mask = new Uint8Array(this.profile.nSites);
      for (const site of sites) this.mask[site] = 1;
      this.filter.replaceChildren(`Only ${label} `, element("button", { type: "button", onclick: () => this.only(null) }, "Show all"));
    }
    this.focusPath = [];
    this.#measure();
  }

  // New stacks or groups: the settings changed.
  #remake() {
    const { settings, profile } = this;
    const key = `${settings.fold}${settings.hide}${settings.invert}`;
    if (this.stacksKey !== key) {
      this.stacks = new Stacks(profile, settings);
      this.stacksKey = key;
    }
    const threads = profile.columns.site_thread;
    const names = profile.threads.map(([name, tid, pool]) => settings.by === "pool" ? pool : tid ? `${name} (${tid})` : name);
    const numbers = new Map();
    const ofThread = names.map((name) => numbers.get(name) ?? (numbers.set(name, numbers.size), numbers.size - 1));
    this.groupNames = [...numbers.keys()];
    const groups = settings.by === "merged" ? null : Int32Array.from(threads, (thread) => ofThread[thread]);
    this.tree = new Tree(profile, this.stacks, groups);
    this.matched = null;
    this.#measure();
  }

  // New figures on the same tree.
  #measure() {
    const { profile, range, settings } = this;
    if (profile.compared) {
      const [before, after] = [1, 2].map((moment) => profile.values(settings.metric, 0, moment, this.mask));
      this.sides = { before: this.tree.sums(before).whole, after: this.tree.sums(after).whole };
      this.sums = this.tree.sums(before.map((value, site) => Math.max(value, after[site])));
    } else this.sums = this.tree.sums(profile.values(settings.metric, range.from, range.to, this.mask));
    this.addedSums = settings.metric === "lifetime" ? this.tree.sums(profile.values("allocated", range.from, range.to, this.mask)) : null;
    this.focus = this.#refind();
    this.#rangeWords();
    this.#searchAgain();
    this.draw();
  }

  #rangeWords() {
    const { moments, compared } = this.profile;
    const { from, to } = this.range;
    if (compared) {
      this.rangeText.textContent = `${this.#change(0)}. A frame is as wide as the larger of the two. Click a frame to zoom.`;
      return;
    }
    const between = `between ${formatDuration(moments[from])} and ${formatDuration(moments[to])}`;
    const text = {
      outstanding: `Outstanding at ${formatDuration(moments[to])}`, count: `Outstanding at ${formatDuration(moments[to])}`,
      resident: `Resident part of mappings at ${formatDuration(moments[to])}, without blocks of the heap`,
      growth: `Growth ${between}`, allocated: `Allocated ${between}`, freed: `Freed ${between}`,
      lifetime: `Bytes times seconds held, ${between}`,
    }[this.settings.metric];
    const lost = this.sums.lost < 0 ? `; ${this.format(-this.sums.lost)} of call paths that shrank are not drawn` : "";
    this.rangeText.textContent = `${text}: ${this.format(this.sums.whole[0])}${lost}. Click a frame to zoom.`;
  }

  // What a node had before and has after.
  #change(node) {
    const before = this.sides.before[node], after = this.sides.after[node];
    return `${signed(this.format(after - before), after - before)} (from ${this.format(before)} to ${this.format(after)})`;
  }

  // From -1, all of it is gone, to 1, none of it was there before.
  #changed(node) {
    const before = this.sides.before[node], after = this.sides.after[node];
    return before || after ? (after - before) / Math.max(before, after) : 0;
  }

  format(value) {
    const { metric } = this.settings;
    if (metric === "count") return `${formatCount(value)} block${value === 1 ? "" : "s"}`;
    if (metric === "lifetime") {
      const { moments } = this.profile;
      const span = moments[this.range.to] - moments[this.range.from];
      return `${formatBytes(span ? value / span : 0)} held on average`;
    }
    return metric === "growth" ? signed(formatBytes(value), value) : formatBytes(value);
  }

  // The node of the path that was zoomed to, as far as the present tree has it.
  #refind() {
    let node = 0;
    for (const step of this.focusPath) {
      const next = this.tree.children(node).find((child) => this.tree.steps[child] === step);
      if (next === undefined || !this.sums.whole[next]) break;
      node = next;
    }
    return node;
  }

  zoom(node) {
    this.focus = node;
    this.focusPath = this.tree.path(node).map((each) => this.tree.steps[each]);
    this.#focused = node;
    this.draw();
    this.#show(node);
  }

  nodeName(node) {
    const step = this.tree.steps[node];
    if (node === 0) return "all";
    return step <= -2 ? this.groupNames[-2 - step] : this.profile.stepName(step);
  }

  // With the sign of its change, for those who cannot tell the colours apart.
  #shownName(node) {
    if (!this.sides) return this.nodeName(node);
    const changed = this.#changed(node);
    return `${Math.abs(changed) < UNCHANGED ? "=" : changed > 0 ? "+" : "\u2212"} ${this.nodeName(node)}`;
  }

  #place(node) {
    const step = this.tree.steps[node];
    return step >= 0 ? this.profile.stepPlace(step) : "";
  }

  group(node) {
    const step = this.tree.steps[node];
    return step >= 0 ? this.profile.stepGroup(step) : "thread";
  }

  find(term) {
    this.term = term.trim();
    this.#searchAgain();
    this.draw();
  }

  #searchAgain() {
    this.matched = null;
    this.found.textContent = "";
    if (!this.term) return;
    let pattern;
    try {
      pattern = new RegExp(this.term, "i");
    } catch {
      pattern = new RegExp(this.term.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), "i");
    }
    const { tree, profile, sums } = this;
    const names = Uint8Array.from({ length: profile.nSteps }, (_, step) =>
      pattern.test(profile.stepName(step)) || pattern.test(profile.stepPlace(step)) ? 1 : 0);
    const groups = this.groupNames.map((name) => pattern.test(name));
    this.matched = new Uint8Array(tree.size);
    const inside = new Uint8Array(tree.size);
    let held = 0, n = 0;
    for (let node = 1; node < tree.size; node++) {
      const step = tree.steps[node];
      this.matched[node] = (step >= 0 ? names[step] : groups[-2 - step]) ? 1 : 0;
      inside[node] = this.matched[node] || inside[tree.parents[node]];
      if (inside[node]) held += sums.own[node];
      n += this.matched[node] && sums.whole[node] > 0;
    }
    const share = sums.whole[0] ? held / sums.whole[0] : 0;
    if (this.sides && n) {
      this.found.textContent = `${formatCount(n)} frame${n === 1 ? "" : "s"}`;
      return;
    }
    this.found.textContent = n ? `${formatShare(share)}: ${this.format(held)} in ${formatCount(n)} frame${n === 1 ? "" : "s"}` : "no match";
  }

  draw() {
    const width = this.canvas.clientWidth;
    if (!width || !this.tree) return;
    const isNarrow = width < 600;
    const hadFocus = this.canvas.contains(document.activeElement);
    if (this.#chart === null || this.drawnUp !== this.settings.up) {
      this.canvas.replaceChildren();
      this.#chart = flamegraph().transitionDuration(0).setLabelHandler((d) => this.label(d.data.node))
        .setColorMapper((d) => this.#fill(d.data.node)).onClick((d) => this.zoom(d.data.node));
      this.drawnUp = this.settings.up;
    }
    this.#chart.width(width).cellHeight(isNarrow ? 26 : 21).inverted(!this.settings.up).height(null);
    const data = this.#data(width);
    if (this.canvas.firstChild) this.#chart.update(data);
    else d3select(this.canvas).datum(data).call(this.#chart);
    if (!this.settings.up) this.#trim();
    this.reset.disabled = this.focus === 0;
    this.#decorate(hadFocus);
  }

  // The library leaves room for a title.
  #trim() {
    let deepest = 0;
    d3select(this.canvas).selectAll("g.frame").each((d) => { deepest = Math.max(deepest, d.depth); });
    this.canvas.querySelector("svg").setAttribute("height", (deepest + 1) * this.#chart.cellHeight());
  }

  // The zoomed node with all that is wide enough below it, and its callers as one column above it.
  #data(width) {
    const { tree, sums } = this;
    let least = sums.whole[this.focus] * MIN_WIDTH_PX / width;
    let kept;
    for (;;) {
      kept = [];
      for (let node = this.focus; node < tree.ends[this.focus];) {
        if (node === this.focus || sums.whole[node] >= least && sums.whole[node] > 0) {
          kept.push(node);
          node++;
        } else node = tree.ends[node];
      }
      if (kept.length <= MAX_FRAMES) break;
      least *= 1.6;
    }
    const made = new Map();
    for (const node of kept) {
      const data = { name: this.#shownName(node), value: sums.whole[node], node, children: [] };
      made.set(node, data);
      if (node !== this.focus) made.get(tree.parents[node]).children.push(data);
    }
    for (const data of made.values()) data.children.sort((a, b) => b.value - a.value);
    let top = made.get(this.focus);
    if (this.focus !== 0) {
      for (const node of [0, ...tree.path(this.focus)].reverse().slice(1)) {
        top = { name: this.#shownName(node), value: top.value, node, fade: true, children: [top] };
      }
    }
    return top;
  }

  label(node) {
    const { own, whole } = this.sums;
    if (this.sides) return `${this.nodeName(node)}: ${this.#change(node)}`;
    const parts = [`${this.format(whole[node])}, ${formatShare(whole[0] ? whole[node] / whole[0] : 0)}`];
    if (own[node] && own[node] !== whole[node]) parts.push(`itself ${this.format(own[node])}`);
    if (this.addedSums && this.addedSums.whole[node]) {
      parts.push(`each byte held ${formatDuration(whole[node] / this.addedSums.whole[node])} on average`);
    }
    return `${this.nodeName(node)}: ${parts.join("; ")}`;
  }

  #fill(node) {
    if (this.matched) return this.matched[node] ? colour("match") : colour("faded");
    if (this.sides) return changeColour(this.#changed(node));
    return colour(node === 0 ? "g-root" : `g-${this.group(node)}`);
  }

  #decorate(hadFocus) {
    const wanted = this.#focused;
    let first = null, target = null;
    d3select(this.canvas).selectAll("g.frame").each(function each(d) {
      this.setAttribute("tabindex", "-1");
      this.setAttribute("role", "treeitem");
      this.setAttribute("data-node", d.data.node);
      this.setAttribute("aria-level", d.depth + 1);
      if (d.depth === 0) first = this;
      if (d.data.node === wanted) target = this;
    });
    for (const frame of this.canvas.querySelectorAll("g.frame")) {
      frame.setAttribute("aria-label", this.label(Number(frame.dataset.node)));
      frame.classList.toggle("match", Boolean(this.matched && this.matched[frame.dataset.node]));
    }
    const entry = target ?? first;
    if (entry) {
      entry.setAttribute("tabindex", "0");
      if (hadFocus) entry.focus({ preventScroll: true });
    }
  }

  #key(event) {
    const node = nodeOf(event.target);
    if (node === null) return;
    const { tree, sums } = this;
    const down = this.settings.up ? "ArrowUp" : "ArrowDown";
    const up = this.settings.up ? "ArrowDown" : "ArrowUp";
    const largest = (nodes) => nodes.filter((each) => sums.whole[each] > 0).sort((a, b) => sums.whole[b] - sums.whole[a]);
    let next = null;
    if (event.key === down) [next = null] = largest(tree.children(node));
    else if (event.key === up) next = node ? tree.parents[node] : null;
    else if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      const beside = node ? largest(tree.children(tree.parents[node])) : [];
      next = beside[beside.indexOf(node) + (event.key === "ArrowRight" ? 1 : -1)] ?? null;
    } else if (event.key === "Enter" || event.key === " ") this.zoom(node);
    else if (event.key === "Escape" || event.key === "Backspace") this.zoom(this.focus ? tree.parents[this.focus] : 0);
    else if (event.key === "Home") this.zoom(0);
    else return;
    event.preventDefault();
    if (next !== null) this.#move(next);
  }

  #move(node) {
    const frame = this.canvas.querySelector(`g.frame[data-node="${node}"]`);
    if (!frame) return;
    this.canvas.querySelector('g.frame[tabindex="0"]')?.setAttribute("tabindex", "-1");
    this.#focused = node;
    frame.setAttribute("tabindex", "0");
    frame.focus();
  }

  #show(node) {
    if (node === null || node === this.shownNode && this.shownSums === this.sums) return;
    this.shownNode = node;
    this.shownSums = this.sums;
    const path = this.tree.path(node).reverse();
    const text = path.map((each) => [this.nodeName(each), this.#place(each)].filter(Boolean).join("  ")).join("\n");
    const copy = element("button", { type: "button", onclick: () => copyText(text, copy) }, "Copy stack");
    this.details.replaceChildren(
      element("p", {}, this.sides ? null : element("i", { class: `swatch g-${node ? this.group(node) : "root"}` }), element("b", {}, this.nodeName(node)), " ",
        element("span", { class: "dim" }, this.#place(node))),
      element("p", {}, this.label(node).slice(this.nodeName(node).length + 2), " ", node ? copy : null),
    );
  }
}

// The colour of no change, mixed with that of growing or shrinking.
function changeColour(changed) {
  const [same, full] = [colour("d-same"), colour(changed > 0 ? "d-grows" : "d-shrinks")].map((text) =>
    [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16)));
  const share = Math.abs(changed) < UNCHANGED ? 0 : 0.3 + 0.7 * Math.abs(changed);
  return `#${same.map((value, i) => Math.round(value + (full[i] - value) * share).toString(16).padStart(2, "0")).join("")}`;
}

function metricsOf(profile) {
  if (profile.compared) return COMPARED;
  return METRICS.filter(([key]) => key !== "resident" || profile.columns.resident);
}

function legendOf(profile) {
  if (profile.compared) return Object.entries(CHANGES).map(([key, name]) => [`d-${key}`, name]);
  const groups = groupsOf(profile);
  return Object.entries(GROUP_NAMES).filter(([key]) => key === "thread" || groups.has(key)).map(([key, name]) => [`g-${key}`, name]);
}

function nodeOf(target) {
  const frame = target.closest?.("g.frame");
  return frame && frame.dataset.node !== undefined ? Number(frame.dataset.node) : null;
}

// Whether hiding plumbing leaves anything to see: not where all code is of libraries.
function hasPlumbing(profile) {
  const groups = groupsOf(profile);
  return groups.has("program") || groups.has("java") || groups.has("unnamed");
}

function groupsOf(profile) {
  return new Set(Array.from(new Set(profile.columns.step_group), (group) => profile.groups[group]));
}
