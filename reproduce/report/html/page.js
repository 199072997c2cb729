// Tables sort by their headings; without this script everything is still there to read.
"use strict";
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  const text = new Intl.Collator("en", { numeric: true });

  const key = (row, index, numeric) => {
    const cell = row.cells[index];
    const value = numeric ? cell.dataset.value : cell.textContent.trim();
    return !value ? null : numeric ? Number(value) : value;
  };

  // no order -> ascending -> descending -> no order; empty cells are last in each, equal ones keep the page's order
  const sort = (index) => {
    const head = heads[index];
    const next = { ascending: "descending", descending: "none" }[head.ariaSort] ?? "ascending";
    for (const other of heads) other.ariaSort = null;
    head.ariaSort = next === "none" ? null : next;
    const numeric = head.dataset.sort === "number";
    const sign = next === "descending" ? -1 : 1;
    const rows = next === "none" ? original : original.toSorted((one, two) => {
      const a = key(one, index, numeric), b = key(two, index, numeric);
      if (a === null || b === null) return (a === null) - (b === null);
      return sign * (numeric ? a - b : text.compare(a, b));
    });
    body.append(...rows);
  };

  heads.forEach((head, index) => {
    if (!head.dataset.sort) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(index));
    head.append(button);
  });
}

// a box that scrolls sideways can be reached and scrolled by keyboard
const reach = () => {
  for (const box of document.querySelectorAll(".scroll")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
};
addEventListener("resize", reach);
addEventListener("toggle", reach, true);
reach();
