// What the page holds of its samples: packed parts, in the page or in files beside it.

const element = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null && value !== false) {
      made.setAttribute(name, value === true ? "" : value);
    }
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
};

// As reports/text.py: characters that would be lost or would turn the text around.
const HIDDEN = new RegExp(
  "[\\u0000-\\u0008\\u000b-\\u001f\\u007f-\\u009f\\u061c\\u200b\\u200e\\u200f\\u2028-\\u202e" +
    "\\u2060-\\u206f\\ufeff\\u{e0000}-\\u{e007f}\\ud800-\\udfff]",
  "gu",
);
const visible = (text) =>
  text.replace(HIDDEN, (hidden) => {
    const code = hidden.codePointAt(0);
    if (code < 0x20) return String.fromCharCode(0x2400 + code);
    return code === 0x7f ? "\u2421" : "\\u" + code.toString(16).padStart(4, "0");
  });

const store = (() => {
  const packed = JSON.parse(document.getElementById("explorer-data").textContent);
  const KEPT = 24; // groups that stay unpacked
  const groups = new Map();
  const waiting = new Map();

  // The files of the folder are scripts that call this, since a page from disk may not fetch.
  window.unmaskPart = (name, text) => {
    waiting.get(name)?.(text);
    waiting.delete(name);
  };

  const file = ([name, integrity]) =>
    new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.nonce = packed.nonce;
      script.src = `${packed.folder}/${name}`;
      // From disk browsers refuse to check it.
      if (location.protocol !== "file:") script.integrity = integrity;
      const fail = () => {
        waiting.delete(name);
        reject(new Error(
          `${packed.folder}/${name} is not beside this page: copy the folder with the page, or ` +
            "load the page again if it was rewritten",
        ));
      };
      waiting.set(name, resolve);
      script.onerror = fail;
      script.onload = () => {
        if (waiting.has(name)) fail();
        script.remove();
      };
      document.head.append(script);
    });

  const unpack = async (text) => {
    if (typeof DecompressionStream === "undefined") {
      throw new Error("this browser cannot unpack the samples: use one of 2023 or later");
    }
    const binary = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([binary]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Response(stream).json();
  };

  const part = async (at) =>
    unpack(packed.folder ? await file(packed.parts[at]) : packed.parts[at]);

  const group = (at) => {
    const found = groups.get(at) ?? part(at);
    groups.delete(at);
    groups.set(at, found); // the latest is last
    found.catch(() => groups.delete(at));
    if (groups.size > KEPT) groups.delete(groups.keys().next().value);
    return found;
  };

  const index = async () => {
    const found = await part(0);
    const { rows, cells, samples } = found;
    const families = new Map();
    const lines = rows.sid.map((sid, at) => {
      const cell = cells[rows.cell[at]];
      const line = {
        at, sid, cell,
        sample: samples[rows.sample[at]],
        repeat: rows.repeat[at],
        status: rows.status[at],
        correct: rows.correct[at],
        lost: rows.lost[at] === 1,
        shown: rows.shown[at],
        group: rows.group[at],
        place: rows.at[at],
      };
      const key = JSON.stringify([cell.task, line.sample]);
      line.family = families.get(key) ?? [];
      if (!line.family.length) families.set(key, line.family);
      line.family.push(line);
      return line;
    });
    return { ...found, lines, groups: packed.parts.length - 1 };
  };

  const record = async (line) => {
    const found = await group(line.group);
    return { ...found.rows[line.place], prompt: found.prompts[found.rows[line.place].prompt],
      words: found.tokens };
  };

  return { index, group, record };
})();

const VERDICTS = { "1": "right", "0": "wrong", "-1": "no verdict" };

const verdictOf = (line, index) => {
  const status = index.statuses[line.status];
  return status === "ok" ? VERDICTS[line.correct] : status;
};

const MARKS = { right: "✓", wrong: "✗", "no verdict": "–" };
const markOf = (verdict) => MARKS[verdict] ?? "!";
const toneOf = (verdict) => (verdict === "right" || verdict === "wrong" ? verdict : "other");
