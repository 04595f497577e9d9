"""What the page shows of one row: its texts, and the trace in a form that a script replays."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from reports.explorer.reading import whole
from reports.text import visible

PROMPT_ENDS = 1_500, 6_000
"""Characters of a long prompt that are shown: of its beginning, and of its end, where the question
stands."""
LONGEST = 20_000
"""Characters of any other text."""

Record = dict[str, Any]


@dataclass
class Group:
    """Rows that are loaded together, with the tokens and prompts that they share."""

    rows: list[Record] = field(default_factory=list)
    _prompts: dict[str, int] = field(default_factory=dict)
    _tokens: dict[tuple[str, int], int] = field(default_factory=dict)

    def prompt(self, text: str) -> int:
        return self._prompts.setdefault(text, len(self._prompts))

    def tokens(self, model: str, ids: npt.NDArray[np.int32]) -> list[int]:
        """The group's own number of each id."""
        known, places = np.unique(ids, return_inverse=True)
        own = [
            self._tokens.setdefault((model, token), len(self._tokens)) for token in known.tolist()
        ]
        return [own[place] for place in places.tolist()]

    def content(self, vocabulary: dict[tuple[str, int], Any]) -> Record:
        return {
            "prompts": list(self._prompts),
            "tokens": [vocabulary.get(key, [2, key[1]]) for key in self._tokens],
            "rows": self.rows,
        }


def record(group: Group, row: dict[str, Any], found: Record, facts: Sequence[str]) -> Record:
    """The row's entry in a group."""
    entry: Record = {
        "sid": row["sid"],
        "prompt": group.prompt(_prompt(found["prompt"])),
        "target": _text(found["target"]),
        "output": _text(found["output_text"]),
        "answer": _text(row["answer"]),
        "category": _text(row["category"]),
        "error": _text(row["error"]),
        "detail": _text(row["detail"]),
        "facts": list(facts),
    }
    ids = np.array(found["output_ids"] or [], dtype=np.int32)
    if not pd.isna(row["generated_tokens"]):
        entry["end"] = int(row["generated_tokens"])
    if found["trace"] is not None:
        entry["trace"] = _trace(group, row["model"], found["trace"], ids)
    elif len(ids):
        entry["canvas"] = group.tokens(row["model"], ids)
        if found["commit_steps"] and len(found["commit_steps"]) == len(ids):
            entry["order"] = found["commit_steps"]
    return {name: value for name, value in entry.items() if value is not None}


def _trace(group: Group, model: str, steps: Record, ids: npt.NDArray[np.int32]) -> Record:
    answers: dict[str, int] = {}
    places = steps["committed"].astype(np.int64)
    size = max(len(ids), int(places.max()) + 1 if len(places) else 0)
    last = np.full(size, -1, np.int64)
    last[places] = steps["tokens"]  # of several writes to a place the last one stays
    found = {
        "size": size,
        "counts": steps["counts"].tolist(),
        "places": places.tolist(),
        "tokens": group.tokens(model, steps["tokens"].astype(np.int32)),
        **_confidence(steps["confidence"].astype(np.float64)),
        "left": steps["masked_left"].tolist(),
        "nfe": steps["nfe"].tolist(),
        "said": [
            -1 if answer is None else answers.setdefault(_text(answer) or "", len(answers))
            for answer in steps["answer"].tolist()
        ],
        "right": steps["correct"].tolist(),
        "gap": steps["top2_gap"].tolist(),
        "entropy": steps["entropy"].tolist(),
        "settled": steps["top1_share"].tolist(),
        "elapsed": steps["elapsed_s"].tolist(),
        "answers": list(answers),
    }
    if not np.array_equal(last[: len(ids)], ids):
        found["canvas"] = group.tokens(model, ids)
    return found


def _confidence(values: npt.NDArray[np.float64]) -> Record:
    """Thousandths of a probability, -1 for none; of another quantity thousandths of its range in
    this sample, with the range."""
    known = values[np.isfinite(values)]
    if len(known) and (known.min() < 0 or known.max() > 1.0001):
        low, high = float(known.min()), float(known.max())
        scaled = (values - low) / (high - low) if high > low else values - low
        return {"sure": whole(scaled, 1000).tolist(), "range": [round(low, 3), round(high, 3)]}
    return {"sure": whole(values, 1000).tolist()}


def _text(text: object) -> str | None:
    if not isinstance(text, str):
        return None
    shown = visible(text[:LONGEST])
    return shown if len(text) <= LONGEST else f"{shown} … [{len(text) - LONGEST:,} more characters]"


def _prompt(text: str) -> str:
    head, tail = PROMPT_ENDS
    left_out = len(text) - head - tail
    if left_out <= 0:
        return visible(text)
    return f"{visible(text[:head])} … [{left_out:,} characters] … {visible(text[-tail:])}"
