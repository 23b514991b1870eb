import "uplot/dist/uPlot.min.css";
import "./page.css";
import { MemoryCurve } from "./curve.js";
import { readData } from "./data.js";
import { FlameGraph } from "./flame.js";
import { SiteTable } from "./sites.js";
import { sortTables } from "./tables.js";
import { element } from "./ui.js";

function section(id) {
  const found = document.getElementById(id);
  found.hidden = false;
  return found;
}

async function start() {
  sortTables(document);
  const profile = await readData(document.getElementById("data"));
  let flame = null;
  if (profile.chart.times.length > 1) {
    new MemoryCurve(section("memory"), profile.chart, profile.moments, (from, to) => flame?.setRange(from, to));
  }
  if (profile.nSites) {
    flame = new FlameGraph(section("flame"), profile);
    if (!profile.compared) new SiteTable(section("sites"), profile, flame);
  }
  for (const button of document.querySelectorAll("button.needs-script")) {
    button.hidden = !flame;
    button.addEventListener("click", () => {
      flame.only(numbers(button.dataset.sites), button.dataset.label);
      document.getElementById("flame").scrollIntoView();
    });
  }
  for (const link of document.querySelectorAll("nav a")) {
    const target = document.querySelector(link.getAttribute("href"));
    link.hidden = !target || target.hidden;
  }
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && flame && !/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) {
      event.preventDefault();
      flame.search.focus();
    }
  });
  document.documentElement.dataset.ready = "yes";
}

function numbers(ranges) {
  const found = [];
  for (const range of ranges.split(" ").filter(Boolean)) {
    const [first, last] = range.split("-").map(Number);
    for (let i = first; i <= last; i++) found.push(i);
  }
  return found;
}

start().catch((error) => {
  const old = typeof DecompressionStream === "undefined" ? "This browser is too old for the curve, the flame graph and the call sites. " : "";
  document.querySelector("main").prepend(element("p", { class: "warning" }, `${old}${error.message}`));
  document.documentElement.dataset.ready = "failed";
});
