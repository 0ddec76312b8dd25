"use strict";
// The table is sorted as it stands and can be read without this: sorting, finding and opening are extras.
const table = document.querySelector("#segments");
const bodies = [...table.tBodies];
const all = document.querySelector("#open");

const inOrder = new Intl.Collator("en", { numeric: true }).compare;

// The first column is sorted as text, the others as numbers; what has none is the least.
function ascending(column) {
  const text = (body) => body.rows[0].cells[column].dataset.v ?? body.rows[0].cells[column].textContent;
  if (column === 0) return (a, b) => inOrder(text(a), text(b));
  const keys = new Map(bodies.map((body) => {
    const number = parseFloat(text(body).replace("±", "").replace("−", "-").replaceAll(",", ""));
    return [body, Number.isNaN(number) ? -Infinity : number];
  }));
  return (a, b) => keys.get(a) - keys.get(b) || 0;
}

function asButton(cell) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...cell.childNodes);
  cell.append(button);
  return button;
}

table.querySelectorAll("thead th").forEach((heading, column) => {
  if (bodies.length < 2 || /^(Channel|Last|Share)/.test(heading.textContent)) return;
  asButton(heading).addEventListener("click", () => {
    const [first, second] = column === 0 ? ["ascending", "descending"] : ["descending", "ascending"];
    const order = heading.getAttribute("aria-sort") === first ? second : first;
    table.querySelectorAll("[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", order);
    const up = ascending(column);
    bodies.sort((a, b) => (order === "ascending" ? up(a, b) : up(b, a)));
    table.append(...bodies);
  });
});

// Each segment opens and closes its channels; the box does so for all of them.
const opening = new Map();
for (const body of bodies.length > 1 ? bodies : []) {
  if (body.rows.length < 2) continue;
  const button = asButton(body.rows[0].cells[0]);
  opening.set(body, button);
  button.addEventListener("click", () => show(body, button.getAttribute("aria-expanded") !== "true"));
}

function show(body, opened) {
  opening.get(body)?.setAttribute("aria-expanded", opened);
  for (const row of [...body.rows].slice(1)) row.hidden = !opened;
}

const openAll = () => opening.forEach((_, body) => show(body, all.checked));
all.addEventListener("change", openAll);
openAll();

const find = document.querySelector("#find");
find.hidden = bodies.length < 2;
find.querySelector("input").addEventListener("input", (event) => {
  const wanted = event.target.value.trim().toLowerCase();
  const ranks = new Map(bodies.map((body) => [body, rank(body.rows[0].cells[0].textContent.toLowerCase(), wanted)]));
  for (const body of bodies) body.hidden = ranks.get(body) === 3;
  table.append(...[...bodies].sort((a, b) => ranks.get(a) - ranks.get(b)));
  const found = bodies.filter((body) => !body.hidden).length;
  document.querySelector("#found").textContent = wanted && `${found} of ${bodies.length} segments`;
});

// First what is it, by its id or name, then what has a word that begins so, then what has it anywhere.
function rank(text, wanted) {
  const words = text.split(/[\s()]+/);
  if (!wanted || words.includes(wanted)) return 0;
  return words.some((word) => word.startsWith(wanted)) ? 1 : text.includes(wanted) ? 2 : 3;
}
