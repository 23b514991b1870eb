// Tables of the page whose columns sort: by data-value where a cell has it, else by text.

import { element } from "./ui.js";

export function sortTables(root) {
  for (const table of root.querySelectorAll("main .scroll > table")) {
    table.querySelectorAll("thead th").forEach((head, column) => {
      const button = element("button", { type: "button", onclick: () => sort(table, head, column) }, head.textContent);
      head.replaceChildren(button);
      head.setAttribute("aria-sort", "none");
    });
  }
}

function sort(table, head, column) {
  const down = head.getAttribute("aria-sort") !== "descending";
  for (const each of table.querySelectorAll("thead th")) {
    each.setAttribute("aria-sort", "none");
    each.firstChild.textContent = each.firstChild.textContent.replace(/ [\u25be\u25b4]$/, "");
  }
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  head.firstChild.textContent += down ? " \u25be" : " \u25b4";
  const body = table.tBodies[0];
  const value = (row) => {
    const cell = row.cells[column];
    return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
  };
  const rows = [...body.rows].map((row) => [value(row), row]);
  rows.sort(([a], [b]) => (typeof a === "number" && typeof b === "number" ? b - a : String(a).localeCompare(String(b))) * (down ? 1 : -1));
  body.append(...rows.map(([, row]) => row));
}
