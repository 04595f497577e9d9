"""The report's first sentences, computed from its numbers."""

from collections.abc import Sequence
from math import nan
from typing import Any

import pandas as pd

from reports.cells import CHANCE, LIKELIHOOD, records
from reports.convergence import Convergence
from reports.load import Run
from reports.speed import Speedup, kept_accuracy
from reports.statistics import SMALL_N
from reports.structure import UNSTRUCTURED, Structured
from reports.text import between, figures3, percent, times

KEEPS = 0.9
"""A smaller budget is named if it keeps at least this share of the full budget's accuracy."""

MOST_LINES = 6
"""Lines of a task that are put into words; a sweep's other ones stand in the table."""

FEW_RIGHT = 5
"""With fewer right answers than this, nothing is said about steps."""


def verdicts(
    run: Run,
    cells: pd.DataFrame,
    traces: list[Convergence],
    compared: dict[str, Speedup],
    drafted: dict[str, Speedup] | None = None,
    structured: Sequence[Structured] = (),
) -> list[tuple[str, list[str]]]:
    """(task, a paragraph a line) for each task; those that say something about steps first.
    `compared` is with autoregression, `drafted` with speculative decoding."""
    found = []
    by_category = {cell.cell_id: cell for cell in structured}
    for task in dict.fromkeys(cells["task"]) if len(cells) else []:
        here = cells[cells["task"] == task]
        shown = here[here["shown"]]
        largest = (
            shown[~shown["is_ar"]]
            .sort_values("steps", kind="stable")
            .drop_duplicates("series", keep="last")
        )
        named: set[str] = set()
        parts = _drafts(here, compared, drafted or {})
        for cell in records(largest.sort_index().head(MOST_LINES)):
            writes = cell["decoder"] != LIKELIHOOD
            speed = _against(cell, here, compared, named) if writes else ""
            told = _series(run, cell, shown, traces)
            if cell["cell_id"] in by_category:
                told = _structure(str(cell["series"]), by_category[cell["cell_id"]])
            parts.append(" ".join((told, speed)).strip())
        if len(largest) > MOST_LINES:
            parts.append(f"{len(largest) - MOST_LINES} more: see the table of all cells.")
        for cell in records(shown[shown["is_ar"]]):
            if cell["series"] not in named:
                parts.append(f"Autoregressive {cell['series']}: {_quality(cell)}.")
        telling = int((largest["right"] >= FEW_RIGHT).any()) * 2 + int(largest["texts"].any())
        found.append((-telling, task, parts))
    return [(task, text) for _, task, text in sorted(found, key=lambda entry: entry[0])]


def _drafts(
    here: pd.DataFrame, compared: dict[str, Speedup], drafted: dict[str, Speedup]
) -> list[str]:
    """What the fastest of several cells with drafts came to, if it can be compared."""
    known = {key: value for key, value in drafted.items() if value.why_not is None}
    lines = here[here["cell_id"].isin(known.keys()) & here["acceptance"].notna()]
    if not len(lines):
        return []
    best = records(lines.sort_values("tokens_per_s", ascending=False, kind="stable"))[0]
    second, first = known[best["cell_id"]].tokens, compared[best["cell_id"]]
    ends = between(best["acceptance_low"], best["acceptance_high"], percent)
    text = (
        f"Fastest of {len(lines)} that draft: {best['series']}. Of its drafts "
        f"{percent(best['acceptance'])} {ends} are accepted, {figures3(best['kept_a_draft'])} "
        f"tokens of each; it writes {times(second.value)} "
        f"{between(second.low, second.high, times)} the tokens/s of speculative decoding"
    )
    if first.why_not is None:
        ends = between(first.tokens.low, first.tokens.high, times)
        text += f" and {times(first.tokens.value)} {ends} those of autoregression"
    return [f"{text} (the best of several flatters)." if len(lines) > 1 else f"{text}."]


def _series(run: Run, cell: dict[str, Any], here: pd.DataFrame, traces: list[Convergence]) -> str:
    """What one line of the charts shows at its largest budget."""
    who = str(cell["series"])
    if cell["scored"]:
        return _accuracy(run, who, cell, here, traces)
    if cell["texts"] and cell["decoder"] == LIKELIHOOD:
        return _corpus(cell)
    if cell["texts"]:
        return _perplexity(who, cell, here)
    if cell["not_executed"]:
        return (
            f"{who}: {cell['not_executed']} programs at {cell['steps']} steps were written and not "
            "executed (no sandbox), so there is no accuracy."
        )
    return f"{who}: none of {cell['rows']} rows at {cell['steps']} steps has a result."


def _accuracy(
    run: Run, who: str, cell: dict[str, Any], here: pd.DataFrame, traces: list[Convergence]
) -> str:
    n, chance = int(cell["scored"]), CHANCE.get(cell["benchmark"], -1.0)
    parts = [
        f"{who} gets {percent(cell['accuracy'], n)} right "
        f"{between(cell['accuracy_low'], cell['accuracy_high'], percent)} at {cell['steps']} steps "
        f"(n = {n}{', small' if n < SMALL_N else ''}"
        + (f"; guessing gives {percent(chance)}" if chance >= 0 else "")
        + ")."
    ]
    if cell["right"] < FEW_RIGHT:
        return parts[0] + f" With {cell['right']} right, steps cannot be judged here."
    if cell["accuracy_low"] <= chance <= cell["accuracy_high"]:
        return parts[0] + " That is not told from guessing, so steps cannot be judged here."
    smaller = here[(here["series"] == cell["series"]) & (here["steps"] < cell["steps"])]
    enough = smaller[smaller["accuracy"] >= KEEPS * cell["accuracy"]].sort_values("steps")
    if len(enough):
        less = records(enough)[0]
        kept = kept_accuracy(run, less["cell_id"], cell["cell_id"])
        ends = between(kept.low, kept.high, percent)
        parts.append(f"{less['steps']} steps give {percent(kept.value)} of that {ends}.")
    elif len(smaller):
        parts.append(f"No smaller budget measured keeps {percent(KEEPS)} of that.")
    for trace in traces:
        if trace.cell_id == cell["cell_id"] and trace.right:
            half = trace.at[0.5]
            parts.append(
                f"Of the finally right answers {percent(half.value)} "
                f"{between(half.low, half.high, percent)} were right for good by half the steps."
            )
    return " ".join(parts)


def _structure(who: str, cell: Structured) -> str:
    """How many of the unstructured text's tokens a forward the other categories get."""
    told = [
        f"{group.category} {times(group.per_forward_ratio.value)} "
        f"{between(group.per_forward_ratio.low, group.per_forward_ratio.high, times)}".rstrip()
        for group in cell.groups
        if group.per_forward_ratio is not None
    ]
    plain = [group for group in cell.groups if group.category == UNSTRUCTURED]
    if not plain or not told:
        return f"{who}: {sum(group.rows for group in cell.groups)} texts, without right answers."
    base = plain[0].per_forward
    return (
        f"{who} writes {figures3(base.value)} tokens a forward of {UNSTRUCTURED} "
        f"{between(base.low, base.high)}; of that, {', '.join(told)}."
    )


def _perplexity(who: str, cell: dict[str, Any], here: pd.DataFrame) -> str:
    fewest = records(here[here["series"] == cell["series"]].sort_values("steps"))[0]
    ends = between(cell["perplexity_low"], cell["perplexity_high"])
    text = f"{who}: perplexity {figures3(cell['perplexity'])} {ends} at {cell['steps']} steps"
    if fewest["cell_id"] != cell["cell_id"]:
        text += f", {figures3(fewest['perplexity'])} at {fewest['steps']}"
    return f"{text} (lower is better)."


def _corpus(cell: dict[str, Any]) -> str:
    ends = between(cell["perplexity_low"], cell["perplexity_high"])
    kind = "at most" if cell["is_bound"] else "exactly"
    value = f"{figures3(cell['perplexity'])} {ends}".rstrip()
    text = f"{cell['model']}: perplexity {kind} {value} a token of {counted_tokens(cell)}"
    draws = cell["numbers"].get("mc_num", nan)
    if cell["is_bound"]:
        return f"{text}: a bound, from {draws:.0f} draws a text."
    return f"{text}."


def counted_tokens(cell: dict[str, Any]) -> str:
    """How many tokens of whose tokenizer, in how many texts."""
    tokens, texts = cell["numbers"].get("tokens", nan), int(cell["texts"])
    whose = cell["remarks"].get("tokenizer", cell["model"])
    return f"{whose}'s tokenizer ({figures3(tokens)} in {texts:,} texts)"


def _against(
    cell: dict[str, Any], here: pd.DataFrame, compared: dict[str, Speedup], named: set[str]
) -> str:
    """The baseline's speed over the cell's and, unless it was named before, its quality."""
    speedup = compared[cell["cell_id"]]
    if speedup.why_not is not None:
        said = speedup.why_not in named
        named.add(speedup.why_not)
        return "" if said else f"Not compared with autoregression: {speedup.why_not}."
    baseline = records(here[here["cell_id"] == speedup.baseline_id])[0]
    ratio = speedup.samples
    ends = between(1 / ratio.high, 1 / ratio.low, times)
    facts = [f"{times(1 / ratio.value)} {ends}".rstrip() + f" as many samples/s ({cell['mode']})"]
    if baseline["series"] not in named and (baseline["scored"] or baseline["texts"]):
        facts.insert(0, _quality(baseline))
    named.add(baseline["series"])
    return f"Autoregressive {baseline['series']}: {', '.join(facts)}."


def _quality(cell: dict[str, Any]) -> str:
    if cell["scored"]:
        ends = between(cell["accuracy_low"], cell["accuracy_high"], percent)
        return f"{percent(cell['accuracy'], int(cell['scored']))} right {ends}"
    if cell["texts"]:
        ends = between(cell["perplexity_low"], cell["perplexity_high"])
        return f"perplexity {figures3(cell['perplexity'])} {ends}".rstrip()
    return "no quality to state"
