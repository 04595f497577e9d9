"""The report for a pull request: findings, cells, failures and what must be known of them."""

from typing import Any

from reports.alike import place_text, unknown
from reports.analysis import Analysis
from reports.cells import records
from reports.counts import count_text, counted_rows, quality_text
from reports.history import judged
from reports.sections.findings import failures, said
from reports.sections.speed import refusals
from reports.speed import Speedup
from reports.statistics import SMALL_N
from reports.text import between, figures3, markdown_text, shortened, times

HEADS = ("model · decoder", "mode", "steps", "n", "quality", "NFE", "tok/fwd", "samples/s", "vs AR")
LEFT = ("model · decoder", "mode", "quality")
MOST_FAILURES = 10
MOST_REFUSALS = 10


def markdown(found: Analysis) -> str:
    """The whole text. Names, messages and whatever else a model or a data set wrote are escaped."""
    lines = [f"## {markdown_text(_title(found))}", ""]
    for task, sentences in said(found):
        lines += [f"**{markdown_text(task)}**: {markdown_text(' '.join(sentences))}", ""]
    for task in found.tasks:
        lines += _table(found, task)
    lines += _failures(found)
    return "\n".join([*lines, *(f"- {note}" for note in _notes(found))]).rstrip() + "\n"


def _title(found: Analysis) -> str:
    rows = f"{len(found.cells)} cells, {len(found.run.samples):,} rows"
    return f"{', '.join(found.labels) or found.run.run_id}: {rows}"


def _table(found: Analysis, task: str) -> list[str]:
    rows = records(found.cells[found.cells["task"] == task])
    aligned = (" --- " if head in LEFT else " ---: " for head in HEADS)
    lines = [f"### {markdown_text(task)}", "", _line(HEADS), f"|{'|'.join(aligned)}|"]
    for cell in rows:
        shown = _cells(cell, found.compared.get(cell["cell_id"]))
        lines.append(_line(tuple(map(markdown_text, shown))))
    return [*lines, ""]


def _line(entries: tuple[str, ...]) -> str:
    return f"| {' | '.join(entries)} |"


def _cells(cell: dict[str, Any], speedup: Speedup | None) -> tuple[str, ...]:
    small = " (small)" if counted_rows(cell) < SMALL_N else ""
    against = "AR" if cell["is_ar"] else "–"
    if speedup is not None and speedup.why_not is None:
        ratio = speedup.samples
        ends = between(ratio.low, ratio.high, times)
        against = f"{times(ratio.value)} {ends}".rstrip()
    return (
        shortened(cell["series"], 120),
        cell["mode"],
        str(cell["steps"]),
        f"{count_text(cell)}{small}",
        quality_text(cell),
        figures3(cell["nfe"]),
        figures3(cell["tokens_per_forward"]),
        figures3(cell["samples_per_s"]),
        against,
    )


def _failures(found: Analysis) -> list[str]:
    counted = records(failures(found))
    if not counted:
        return []
    lines = ["### Failed rows", "", "| rows | task | model | status | message |"]
    lines.append("| ---: | --- | --- | --- | --- |")
    for row in counted[:MOST_FAILURES]:
        words = (str(row["rows"]), row["task"], row["model"], row["status"])
        lines.append(_line((*map(markdown_text, words), markdown_text(row["error"]))))
    if len(counted) > MOST_FAILURES:
        lines.append(f"| | and {len(counted) - MOST_FAILURES} kinds more | | | |")
    return [*lines, ""]


def _notes(found: Analysis) -> list[str]:
    """What was run where, what is not compared, and how to read the numbers."""
    statuses = {str(key): n for key, n in found.run.samples["status"].value_counts().items()}
    notes = [
        ", ".join(f"{count:,} {status.replace('_', ' ')}" for status, count in statuses.items())
    ]
    cells = records(found.cells)
    places = {f"{cell['mode']}: {place_text(cell)}" for cell in cells if unknown(cell) is None}
    notes += [markdown_text(place) for place in sorted(places)]
    for run in judged(found.run):
        if run.verdict:
            notes.append(markdown_text(f"{run.label} {run.verdict}: {run.why}".strip()))
    refused = refusals(found)
    notes += [f"not compared: {markdown_text(line)}" for line in refused[:MOST_REFUSALS]]
    if len(refused) > MOST_REFUSALS:
        notes.append(f"not compared: {len(refused) - MOST_REFUSALS} cells more")
    notes.append(
        "Brackets are 95% intervals over samples (Wilson; BCa bootstrap). samples/s: one worker's, "
        "decoding alone. vs AR: same samples, device, slots, mode and dtype. "
        f"Small: n below {SMALL_N}."
    )
    return [note for note in notes if note]
