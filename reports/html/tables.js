"use strict";
(() => {
  // Sorting: a column's button; entries without a value stay last in both directions.
  const compare = (left, right) => {
    const a = Number(left), b = Number(right);
    if (left !== "" && right !== "" && !Number.isNaN(a) && !Number.isNaN(b)) return a - b;
    return left.localeCompare(right);
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        for (const other of heads) other.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const body = table.tBodies[0];
        const key = (row) => row.cells[column].dataset.order ?? "";
        const rows = [...body.rows].sort((first, second) => {
          const a = key(first), b = key(second);
          if (a === "" || b === "") return (a === "") - (b === "");
          return down ? compare(b, a) : compare(a, b);
        });
        body.append(...rows);
      });
    });
  }

  // Filtering: a row stays if it is of the task and holds every word.
  for (const controls of document.querySelectorAll(".controls[data-table]")) {
    const table = document.getElementById(controls.dataset.table);
    const task = controls.querySelector(".task-filter");
    const words = controls.querySelector(".text-filter");
    const count = controls.querySelector("output");
    const rows = [...table.tBodies[0].rows];
    const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
    const filter = () => {
      const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
      let kept = 0;
      for (const row of rows) {
        const stays = (!task || task.value === "" || row.dataset.task === task.value)
          && wanted.every((word) => texts.get(row).includes(word));
        row.hidden = !stays;
        kept += stays;
      }
      count.textContent = kept === rows.length ? `${kept} rows` : `${kept} of ${rows.length} rows`;
    };
    if (task) task.addEventListener("change", filter);
    words.addEventListener("input", filter);
  }
})();
