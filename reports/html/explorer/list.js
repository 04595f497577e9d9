// The rows that the filters leave, a page of them at a time.

const FILTERS = ["run", "task", "series", "steps", "mode", "outcome", "status", "lost", "q", "cell"];

// A row's value under each filter that chooses one of several.
const CHOICES = {
  run: (line, index) => index.runs[line.cell.run],
  task: (line) => line.cell.task,
  series: (line) => line.cell.series,
  steps: (line) => String(line.cell.steps),
  mode: (line) => line.cell.mode,
  outcome: (line) => VERDICTS[line.correct],
  status: (line, index) => index.statuses[line.status],
};

const makeFilters = (index, changed) => {
  const control = (name) => document.getElementById(`ex-${name}`);
  for (const [name, value] of Object.entries(CHOICES)) {
    const select = control(name);
    const found = [...new Set(index.lines.map((line) => value(line, index)))];
    if (name === "steps") found.sort((a, b) => a - b);
    select.append(...found.map((text) => {
      const option = element("option", { value: text });
      option.textContent = text;
      return option;
    }));
    select.closest(".ex-choice").hidden = found.length < 2;
  }
  const lost = control("lost");
  lost.closest(".ex-choice").hidden = !index.lines.some((line) => line.lost);

  const read = () => {
    const found = {};
    for (const name of Object.keys(CHOICES)) found[name] = control(name).value;
    found.lost = lost.checked ? "1" : "";
    found.q = control("q").value.trim();
    found.cell = control("cell").dataset.cell ?? "";
    return found;
  };
  const show = (filters) => {
    for (const name of Object.keys(CHOICES)) control(name).value = filters[name] ?? "";
    lost.checked = filters.lost === "1";
    if (control("q").value.trim() !== (filters.q ?? "")) control("q").value = filters.q ?? "";
    const cell = index.cells.find((one) => one.id === filters.cell);
    control("cell").dataset.cell = filters.cell ?? "";
    control("cell").hidden = !filters.cell;
    control("cell-name").textContent = cell
      ? `${cell.task}, ${cell.series}, ${cell.steps} steps, ${cell.mode}`
      : `cell ${filters.cell}, which is not in this page`;
  };

  for (const name of [...Object.keys(CHOICES), "lost"]) {
    control(name).addEventListener("change", () => changed(read()));
  }
  let timer = 0;
  control("q").addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => changed(read()), 250);
  });
  control("clear").addEventListener("click", () => changed({}));
  control("cell-off").addEventListener("click", () => {
    delete control("cell").dataset.cell;
    changed(read());
    control("q").focus();
  });
  return { show };
};

// Texts to search in, by row: its own and, shared with others, its prompt's.
const makeSearch = (index) => {
  const texts = [];
  let loaded = null;
  const load = async (progress) => {
    const places = new Map();
    for (const line of index.lines) {
      places.set(line.group, [...(places.get(line.group) ?? []), line]);
    }
    let done = 0;
    for (const [at, lines] of places) {
      const group = await store.group(at);
      const prompts = group.prompts.map((prompt) => prompt.toLowerCase());
      for (const line of lines) {
        const row = group.rows[line.place];
        const own = [line.sample, row.category, row.answer, row.output, row.error, row.detail];
        texts[line.at] = [own.filter(Boolean).join("\n").toLowerCase(), prompts[row.prompt]];
      }
      progress((done += 1), places.size);
    }
  };
  return async (query, progress) => {
    loaded ??= load(progress);
    loaded.catch(() => (loaded = null));
    await loaded;
    const wanted = query.toLowerCase();
    return (line) => texts[line.at].some((text) => text.includes(wanted));
  };
};

const filtered = (index, filters) =>
  index.lines.filter(
    (line) =>
      Object.entries(CHOICES).every(
        ([name, value]) => !filters[name] || value(line, index) === filters[name],
      ) &&
      (!filters.lost || line.lost) &&
      (!filters.cell || line.cell.id === filters.cell),
  );

const makeList = (index, linkTo) => {
  const SIZE = 50;
  const list = document.getElementById("ex-rows");
  const pager = document.getElementById("ex-pager");
  const range = document.getElementById("ex-range");
  const [back, on] = pager.querySelectorAll("button");
  let lines = [], page = 0, current = null;

  const row = (line) => {
    const verdict = verdictOf(line, index);
    const mark = element("span", { class: `ex-mark ${toneOf(verdict)}`, "aria-hidden": "true" },
      markOf(verdict));
    const repeat = line.repeat ? ` #${line.repeat}` : "";
    const lost = line.lost ? " · lost" : "";
    const steps = line.cell.ar ? "" : ` · ${line.cell.steps} steps`;
    const run = index.runs.length > 1 ? `${index.runs[line.cell.run]} · ` : "";
    const link = element("a", { href: linkTo(line), "data-at": line.at },
      mark,
      element("b", {}, `${line.sample}${repeat}`),
      element("span", { class: "ex-said" }, line.shown.replace(/\s+/g, " ")),
      element("small", {}, `${run}${line.cell.task} · ${line.cell.series}${steps}${lost}`,
        element("span", { class: "ex-only-heard" }, ` · ${verdict}`)),
    );
    return element("li", {}, link);
  };
  const mark = () => {
    for (const link of list.querySelectorAll("a")) {
      const is = Number(link.dataset.at) === current?.at;
      if (is) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
      if (is) {
        const low = link.offsetTop, high = low + link.offsetHeight;
        if (low < list.scrollTop) list.scrollTop = low;
        if (high > list.scrollTop + list.clientHeight) list.scrollTop = high - list.clientHeight;
      }
    }
  };
  const draw = () => {
    const start = page * SIZE;
    list.replaceChildren(...lines.slice(start, start + SIZE).map(row));
    list.scrollTop = 0;
    pager.hidden = lines.length <= SIZE;
    range.textContent = `${start + 1} to ${Math.min(start + SIZE, lines.length)}`;
    back.disabled = page === 0;
    on.disabled = start + SIZE >= lines.length;
    mark();
  };
  const turn = (by) => {
    page += by;
    draw();
  };
  back.addEventListener("click", () => turn(-1));
  on.addEventListener("click", () => turn(1));

  return {
    fill(found) {
      lines = found;
      page = 0;
      draw();
    },
    refresh: draw,
    select(line) {
      current = line;
      const at = line ? lines.indexOf(line) : -1;
      const there = at < 0 ? page : Math.floor(at / SIZE);
      if (there !== page) {
        page = there;
        draw();
      } else mark();
    },
    neighbour(by) {
      const at = current ? lines.indexOf(current) : -1;
      if (at < 0) return lines[by > 0 ? 0 : lines.length - 1];
      return lines[at + by];
    },
    focus() {
      (list.querySelector("[aria-current]") ?? list.querySelector("a"))?.focus();
    },
    hasFocus: () => list.contains(document.activeElement),
  };
};
