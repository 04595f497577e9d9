// What the address says is what the explorer shows: filters, sample and step stand after the #.

const startExplorer = async () => {
  const section = document.getElementById("explorer");
  if (!section) return;
  const problem = document.getElementById("ex-problem");
  const count = document.getElementById("ex-count");
  const tell = (error) => {
    problem.textContent = error.message;
    problem.hidden = false;
  };

  let index;
  try {
    index = await store.index();
  } catch (error) {
    tell(error);
    return;
  }
  let state = {}; // filters, run, sample, step, all as text; what is empty is left out
  let asked = 0;

  const linesOf = ({ sample, run }) =>
    sample ? index.lines.filter((line) => line.sid === sample &&
      (!run || index.runs[line.cell.run] === run)) : [];
  const hashOf = (wanted) => {
    const entries = [...FILTERS, "sample", "step"].filter((name) => wanted[name]);
    const parameters = new URLSearchParams(entries.map((name) => [name, wanted[name]]));
    return entries.length ? `#${parameters}` : "#samples";
  };
  // On a page of several runs a sid may stand in more than one of them.
  const pick = (line) => ({
    ...filters(state),
    ...(index.runs.length > 1 ? { run: index.runs[line.cell.run] } : {}),
    sample: line.sid,
  });
  const filters = (wanted) =>
    Object.fromEntries(FILTERS.filter((name) => wanted[name]).map((name) => [name, wanted[name]]));
  const linkTo = (line) => hashOf(pick(line));
  const same = (a, b) => hashOf(a) === hashOf(b);

  const search = makeSearch(index);
  const list = makeList(index, linkTo);
  const sample = makeSample(index, {
    linkTo,
    moved: (step) => change({ ...state, step: step === sample.total() ? "" : String(step) }, false),
  });
  const bar = makeFilters(index, (found) => {
    const { sample: sid, step } = state;
    change({ ...found, sample: sid, step }, true);
  });

  const change = (wanted, push) => {
    const before = state;
    state = wanted;
    if (!same(before, wanted)) {
      history[push ? "pushState" : "replaceState"](null, "", hashOf(wanted));
    }
    return apply(before);
  };

  const apply = async (before) => {
    problem.hidden = true;
    const mine = (asked += 1);
    try {
      if (!before || !same(filters(before), filters(state))) await filter(mine);
      const [line] = linesOf(state);
      if (before && before.sample === state.sample && before.run === state.run) {
        sample.step(state.step === undefined || state.step === "" ? null : Number(state.step));
      } else if (line) {
        const fill = await sample.open(line, state.step ? Number(state.step) : null);
        if (mine === asked) fill();
      } else {
        sample.close();
        if (state.sample) {
          tell(new Error(`Sample ${visible(state.sample)} is not among the ${index.lines.length} rows ` +
            "that this page holds; python -m jobs.report RUN --samples all holds every one."));
        }
      }
      list.select(line ?? null);
    } catch (error) {
      tell(error);
    }
  };

  const filter = async (mine) => {
    bar.show(state);
    let found = filtered(index, state);
    if (state.q) {
      const matches = await search(state.q, (done, all) => {
        if (all > 1) count.textContent = `Searching ${done} of ${all} parts …`;
      });
      if (mine !== asked) return;
      found = found.filter(matches);
    }
    const all = index.lines.length;
    count.textContent = found.length === all ? `${all.toLocaleString("en")} rows`
      : `${found.length.toLocaleString("en")} of ${all.toLocaleString("en")} rows`;
    document.getElementById("ex-none").hidden = found.length > 0;
    list.fill(found);
  };

  const parsed = () => {
    const found = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
    const known = [...FILTERS, "sample", "step"].filter((name) => found[name]);
    if (found.step && !/^\d{1,6}$/.test(found.step)) delete found.step;
    return { ours: known.length > 0 || location.hash === "#samples",
      state: Object.fromEntries(known.map((name) => [name, found[name] ?? ""])) };
  };
  // Where the address says nothing: a row that a decoder with steps got right, if there is one.
  const shownFirst = () => {
    const steps = index.lines.filter((line) => !line.cell.ar);
    const line = steps.find((one) => one.correct === 1) ?? steps[0] ?? index.lines[0];
    return line ? { sample: line.sid, run: index.runs.length > 1 ? index.runs[line.cell.run] : "" } : {};
  };
  const follow = async (first) => {
    const found = parsed();
    if (!found.ours && !first) return;
    const before = state;
    const moving = !first && same(before, found.state);
    if (moving) return;
    state = found.ours ? found.state : shownFirst();
    const fromList = list.hasFocus();
    await apply(first ? null : before);
    if (!found.ours || location.hash === "#samples") return;
    if (state.sample && state.sample !== before.sample) {
      if (fromList) list.focus();
      else {
        section.scrollIntoView();
        sample.focus();
      }
      sample.reveal();
    } else if (!state.sample) section.scrollIntoView();
  };

  const keys = {
    ArrowLeft: () => sample.by(-1),
    ArrowRight: () => sample.by(1),
    ArrowUp: () => move(-1),
    ArrowDown: () => move(1),
    k: () => move(-1),
    j: () => move(1),
    " ": () => sample.toggle(),
    Home: () => sample.first(),
    End: () => sample.last(),
    Escape: () => sample.stop() || leave(),
  };
  const move = async (by) => {
    const line = list.neighbour(by);
    if (!line) return;
    const inList = list.hasFocus();
    await change(pick(line), true);
    if (inList) list.focus();
  };
  const leave = async () => {
    list.focus();
    const { sample: _, step: __, ...rest } = state;
    await change(rest, true);
  };
  section.addEventListener("keydown", (event) => {
    const { target, key } = event;
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    if (target.matches("input:not([type=range]), select, textarea")) return;
    if (target.closest("#ex-filters")) return;
    if (key === " " && target.closest("button, summary")) return;
    if (target.closest("pre") && /^(Arrow(Up|Down)|Home|End)$/.test(key)) return;
    if (!Object.hasOwn(keys, key) || event.shiftKey) return;
    event.preventDefault();
    keys[key]();
  });

  window.addEventListener("hashchange", () => follow(false));
  window.addEventListener("popstate", () => follow(false));
  await follow(true);
  section.dataset.ready = "true";
};

// After the first paint: what is unpacked here is not needed for it.
requestAnimationFrame(() => setTimeout(startExplorer));
