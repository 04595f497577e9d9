// A canvas drawn token by token.

const WIDE = /[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\u{1f300}-\u{1faff}\u{20000}-\u{3fffd}]/u;
const LONGEST_TOKEN = 40;

const widthOf = (text) =>
  [...text.slice(0, LONGEST_TOKEN)].reduce((sum, one) => sum + (WIDE.test(one) ? 2 : 1), 0);

const short = (text) =>
  text.length > LONGEST_TOKEN ? `${text.slice(0, LONGEST_TOKEN - 1)}…` : text;

// Places are as wide as their last token from the beginning, so that nothing moves while steps go by.
const drawCanvas = (root, record, steps) => {
  const last = steps ? steps.length : 0;
  const isSpecial = (token) => token !== undefined && formOf(record.words[token]) === SPECIAL;
  const ended = canvasAt(record, steps, last);
  const final = textsOf(ended.map((here) => here.token), record.words);
  const spans = final.map((text, place) => {
    const span = element("span", { "data-place": place });
    const width = isSpecial(ended[place].token) ? 1 : widthOf(spelled(text ?? ""));
    span.style.minWidth = `${Math.max(1, width)}ch`;
    return span;
  });
  const rows = spans.map((span, place) =>
    (final[place] ?? "").includes("\n") ? [span, element("br")] : [span]);
  root.replaceChildren(...rows.flat());

  return (step) => {
    const places = canvasAt(record, steps, step);
    const texts = textsOf(places.map((here) => here.token), record.words);
    const end = record.end ?? places.length;
    let masks = 0;
    places.forEach((here, place) => {
      const span = spans[place];
      const text = texts[place];
      const classes = ["tok"];
      if (place >= end) classes.push("after");
      if (text === undefined) {
        masks += 1;
        classes.push("mask");
        span.textContent = "";
        span.title = `place ${place + 1}: mask`;
      } else {
        const fresh = here.step === step && step > 0;
        const special = isSpecial(here.token);
        if (special) classes.push("special");
        classes.push(`sure-${levelOf(here.sure)}`);
        if (fresh) classes.push("fresh");
        if (here.before.length) classes.push("edited");
        span.textContent = special ? "∎" : short(spelled(text));
        const was = here.before.map((old) =>
          `“${short(spelled(textsOf([old.token], record.words)[0]))}” of step ${old.step}`);
        span.title = [
          `place ${place + 1}: “${spelled(text)}”`,
          here.step ? `written at step ${here.step}` : "",
          surely(here.sure, record.trace?.range),
          was.length ? `replaced ${was.join(", ")}` : "",
          place >= end ? "after the end of the text" : "",
        ].filter(Boolean).join("\n");
      }
      span.className = classes.join(" ");
    });
    root.setAttribute("aria-label",
      `Canvas: ${places.length - masks} of ${places.length} places written. ` +
        "The same as text stands below.");
    return texts.map((text) => text ?? "▒").join("");
  };
};

// Stretches of steps with one answer, over the scrubber.
const drawTrack = (root, steps) => {
  const blocks = [];
  (steps ?? []).forEach((step, at) => {
    const before = blocks.at(-1);
    if (before && before.answer === step.answer && before.right === step.right) before.count += 1;
    else blocks.push({ answer: step.answer, right: step.right, start: at + 1, count: 1 });
  });
  const known = blocks.some((block) => typeof block.answer === "string" || block.right >= 0);
  root.hidden = !known || blocks.every((block) => block.right === undefined);
  const made = blocks.map((block) => {
    const verdict = VERDICTS[block.right ?? -1];
    const text = block.answer ?? "no answer";
    const span = element("span", { class: toneOf(verdict), "data-step": block.start,
      title: `${text}: ${verdict}, steps ${block.start} to ${block.start + block.count - 1}` },
    `${markOf(verdict)} ${text}`);
    span.style.flexGrow = block.count;
    return span;
  });
  root.replaceChildren(...made);
  return (step) =>
    blocks.forEach((block, at) =>
      made[at].classList.toggle("now", step >= block.start && step < block.start + block.count));
};
