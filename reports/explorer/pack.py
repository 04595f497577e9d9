"""The explorer's data in a small form: inside the page up to a cap, in files beside it beyond.

Data is JSON, deflated, in base64. A page that is opened from disk may not fetch anything, so that a
file beside it is a script of one call, and the page's policy lets no script in but with a nonce.
The nonce and the files' names are digests of all that the files hold: no text in them can know it,
and a page never takes a file that another one was written with.
"""

import base64
import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from math import isnan
from typing import Any

import pandas as pd

from reports.analysis import Analysis
from reports.cells import records
from reports.explorer.choice import choose
from reports.explorer.reading import details, vocabulary
from reports.explorer.record import Group, Record, record
from reports.load import Run
from reports.schema import STATUSES
from reports.text import figures3, visible

INLINE_BYTES = 700_000
"""Most characters of data inside of a page."""

GROUP_ROWS, GROUP_CHARACTERS = 128, 600_000
"""A group, which is loaded at once, ends with the first sample beyond either."""
BATCH_ROWS = 20_000
SNIPPET = 60


@dataclass(frozen=True)
class Caps:
    """Most of what a page holds; None: no end."""

    rows: int | None = 10_000
    bytes: int | None = 64 * 2**20
    """Of the files beside the page."""


CAPS = Caps()


@dataclass(frozen=True)
class _Source:
    """A run, what it is called, and the page's cells that are its own."""

    run: Run
    label: str
    cells: pd.DataFrame
    mark: str
    """What the page's ids of its cells begin with."""


@dataclass(frozen=True)
class Explorer:
    """What a page needs to show samples."""

    data: dict[str, Any] = field(repr=False)
    """Stands in the page: `parts`, the index and then the groups, as base64 or, where there is a
    `folder`, as [name, integrity] of its files; the `nonce` that they are loaded with."""
    held: int
    """Rows in it."""
    rows: int
    """Rows of the runs."""
    has_words: bool
    """Whether the runs say what their token ids stand for."""
    files: dict[str, str] = field(default_factory=dict, repr=False)
    """Scripts for the folder, by name."""

    @property
    def nonce(self) -> str | None:
        return self.data.get("nonce")


def explore(found: Analysis, folder: str, caps: Caps) -> Explorer:
    """Packs the samples of one or several runs, each of which has an equal part of what fits.

    Args:
        found: the runs of the page.
        folder: of the files beside the page, as the page names it.
        caps: what fits.
    """
    sources = [
        _Source(
            run,
            label or run.run_id,
            found.cells[found.cells["run"] == label] if label else found.cells,
            f"{at}:" if label else "",
        )
        for at, (label, run) in enumerate(found.members)
    ]
    rows, most = (
        None if cap is None else max(1, cap // len(sources)) for cap in (caps.rows, caps.bytes)
    )
    packed = [_Packing(at, source, rows) for at, source in enumerate(sources)]
    groups = list(chain.from_iterable(part.groups(most) for part in packed))
    held = sum(len(part.entries) for part in packed)
    parts = [_packed(_index(sources, packed)), *groups]
    data: dict[str, Any] = {"parts": parts}
    files: dict[str, str] = {}
    if sum(map(len, parts)) > INLINE_BYTES:
        data, files = _apart(parts, folder)
    total = sum(len(source.run.samples) for source in sources)
    return Explorer(data, held, total, all(part.words for part in packed), files)


class _Packing:
    """One run on its way into groups."""

    def __init__(self, at: int, source: _Source, limit: int | None) -> None:
        self._run, self._mark, self._limit, self.at = source.run, source.mark, limit, at
        self.words = vocabulary(source.run)
        self.entries: list[tuple[int, dict[str, Any]]] = []
        """Of each packed row its position in the samples table and its line of the index."""

    def groups(self, most: int | None) -> Iterator[str]:
        """Packed groups, at most so many characters (and one group more)."""
        samples, size, group, characters = self._run.samples, 0, Group(), 0
        chosen = choose(samples, self._limit)
        before: tuple[str, str] | None = None
        number = 0
        for start in range(0, len(chosen), BATCH_ROWS):
            positions = chosen[start : start + BATCH_ROWS]
            for position, (row, found) in zip(
                positions.tolist(), details(self._run, samples.iloc[positions]), strict=True
            ):
                is_full = len(group.rows) >= GROUP_ROWS or characters >= GROUP_CHARACTERS
                if is_full and before != (row["task"], row["sample_id"]):
                    yield (text := _packed(group.content(self.words)))
                    size, group, characters, number = size + len(text), Group(), 0, number + 1
                    if most is not None and size >= most:
                        return
                before = row["task"], row["sample_id"]
                entry = record(group, row, found, _facts(row))
                line = _line(row, entry, [self.at, number, len(group.rows)])
                line["cell"] = self._mark + row["cell_id"]
                self.entries.append((position, line))
                group.rows.append(entry)
                characters += sum(len(entry.get(name, "")) for name in ("output", "detail"))
                characters += len(found["prompt"])
        if group.rows:
            yield _packed(group.content(self.words))


def _line(row: dict[str, Any], entry: Record, where: list[int]) -> dict[str, Any]:
    """What the list and its filters know of a row."""
    shown = next((entry[name] for name in ("answer", "output", "error") if name in entry), "")
    return {
        "sid": visible(row["sid"]),
        "sample": visible(row["sample_id"]),
        "repeat": 0 if pd.isna(row["repeat"]) else int(row["repeat"]),
        "status": STATUSES.index(row["status"]),
        "correct": -1 if pd.isna(row["correct"]) else int(row["correct"]),
        "lost": int(not pd.isna(row["oscillated"]) and bool(row["oscillated"])),
        "shown": shown[:SNIPPET],
        "group": where,
    }


def _facts(row: dict[str, Any]) -> list[str]:
    """What the row cost and when it was right, as short sentences."""

    def has(name: str) -> bool:
        return not pd.isna(row[name])

    facts = []
    if has("repeat") and row["repeat"]:
        facts.append(f"repeat {int(row['repeat'])}")
    if has("converged_step"):
        facts.append(f"right for good from step {int(row['converged_step'])}")
    if has("oscillated") and row["oscillated"]:
        facts.append(f"was right at step {int(row['first_correct_step'])}, lost it")
    if has("early_commit_step"):
        facts.append(f"committed all that was left at step {int(row['early_commit_step'])}")
    if has("nfe"):
        facts.append(f"{int(row['nfe'])} forwards")
    if has("generated_tokens"):
        facts.append(f"{int(row['generated_tokens'])} tokens")
    if has("accepted_tokens") and has("drafted_tokens"):
        facts.append(f"{int(row['accepted_tokens'])} of {int(row['drafted_tokens'])} drafted kept")
    if has("edited_tokens") and row["edited_tokens"]:
        facts.append(f"{int(row['edited_tokens'])} tokens rewritten")
    if has("decode_s") and not isnan(row["decode_s"]):
        facts.append(f"{figures3(float(row['decode_s']))} s of decoding")
    return facts


def _index(sources: Sequence[_Source], packed: Sequence[_Packing]) -> dict[str, Any]:
    """All runs' cells and rows, rows as columns in the order of the runs and cells."""
    cells, lines, first = [], list[dict[str, Any]](), 0
    numbers: list[int] = []
    for at, (source, part) in enumerate(zip(sources, packed, strict=True)):
        order = {cell["cell_id"]: n for n, cell in enumerate(records(source.cells))}
        cells += [_cell(at, cell) for cell in records(source.cells)]
        ordered = sorted(part.entries, key=lambda entry: (order[entry[1]["cell"]], entry[0]))
        for _, line in ordered:
            numbers.append(first + order[line["cell"]])
            lines.append(line)
        first += len(order)
    starts = _starts(packed)
    samples = {name: n for n, name in enumerate(dict.fromkeys(line["sample"] for line in lines))}
    return {
        "runs": [visible(source.label) for source in sources],
        "statuses": [status.replace("_", " ") for status in STATUSES],
        "cells": cells,
        "samples": list(samples),
        "rows": {
            "sid": [line["sid"] for line in lines],
            "cell": numbers,
            "sample": [samples[line["sample"]] for line in lines],
            "repeat": [line["repeat"] for line in lines],
            "status": [line["status"] for line in lines],
            "correct": [line["correct"] for line in lines],
            "lost": [line["lost"] for line in lines],
            "shown": [line["shown"] for line in lines],
            "group": [starts[line["group"][0]] + line["group"][1] for line in lines],
            "at": [line["group"][2] for line in lines],
        },
    }


def _starts(packed: Sequence[_Packing]) -> list[int]:
    """The number of each run's first group among all parts, of which the index is the first."""
    starts, following = [], 1
    for part in packed:
        starts.append(following)
        following += 1 + max((line["group"][1] for _, line in part.entries), default=-1)
    return starts


def _cell(run: int, cell: dict[str, Any]) -> dict[str, Any]:
    return {
        "run": run,
        "id": visible(cell["cell_id"]),
        "task": visible(cell["task"]),
        "series": visible(cell["series"]),
        "steps": int(cell["steps"]),
        "mode": cell["mode"],
        "ar": bool(cell["is_ar"]),
    }


def _packed(content: dict[str, Any]) -> str:
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode("utf-8", "backslashreplace"), 9)).decode()


def _apart(parts: Sequence[str], folder: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The parts as files of a folder, and what the page says of them."""
    files: dict[str, str] = {}
    listed: list[tuple[str, str]] = []
    for part in parts:
        name = f"{hashlib.sha256(part.encode()).hexdigest()[:16]}.js"
        files[name] = f'unmaskPart("{name}","{part}");\n'
        digest = hashlib.sha256(files[name].encode()).digest()
        listed.append((name, f"sha256-{base64.b64encode(digest).decode()}"))
    whole = hashlib.sha256(json.dumps(listed).encode()).digest()
    nonce = base64.b64encode(whole[:18]).decode()
    return {"parts": listed, "folder": folder, "nonce": nonce}, files
