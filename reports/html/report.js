"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const root = document.documentElement;

  // Colours and fonts of figures are names of CSS variables, so that both themes live in the
  // style sheet alone.
  const resolved = (value, styles) => {
    if (typeof value === "string") {
      const name = /^var\((--[\w-]+)\)$/.exec(value);
      return name ? styles.getPropertyValue(name[1]).trim() : value;
    }
    if (Array.isArray(value)) return value.map((item) => resolved(item, styles));
    if (value && typeof value === "object") {
      return Object.fromEntries(
        Object.entries(value).map(([key, item]) => [key, resolved(item, styles)]),
      );
    }
    return value;
  };

  const draw = () => {
    const styles = getComputedStyle(root);
    for (const element of document.querySelectorAll(".plot")) {
      const figure = resolved(figures[element.dataset.figure], styles);
      Plotly.react(element, figure.data, figure.layout, {
        responsive: true,
        displaylogo: false,
        displayModeBar: matchMedia("(hover: hover)").matches ? "hover" : false,
        modeBarButtons: [["toImage"]],
        toImageButtonOptions: { format: "svg", filename: element.dataset.figure },
      });
    }
    root.dataset.charts = "drawn";
  };
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

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

  const filter = document.getElementById("task-filter");
  if (filter) {
    filter.addEventListener("change", () => {
      for (const row of document.querySelectorAll("#cells tbody tr")) {
        row.hidden = filter.value !== "" && row.dataset.task !== filter.value;
      }
    });
  }
})();
