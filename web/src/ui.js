// Small helpers: elements, and figures as the text report writes them (units.py).

export function element(name, attributes = {}, ...content) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...content.flat().filter((each) => each !== null && each !== undefined && each !== ""));
  return made;
}

export function formatBytes(bytes) {
  let value = bytes;
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (Math.abs(value) < 1024) {
      return `${unit === "B" || Number.isInteger(value) ? value.toFixed(0) : value.toFixed(1)} ${unit}`;
    }
    value /= 1024;
  }
  return `${value.toFixed(1)} TiB`;
}

export function formatDuration(seconds) {
  const two = (n) => String(n).padStart(2, "0");
  if (seconds < 0.05) return "0s";
  if (seconds < 60) return seconds < 10 && !Number.isInteger(seconds) ? `${seconds.toFixed(1)}s` : `${seconds.toFixed(0)}s`;
  const whole = Math.trunc(seconds);
  const part = (unit, below) => [Math.trunc(whole / unit), Math.trunc((whole % unit) / below)];
  const [first, second, names] = whole < 3600 ? [...part(60, 1), "ms"]
    : whole < 86400 ? [...part(3600, 60), "hm"] : [...part(86400, 3600), "dh"];
  return `${first}${names[0]} ${two(second)}${names[1]}`;
}

export function formatShare(share) {
  const value = 100 * share;
  if (value > 0 && value < 0.05) return "<0.1 %";
  return value >= 10 || value === 0 ? `${value.toFixed(0)} %` : `${value.toFixed(1)} %`;
}

export function formatCount(n) {
  return Math.round(n).toLocaleString("en-US");
}

export function signed(text, value) {
  return value > 0 ? `+${text}` : text;
}

export async function copyText(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = element("textarea", {});
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  const label = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = label; }, 1200);
}

export function select(label, options, value, onchange) {
  const list = element("select", { onchange: (event) => onchange(event.target.value) },
    options.map(([key, text]) => element("option", { value: key, selected: key === value }, text)));
  return element("label", {}, element("span", {}, label), list);
}

export function toggle(label, checked, onchange, title) {
  const box = element("input", { type: "checkbox", checked, onchange: (event) => onchange(event.target.checked) });
  return element("label", { class: "toggle", title }, box, label);
}

// Colours come from the style, so that light, dark and the page's palette stay in one place.
export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

export function later(wait_ms, action) {
  let timer = 0;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...given), wait_ms);
  };
}

// Draw again when an element has another width than it was drawn with; the first report of an observer is none.
export function onNewWidth(host, draw) {
  let width = host.clientWidth;
  new ResizeObserver(later(100, () => {
    if (host.clientWidth === width) return;
    width = host.clientWidth;
    draw();
  })).observe(host);
}
