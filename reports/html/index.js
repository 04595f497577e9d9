"use strict";
{
  const form = document.getElementById("filters");
  const table = document.getElementById("runs");
  if (form && table) {
    const body = table.tBodies[0];
    const heads = [...table.tHead.rows[0].cells];
    const rows = [...body.rows].map((row, at) => ({
      row,
      at,
      suite: [row.dataset.suite],
      verdict: [row.dataset.verdict],
      model: JSON.parse(row.dataset.models),
      task: JSON.parse(row.dataset.tasks),
      text: row.textContent.toLowerCase(),
    }));
    const fields = ["suite", "model", "task", "verdict"];
    const count = document.getElementById("count");
    const none = document.getElementById("none-left");
    const more = document.getElementById("more");
    const page = 200; // rows that are laid out before somebody asks for all
    let everything = false;

    // What the page shows stands in the address, so that a view can be sent on.
    const read = () => {
      const asked = new URLSearchParams(location.hash.slice(1));
      for (const name of [...fields, "q"]) {
        const control = form.elements[name];
        control.value = asked.get(name) ?? "";
        if (control.selectedIndex === -1) control.value = "";
      }
      const [key, way] = (asked.get("sort") ?? "").split(" ");
      const head = heads.find((found) => found.dataset.key === key);
      order(head ?? heads[0], head ? way !== "up" : true);
      filter();
    };

    const write = () => {
      const state = new URLSearchParams();
      for (const name of [...fields, "q"]) {
        if (form.elements[name].value) state.set(name, form.elements[name].value);
      }
      const head = heads.find((found) => found.getAttribute("aria-sort") !== "none");
      const down = head.getAttribute("aria-sort") === "descending";
      if (head !== heads[0] || !down) state.set("sort", `${head.dataset.key} ${down ? "down" : "up"}`);
      history.replaceState(null, "", `#${state}`);
    };

    const filter = () => {
      const words = form.elements.q.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const found of rows) {
        const kept =
          fields.every((name) => {
            const value = form.elements[name].value;
            return !value || found[name].includes(value);
          }) && words.every((word) => found.text.includes(word));
        found.row.hidden = !kept || (shown >= page && !everything);
        shown += kept;
      }
      more.hidden = everything || shown <= page;
      more.textContent = `Show all ${shown.toLocaleString("en")}`;
      count.textContent = `${shown.toLocaleString("en")} of ${rows.length.toLocaleString("en")} runs`;
      none.hidden = shown > 0;
    };

    // Rows without a value stay last in both directions.
    const order = (head, down) => {
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const numeric = head.classList.contains("number");
      const key = (found) => found.row.cells[head.cellIndex].dataset.order;
      rows.sort((first, second) => {
        const [a, b] = [key(first), key(second)];
        if (a === "" || b === "") return (a === "") - (b === "") || first.at - second.at;
        const way = numeric ? Number(a) - Number(b) : a < b ? -1 : a > b ? 1 : 0;
        return way ? (down ? -way : way) : first.at - second.at;
      });
      body.append(...rows.map((found) => found.row));
    };

    for (const head of heads) {
      head.querySelector("button").addEventListener("click", () => {
        order(head, head.getAttribute("aria-sort") !== "descending");
        filter();
        write();
      });
    }
    more.addEventListener("click", () => {
      everything = true;
      filter();
    });
    form.addEventListener("input", () => {
      filter();
      write();
    });
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => {
      setTimeout(() => {
        filter();
        write();
      });
    });
    document.addEventListener("keydown", (event) => {
      const typing = event.target.matches("input, select");
      if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
        event.preventDefault();
        form.elements.q.focus();
      } else if (event.key === "Escape" && typing) {
        form.reset();
      }
    });
    addEventListener("hashchange", read);
    read();
    document.documentElement.dataset.index = "ready";
  }
}
