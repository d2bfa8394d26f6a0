"use strict";
// Without this script the page is complete; with it tables can be sorted and rows filtered.

// Numbers by their raw value, all else as text; cells without anything come last either way.
function compare(one, other, descending) {
  if (one === "" || other === "") return (one === "") - (other === "");
  const order = typeof one === "number" && typeof other === "number"
    ? one - other
    : String(one).localeCompare(String(other), "en", { numeric: true });
  return descending ? -order : order;
}

const UNITS = { us: 1e-6, ms: 1e-3, kB: 1e3, MB: 1e6, GB: 1e9 };

// `278 us`, `0.026 ± 0.006`, `64,000 to 65,000`, `18 %`: what begins with a number is sorted by it.
function value(text) {
  const found = /^(-?\d[\d,]*(?:\.\d+)?)(?: ([A-Za-z%]+))?(?= |$)/.exec(text);
  return found ? Number(found[1].replaceAll(",", "")) * (UNITS[found[2]] ?? 1) : text;
}

function key(row, column) {
  const cell = row.cells[column];
  if (!cell) return "";
  return cell.dataset.value === undefined ? value(cell.textContent.trim()) : Number(cell.dataset.value);
}

function sort(table, column) {
  const heads = table.tHead.rows[0].cells;
  const descending = heads[column].getAttribute("aria-sort") === "ascending";
  for (const head of heads) head.setAttribute("aria-sort", "none");
  heads[column].setAttribute("aria-sort", descending ? "descending" : "ascending");
  const body = table.tBodies[0];
  const rows = [...body.rows].map(row => [key(row, column), row]);
  rows.sort((one, other) => compare(one[0], other[0], descending));
  body.append(...rows.map(([, row]) => row));
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(table, column));
    head.append(button);
    head.setAttribute("aria-sort", "none");
  });
}

// A part of a name will do; behind a number nothing may follow, so that batch_1 is not batch_16.
function has(names, word) {
  return names.some(name => /\d$/.test(word) ? name.endsWith(word) : name.includes(word));
}

// A line of the overview and the details of the same row come and go together.
for (const table of document.querySelectorAll("table.filtered")) {
  const label = document.createElement("label");
  const field = document.createElement("input");
  const count = document.createElement("output");
  field.type = "search";
  field.placeholder = "work case batch_1 threads_1 variant";
  label.append("Only rows with ", field, " ", count);
  label.className = "filter";
  table.parentElement.before(label);
  const rows = [...table.tBodies[0].rows];
  const show = () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      row.hidden = !words.every(word => has(row.dataset.words.split(" "), word));
      document.getElementById(row.dataset.row).hidden = row.hidden;
    }
    count.textContent = words.length ? `${rows.filter(row => !row.hidden).length} of ${rows.length}` : "";
  };
  field.addEventListener("input", show);
}

// A link to a row opens it, also the second time.
function open() {
  const row = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (row instanceof HTMLDetailsElement) row.open = true;
}
addEventListener("hashchange", open);
document.addEventListener("click", event => {
  if (event.target.closest("a[href^='#']")) setTimeout(open);
});
open();
