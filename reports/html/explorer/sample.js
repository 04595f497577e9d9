// One sample: its replay, its texts, and the same sample elsewhere.

const makeSample = (index, { linkTo, moved }) => {
  const part = (name) => document.getElementById(`ex-${name}`);
  const range = part("step"), play = part("play"), live = part("live");
  let open = null; // { line, record, steps, step, draw, track }
  let timer = 0;

  const text = (name, content) => {
    part(name).textContent = content ?? "";
    part(name).closest("[data-part]").hidden = content === undefined || content === null;
  };

  const total = () => open?.steps?.length ?? 0;

  const sentence = () => {
    const step = open.steps[open.step - 1];
    if (!step) return `Before the first of ${total()} steps: all masks.`;
    const parts = [`Step ${open.step} of ${total()}: ${counted(step.writes.length, "token")} written`,
      `${counted(step.left, "mask")} left`];
    if (typeof step.answer === "string") parts.push(`answer ${step.answer}`);
    if (step.right === 1 || step.right === 0) parts.push(VERDICTS[step.right]);
    return `${parts.join(", ")}.`;
  };
  const counted = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`;

  const facts = () => {
    const step = open.steps[open.step - 1];
    const found = [];
    const add = (name, value, help) => value !== null && value !== undefined &&
      found.push(element("div", { title: help }, element("dt", {}, name), element("dd", {}, value)));
    add("written", step ? String(step.writes.length) : "0", "tokens that this step wrote");
    add("masks left", String(step ? step.left : open.record.trace?.size ?? open.record.order.length),
      "in the canvas after it");
    if (step && open.record.trace) {
      const verdict = step.right === 1 || step.right === 0 ? VERDICTS[step.right] : "not judged";
      add("answer if it stopped here", step.answer === null ? "none" : step.answer,
        "masks filled with this step's best tokens");
      add("which is", `${markOf(verdict)} ${verdict}`);
      add("settled", step.settled === null ? null : `${(100 * step.settled).toFixed(0)}%`,
        "of the final tokens, the share that is written or the model's best guess");
      add("gap", step.gap === null ? null : step.gap.toFixed(2),
        "mean gap of the two best logits over the masks, before it wrote");
      add("entropy", step.entropy === null ? null : `${step.entropy.toFixed(2)} nats`,
        "mean over the masks, before it wrote");
      add("forwards", String(step.nfe), "so far");
      add("elapsed", `${(1000 * step.elapsed).toFixed(1)} ms`, "seconds of decoding so far");
    }
    part("facts").replaceChildren(...found);
  };

  const writes = () => {
    const step = open.steps[open.step - 1];
    const SHOWN = 256;
    const { record } = open;
    const found = (step?.writes ?? []).slice(0, SHOWN).map(({ place, token, sure }) => {
      const [word] = textsOf([token], record.words);
      const old = canvasAt(record, open.steps, open.step - 1)[place].token;
      const was = old === undefined ? "mask" : `“${spelled(textsOf([old], record.words)[0])}”`;
      return element("tr", {},
        element("td", { class: "number" }, String(place + 1)),
        element("td", {}, element("code", {}, short(spelled(word)))),
        element("td", { class: "number" }, surely(sure, record.trace?.range).replace(/^\w+ /, "")),
        element("td", {}, short(was)));
    });
    part("writes").replaceChildren(...found);
    part("wrote").hidden = found.length === 0;
  };

  const show = (step, speak = true) => {
    open.step = Math.max(0, Math.min(step, total()));
    part("text").textContent = open.draw(open.step);
    if (!open.steps) return;
    range.value = open.step;
    range.setAttribute("aria-valuetext", `step ${open.step} of ${total()}`);
    part("step-now").textContent = `${open.step} / ${total()}`;
    part("first").disabled = part("back").disabled = open.step === 0;
    part("on").disabled = part("last").disabled = open.step === total();
    open.track(open.step);
    facts();
    if (part("wrote").open) writes();
    part("wrote").hidden = !open.steps[open.step - 1]?.writes.length;
    if (speak) live.textContent = sentence();
  };
  const go = (step) => {
    show(step);
    moved(open.step);
  };

  const stop = () => {
    if (!timer) return false;
    clearInterval(timer);
    timer = 0;
    play.textContent = "▶ play";
    live.textContent = sentence();
    moved(open.step);
    return true;
  };
  const start = () => {
    if (!open?.steps) return;
    if (open.step >= total()) show(0, false);
    play.textContent = "❚❚ pause";
    timer = setInterval(() => {
      show(open.step + 1, false);
      if (open.step >= total()) stop();
    }, Math.max(60, Math.min(400, 6000 / total())));
  };
  const toggle = () => stop() || start();

  play.addEventListener("click", toggle);
  range.addEventListener("input", () => {
    stop();
    go(Number(range.value));
  });
  for (const [name, target] of Object.entries({
    first: () => 0, back: () => open.step - 1, on: () => open.step + 1, last: total,
  })) {
    part(name).addEventListener("click", () => {
      stop();
      go(target());
    });
  }
  part("track").addEventListener("click", ({ target }) => {
    if (target.dataset.step) go(Number(target.dataset.step));
  });
  part("wrote").addEventListener("toggle", () => open?.steps && writes());

  const family = (line) => {
    const series = new Map();
    for (const one of line.family) {
      const several = index.cells.some((cell) => cell.mode !== one.cell.mode);
      const name = several ? `${one.cell.series}, ${one.cell.mode}` : one.cell.series;
      series.set(name, [...(series.get(name) ?? []), one]);
    }
    const made = [...series].map(([name, lines]) => {
      const links = lines.map((one) => {
        const verdict = verdictOf(one, index);
        const label = `${one.cell.ar ? "" : `${one.cell.steps} `}${markOf(verdict)}`;
        const repeat = one.repeat ? ` #${one.repeat}` : "";
        return element("a", { href: linkTo(one), class: toneOf(verdict),
          "aria-label": `${name}, ${one.cell.steps} steps${repeat}: ${verdict}`,
          "aria-current": one === line && "true" }, `${label}${repeat}`);
      });
      return element("div", {}, element("dt", {}, name), element("dd", {}, ...links));
    });
    part("family").replaceChildren(...made);
    part("family").hidden = line.family.length < 2;
  };

  const baseline = async (line) => {
    const found = line.cell.ar ? [] : line.family.filter((one) => one.cell.ar && one.repeat === line.repeat);
    const nearest = [
      (one) => one.cell.run === line.cell.run && one.cell.mode === line.cell.mode,
      (one) => one.cell.run === line.cell.run,
      () => true,
    ].map((fits) => found.filter(fits)).find((some) => some.length) ?? [];
    const made = [];
    for (const one of nearest) {
      const record = await store.record(one);
      const verdict = verdictOf(one, index);
      made.push(
        element("h4", {}, `${one.cell.series}, autoregressive `,
          element("span", { class: `tag ${toneOf(verdict)}` }, `${markOf(verdict)} ${verdict}`)),
        element("pre", { tabindex: "0", "aria-label": "autoregressive output" },
          record.output ?? record.error ?? "no output"),
        element("p", { class: "label" }, record.facts.join(" · ")),
      );
    }
    if (!made.length) {
      made.push(element("p", { class: "quiet" }, line.cell.ar
        ? "This is the autoregressive output itself."
        : "No autoregressive cell of this run has this sample."));
    }
    return made;
  };

  const fill = (line, record, beside) => {
    const steps = stepsOf(record);
    const verdict = verdictOf(line, index);
    part("title").textContent = line.sample;
    part("verdict").textContent = `${markOf(verdict)} ${verdict}`;
    part("verdict").className = `tag ${toneOf(verdict)}`;
    const { cell } = line;
    part("where").textContent = [index.runs.length > 1 ? index.runs[cell.run] : "", cell.task,
      cell.series, cell.ar ? "" : `${cell.steps} steps`, cell.mode, record.category,
      ...record.facts].filter(Boolean).join(" · ");
    part("sid").textContent = line.sid;
    family(line);
    const size = record.trace ? record.trace.size : (record.canvas ?? []).length;
    part("replay").hidden = size === 0;
    part("player").hidden = !steps;
    part("facts").hidden = !steps;
    part("wrote").hidden = !steps;
    const unknown = record.words.length > 0 && record.words.every((word) => formOf(word) === UNKNOWN);
    part("note").textContent = [
      unknown ? "This run does not hold the texts of its tokens (it was made by an older version): places show token ids in the order of their commits; the whole text stands below." : "",
      !record.trace && steps ? "No trace: the order of commits is known, answers and confidences on the way are not." : "",
      size && !steps ? "No trace: the tokens of the end are known, not their order." : "",
    ].filter(Boolean).join(" ");
    part("scale").textContent = record.trace?.range
      ? `score of this decoder's rule, as parts of its range in this sample: ${record.trace.range.join(" to ")}`
      : "confidence";
    open = { line, record, steps, step: 0, draw: drawCanvas(part("canvas"), record, steps),
      track: drawTrack(part("track"), steps) };
    range.max = total();
    part("beside").replaceChildren(...beside);
    text("prompt", record.prompt);
    text("target", record.target);
    text("output", record.output);
    text("answer", record.answer);
    text("error", record.error);
    text("detail", record.detail);
    const prompt = part("prompt");
    prompt.scrollTop = prompt.scrollHeight; // the question stands at its end
  };

  return {
    async open(line, step) {
      stop();
      const [record, beside] = await Promise.all([store.record(line), baseline(line)]);
      return () => {
        fill(line, record, beside);
        part("sample").hidden = false;
        part("nothing").hidden = true;
        show(step ?? total());
      };
    },
    close() {
      stop();
      open = null;
      part("sample").hidden = true;
      part("nothing").hidden = false;
    },
    step(to) {
      if (open && to !== open.step) show(to ?? total());
    },
    by: (n) => open?.steps && (stop(), go(open.step + n)),
    first: () => open?.steps && (stop(), go(0)),
    last: () => open?.steps && (stop(), go(total())),
    toggle,
    stop,
    total,
    focus: () => part("sample").focus({ preventScroll: true }),
    reveal: () => part("sample").scrollIntoView({ block: "nearest" }),
  };
};
