// The call sites: sorted, filtered, with their stacks; some rows at a time.

import { copyText, element, formatBytes, formatCount, formatDuration, later, select, signed } from "./ui.js";

const FIRST = 25;
const MORE = 100;
const VERDICTS = { "levelling-off": "levelling off" };

export class SiteTable {
  constructor(section, profile, flame) {
    Object.assign(this, { profile, flame });
    this.rows = Uint32Array.from({ length: profile.nRows }, (_, i) => i);
    this.sort = { key: "held", down: true };
    this.nShown = FIRST;
    this.#bestSites();
    this.columns = this.#columns();
    this.filter = element("input", {
      type: "search", placeholder: "Filter by function, file, library or thread", "aria-label": "Filter call sites",
      oninput: later(150, () => this.#choose()),
    });
    this.count = element("output", { "aria-live": "polite", class: "dim" });
    this.head = element("tr", {});
    this.body = element("tbody", {});
    this.more = element("button", { type: "button", onclick: () => { this.nShown += MORE; this.#draw(); } }, "Show more");
    const unit = { path: "Call sites", thread: "Threads", pool: "Call sites by pool" }[profile.by] ?? "Call sites";
    section.append(element("h2", {}, unit), element("div", { class: "controls" }, this.filter, this.#sorter(), this.count),
      element("div", { class: "scroll", tabindex: "0" }, element("table", { class: "sites" }, element("thead", {}, this.head), this.body)), this.more);
    this.#choose();
  }

  // The site of each row that holds most gives the row its stack.
  #bestSites() {
    const { profile } = this;
    const { site_row: rowOf } = profile.columns;
    const last = profile.moments.length - 1;
    const held = profile.values("outstanding", last, last, null);
    this.best = new Int32Array(profile.nRows).fill(-1);
    for (let site = 0; site < profile.nSites; site++) {
      const row = rowOf[site];
      if (row < profile.nRows && (this.best[row] < 0 || held[site] > held[this.best[row]])) this.best[row] = site;
    }
  }

  #columns() {
    const { columns } = this.profile;
    const growth = (row) => columns.row_growth[3 * row];
    return {
      held: { name: "holds", value: (row) => columns.row_bytes[row], text: formatBytes },
      blocks: { name: "blocks", value: (row) => columns.row_blocks[row], text: formatCount },
      growth: { name: "a minute", value: growth, text: (value) => signed(formatBytes(value * 60), value) },
      oldest: { name: "oldest", value: (row) => columns.row_oldest[row], text: (value) => value < 0 ? "-" : formatDuration(value) },
      added: { name: "allocated", value: (row) => columns.row_added[row], text: formatBytes },
      freed: { name: "freed", value: (row) => columns.row_freed[row], text: formatBytes },
    };
  }

  title(row) {
    const step = this.profile.columns.row_head[row];
    if (step >= 0) return this.profile.stepName(step);
    const best = this.best[row];
    const [first] = best >= 0 ? this.#steps(best) : [];
    return this.profile.by === "thread" || first === undefined ? this.#thread(row) : this.profile.stepName(first);
  }

  #thread(row) {
    const { columns, strings } = this.profile;
    const name = strings[columns.row_thread[row]];
    const n = columns.row_threads[row];
    return name === "*" ? `${formatCount(n)} thread${n === 1 ? "" : "s"}` : n > 1 ? `${formatCount(n)} threads ${name}` : name;
  }

  #steps(site) {
    return this.profile.steps(this.profile.columns.site_stack[site]);
  }

  #choose() {
    const term = this.filter.value.trim().toLowerCase();
    const all = Uint32Array.from({ length: this.profile.nRows }, (_, i) => i);
    this.rows = term ? all.filter(this.#matcher(term)) : all;
    const { value } = this.columns[this.sort.key] ?? {};
    const sign = this.sort.down ? -1 : 1;
    if (value) this.rows.sort((a, b) => sign * (value(a) - value(b)) || a - b);
    else {
      const names = Array.from(all, (row) => this.title(row));
      this.rows.sort((a, b) => -sign * names[a].localeCompare(names[b]) || a - b);
    }
    this.nShown = FIRST;
    this.#draw();
  }

  #matcher(term) {
    const { profile } = this;
    const contains = profile.strings.map((text) => text.toLowerCase().includes(term));
    const { step_name: name, step_place: place, site_thread: threadOf, site_row: rowOf, row_functions: functions } = profile.columns;
    const steps = Uint8Array.from({ length: profile.nSteps }, (_, step) => contains[name[step]] || contains[place[step]] ? 1 : 0);
    const stacks = Uint8Array.from({ length: profile.nStacks }, (_, stack) => profile.steps(stack).some((step) => steps[step]) ? 1 : 0);
    const threads = profile.threads.map(([thread]) => thread.toLowerCase().includes(term));
    const found = new Uint8Array(profile.nRows + 1);
    for (let site = 0; site < profile.nSites; site++) {
      if (stacks[profile.columns.site_stack[site]] || threads[threadOf[site]]) found[rowOf[site]] = 1;
    }
    return (row) => found[row] || contains[functions[row]];
  }

  // On a phone the rows have no headings to sort by.
  #sorter() {
    const names = [...Object.entries(this.columns).map(([key, { name }]) => [key, name]), ["name", "function"]];
    const made = select("Sort by", names, this.sort.key, (key) => this.#sortBy(key));
    made.classList.add("narrow-only");
    return made;
  }

  #sortBy(key) {
    this.sort = { key, down: this.sort.key === key ? !this.sort.down : true };
    this.#choose();
    this.head.querySelector(`[data-key="${key}"]`)?.focus();
  }

  #draw() {
    const heading = (key, name, isNumber) => {
      const isSorted = this.sort.key === key;
      const mark = isSorted ? (this.sort.down ? " \u25be" : " \u25b4") : "";
      const order = isSorted ? (this.sort.down ? "descending" : "ascending") : "none";
      return element("th", { scope: "col", "aria-sort": order, class: isNumber ? "number" : null },
        element("button", { type: "button", "data-key": key, onclick: () => this.#sortBy(key) }, `${name}${mark}`));
    };
    this.head.replaceChildren(...Object.entries(this.columns).map(([key, { name }]) => heading(key, name, true)),
      element("th", { scope: "col" }, "verdict"), heading("name", "function", false));
    this.body.replaceChildren(...Array.from(this.rows.subarray(0, this.nShown), (row) => this.#row(row)));
    const n = this.rows.length;
    this.count.textContent = `${formatCount(Math.min(n, this.nShown))} of ${formatCount(n)}`;
    this.more.hidden = n <= this.nShown;
  }

  #row(row) {
    const { columns } = this.profile;
    const verdict = this.profile.verdicts[columns.row_verdict[row]];
    const opener = element("button", { type: "button", class: "opener", "aria-expanded": "false" }, this.title(row));
    const line = element("tr", { class: verdict === "growing" ? "growing" : null },
      Object.values(this.columns).map(({ name, value, text }) => element("td", { class: "number", "data-name": name }, text(value(row)))),
      element("td", { "data-name": "verdict" }, VERDICTS[verdict] ?? verdict),
      element("td", { class: "function" }, opener, " ", element("span", { class: "dim" }, this.#about(row))));
    opener.addEventListener("click", () => {
      const isOpen = opener.getAttribute("aria-expanded") === "true";
      opener.setAttribute("aria-expanded", String(!isOpen));
      if (isOpen) line.nextSibling.remove();
      else line.after(element("tr", { class: "open" }, element("td", { colspan: Object.keys(this.columns).length + 2 }, this.#open(row))));
    });
    return line;
  }

  #about(row) {
    const { columns, kinds, owners, strings } = this.profile;
    const functions = strings[columns.row_functions[row]];
    const kind = { heap: "heap", map: "mapped", brk: "brk" }[kinds[columns.row_kind[row]]];
    const parts = [functions ? `${kind} by ${functions}` : kind, this.#thread(row)];
    if (columns.row_resident[row] >= 0) parts.push(`${formatBytes(columns.row_resident[row])} in memory`);
    if (owners[columns.row_owner[row]] === "jvm") parts.push("the JVM's own");
    return parts.join("; ");
  }

  // The stack, leaf first; frames of libraries and the JVM are dim.
  #open(row) {
    const { profile } = this;
    const site = this.best[row];
    const steps = site >= 0 ? Array.from(this.#steps(site)) : [];
    const lines = steps.map((step) => {
      const isOwn = ["program", "java", "unnamed"].includes(profile.stepGroup(step));
      return element("li", { class: isOwn ? "own" : "dim" }, profile.stepName(step), " ", element("small", {}, profile.stepPlace(step)));
    });
    const text = steps.map((step) => [profile.stepName(step), profile.stepPlace(step)].filter(Boolean).join("  ")).join("\n");
    const head = `${formatBytes(profile.columns.row_bytes[row])} outstanding in ${formatCount(profile.columns.row_blocks[row])} blocks, ${this.#about(row)}`;
    const copy = element("button", { type: "button", onclick: () => copyText(`${head}\n${text}\n`, copy) }, "Copy as text");
    const show = element("button", {
      type: "button",
      onclick: () => {
        const sites = [];
        profile.columns.site_row.forEach((each, i) => { if (each === row) sites.push(i); });
        this.flame.only(sites, this.title(row));
        document.getElementById("flame").scrollIntoView();
      },
    }, "Show in flame graph");
    return element("div", {}, element("ol", { class: "stack" }, lines.length ? lines : element("li", { class: "dim" }, "no stack: stacks were merged or not seen")),
      element("div", { class: "controls" }, copy, show));
  }
}
