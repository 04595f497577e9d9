// From a record's trace to the canvas after any of its steps.

// A token's form in the data: text; [0, hex] bytes of a part of a character; [1, text] special;
// [2, id] one that the run has no text of.
const PLAIN = -1, BYTES = 0, SPECIAL = 1, UNKNOWN = 2;
const formOf = (word) => (typeof word === "string" ? PLAIN : word[0]);

const bytesOf = (hex) => (hex.match(/../g) ?? []).map((pair) => parseInt(pair, 16));

// Bytes at neighbouring places, each with its place: the characters that they make go to the place
// of their first byte, what makes none is shown as hexadecimal.
const decoded = (bytes) => {
  const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  const found = new Map();
  const put = (place, text) => found.set(place, (found.get(place) ?? "") + text);
  for (let at = 0; at < bytes.length; ) {
    const lead = bytes[at].byte;
    const size = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    const piece = bytes.slice(at, at + size);
    let text = null;
    try {
      text = strict.decode(Uint8Array.from(piece, (one) => one.byte));
    } catch {
      text = null;
    }
    if (text === null) {
      put(bytes[at].place, `⟨${lead.toString(16).toUpperCase().padStart(2, "0")}⟩`);
      at += 1;
    } else {
      put(piece[0].place, visible(text));
      for (const one of piece.slice(1)) if (!found.has(one.place)) found.set(one.place, "");
      at += size;
    }
  }
  return found;
};

// What each place of a canvas shows; undefined: a mask. `tokens` holds numbers of words.
const textsOf = (tokens, words) => {
  const shown = tokens.map((token) => {
    if (token === undefined) return undefined;
    const word = words[token];
    const form = formOf(word);
    if (form === PLAIN) return word;
    if (form === SPECIAL) return word[1];
    return form === UNKNOWN ? `#${word[1]}` : "";
  });
  let run = [];
  const flush = () => {
    for (const [place, text] of decoded(run)) shown[place] = text === "" ? "‥" : text;
    run = [];
  };
  tokens.forEach((token, place) => {
    if (token !== undefined && formOf(words[token]) === BYTES) {
      run.push(...bytesOf(words[token][1]).map((byte) => ({ byte, place })));
    } else flush();
  });
  flush();
  return shown;
};

// A quantity that is kept as a whole number of parts; -1 is none.
const part = (value, parts) => (value < 0 ? null : value / parts);

// Steps of a record, or null where nothing tells the order of its tokens.
const stepsOf = (record) => {
  const { trace, order, canvas } = record;
  if (trace) {
    let start = 0;
    return trace.counts.map((count, at) => {
      const writes = [];
      for (let n = start; n < start + count; n++) {
        writes.push({ place: trace.places[n], token: trace.tokens[n], sure: trace.sure[n] });
      }
      start += count;
      return {
        writes,
        left: trace.left[at],
        nfe: trace.nfe[at],
        answer: trace.said[at] < 0 ? null : trace.answers[trace.said[at]],
        right: trace.right[at],
        gap: part(trace.gap[at], 1000),
        entropy: part(trace.entropy[at], 1000),
        settled: part(trace.settled[at], 1000),
        elapsed: part(trace.elapsed[at], 100000),
      };
    });
  }
  if (!order) return null;
  const steps = Array.from({ length: Math.max(0, ...order) }, () => ({ writes: [] }));
  order.forEach((step, place) => {
    if (step > 0) steps[step - 1].writes.push({ place, token: canvas[place], sure: -1 });
  });
  let left = order.length;
  for (const step of steps) step.left = left -= step.writes.length;
  return steps;
};

// The canvas after `step` steps (0: all masks): of each place the token, its confidence, the step
// that wrote it, and the tokens that stood there before.
const canvasAt = (record, steps, step) => {
  const size = record.trace ? record.trace.size : (record.canvas ?? []).length;
  if (!steps) {
    return (record.canvas ?? []).map((token) => ({ token, sure: -1, step: null, before: [] }));
  }
  const places = Array.from({ length: size }, () => ({ before: [] }));
  for (let at = 0; at < step; at++) {
    for (const { place, token, sure } of steps[at].writes) {
      const here = places[place];
      if (here.token !== undefined) here.before.push({ token: here.token, step: here.step });
      Object.assign(here, { token, sure, step: at + 1 });
    }
  }
  return places;
};

// Four levels of confidence; the style sheet gives each a shade and a line.
const levelOf = (sure) =>
  sure === null || sure === undefined || sure < 0 ? 0 : sure < 500 ? 1 : sure < 800 ? 2
    : sure < 950 ? 3 : 4;

const surely = (sure, range) => {
  if (sure === null || sure === undefined || sure < 0) return "no confidence";
  if (!range) return `confidence ${(sure / 10).toFixed(1)}%`;
  return `score ${(range[0] + ((range[1] - range[0]) * sure) / 1000).toFixed(3)}`;
};

const spelled = (text) => text.replace(/\n/g, "↵").replace(/\t/g, "⇥");
