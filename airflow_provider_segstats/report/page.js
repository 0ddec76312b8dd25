"use strict";
// The table is sorted as it stands and can be read without this: sorting, finding and opening are extras.
const table = document.querySelector("#segments");
const bodies = [...table.tBodies];

function value(body, column) {
  const cell = body.rows[0].cells[column];
  const text = cell.dataset.v ?? cell.textContent;
  const number = parseFloat(text.replace("±", "").replace("−", "-").replaceAll(",", ""));
  return Number.isNaN(number) ? -Infinity : number;
}

table.querySelectorAll("thead th").forEach((heading, column) => {
  if (bodies.length < 2 || /^(Channel|Last|Share)/.test(heading.textContent)) return;
  const button = document.createElement("button");
  button.append(...heading.childNodes);
  heading.append(button);
  button.addEventListener("click", () => {
    const down = heading.getAttribute("aria-sort") !== "descending";
    table.querySelectorAll("[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const keys = new Map(bodies.map((body) => [body, value(body, column)]));
    bodies.sort((a, b) => (down ? keys.get(b) - keys.get(a) : keys.get(a) - keys.get(b)) || 0);
    table.append(...bodies);
  });
});

const find = document.querySelector("#find");
find.hidden = bodies.length < 2;
find.querySelector("input").addEventListener("input", (event) => {
  const wanted = event.target.value.trim().toLowerCase();
  for (const body of bodies) body.hidden = !body.rows[0].cells[0].textContent.toLowerCase().includes(wanted);
});

table.addEventListener("click", (event) => event.target.closest("tbody")?.classList.toggle("open"));
