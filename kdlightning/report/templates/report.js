// a click on a heading sorts its table: numbers with the highest first, what is missing last; a second click turns it round
for (const heading of document.querySelectorAll("thead th")) {
  const sort = () => {
    const rows = heading.closest("table").tBodies[0];
    const numeric = heading.classList.contains("number");
    const before = heading.getAttribute("aria-sort") ?? (numeric ? "ascending" : "descending");
    const order = before === "ascending" ? "descending" : "ascending";
    const sign = order === "ascending" ? 1 : -1;
    const key = row => {
      const cell = row.cells[heading.cellIndex];
      return numeric ? parseFloat(cell.dataset.value) : cell.textContent;
    };
    const compare = (a, b) => {
      if (!numeric) return sign * a.localeCompare(b);
      return isNaN(a) || isNaN(b) ? isNaN(a) - isNaN(b) : sign * (a - b);
    };
    for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", order);
    rows.append(...[...rows.rows].sort((a, b) => compare(key(a), key(b))));
  };
  heading.tabIndex = 0;
  heading.title = "Sort";
  heading.addEventListener("click", sort);
  heading.addEventListener("keydown", event => event.key === "Enter" && sort());
}
