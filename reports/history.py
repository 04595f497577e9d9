"""One model over time: a cell's quality and speed over several runs, with the gate's verdicts."""

import json
from dataclasses import dataclass
from typing import Any

import pandas as pd

from reports.alike import PLACE, unknown
from reports.cells import records
from reports.index_entries import TONES, VERDICT
from reports.load import Run
from reports.plot import (
    Chart,
    Figure,
    Key,
    Panel,
    labelled,
    layout,
    line,
    percent_axis,
    style,
    whiskers,
)
from reports.several import created, members
from reports.statistics import SMALL_N
from reports.text import between, figures3, moment, percent, plot_text, shortened, visible

BAD = tuple(verdict for verdict, tone in TONES.items() if tone == "bad")

QUANTITIES = {
    "accuracy": ("accuracy", "scored", percent),
    "perplexity": ("perplexity (lower is better)", "texts", figures3),
    "samples_per_s": ("samples/s a worker", "timed_samples", figures3),
}
"""Columns of the table of cells: title, count, how it is written."""


@dataclass(frozen=True)
class Judged:
    """A run in the order of time."""

    label: str
    made: str
    verdict: str
    """GO, NO-GO, ...; empty where no gate has looked at it."""
    why: str


def judged(run: Run) -> list[Judged]:
    """The runs, oldest first, with the verdicts that stand beside them."""
    ordered = sorted(members(run), key=lambda entry: created(entry[1]))
    return [_judged(label, member) for label, member in ordered]


def _judged(label: str, run: Run) -> Judged:
    try:
        said = json.loads((run.path / VERDICT).read_bytes())
    except (OSError, ValueError):
        said = {}
    said = said if isinstance(said, dict) else {}
    return Judged(
        label=label,
        made=moment(run.success.get("created_at")),
        verdict=shortened(visible(str(said.get("verdict") or "")), 20),
        why=shortened(visible(str(said.get("why") or "")), 300),
    )


def history_chart(run: Run, cells: pd.DataFrame) -> Chart:
    """The largest budget of each line that two runs or more have measured, against the runs; a
    panel a task and quantity. Speeds are joined only where they were measured alike."""
    order = judged(run)
    if len(order) < 2 or cells.empty:
        return Chart("history", (), ())
    chosen = _repeated(cells)
    styles = {
        name: labelled(style("series", at), name)
        for at, name in enumerate(dict.fromkeys(chosen["what"]))
    }
    panels = []
    for task in dict.fromkeys(chosen["task"]):
        for quantity, (_, count, _) in QUANTITIES.items():
            rows = chosen[(chosen["task"] == task) & (chosen[count] > 0)]
            rows = rows[rows[quantity].notna()]
            if quantity == "samples_per_s":
                rows = rows[[unknown(row) is None for row in records(rows)]]
            if len(rows):
                panels.append(_panel(task, quantity, rows, order, styles))
    return Chart("history", tuple(styles.values()) if panels else (), tuple(panels))


def _repeated(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells of `history_chart`, with a column `what` that says what they are."""
    same = ["task", "line", "mode", "steps"]
    runs = cells[cells["shown"]].groupby(same, sort=False)["run"].transform("nunique")
    rows = cells[cells["shown"]][runs > 1]
    rows = rows[rows["steps"] == rows.groupby(["task", "line"])["steps"].transform("max")]
    steps = ["" if cell["is_ar"] else f", {cell['steps']} steps" for cell in records(rows)]
    return rows.assign(what=[f"{line}{end}" for line, end in zip(rows["line"], steps, strict=True)])


def _panel(
    task: str, quantity: str, rows: pd.DataFrame, order: list[Judged], styles: dict[str, Key]
) -> Panel:
    title, count, _ = QUANTITIES[quantity]
    place = {entry.label: at for at, entry in enumerate(order)}
    x = {
        "range": [-0.4, len(order) - 0.6],
        "tickvals": list(range(len(order))),
        "ticktext": [_tick(entry) for entry in order],
        "title": {"text": "runs, oldest first", "standoff": 8},
    }
    y = (
        percent_axis(title)
        if quantity == "accuracy"
        else {"title": {"text": title, "standoff": 6}, "rangemode": "tozero"}
    )
    figure: Figure = {"data": [], "layout": layout(x, y)}
    groups = ["what"] if quantity != "samples_per_s" else ["what", *PLACE]
    for at, (_, mine) in enumerate(rows.groupby(groups, sort=False)):
        _line(figure, mine, quantity, order, place, styles, 0.04 * at)
    for at, entry in enumerate(order):
        if entry.verdict in BAD:
            figure["layout"]["shapes"].append(_mark(at))
    fewest = int(rows[count].min())
    note = f"{fewest} samples a point or more{' (small n)' if fewest < SMALL_N else ''}"
    return Panel(f"{task}: {title}", note, figure)


def _tick(entry: Judged) -> str:
    """A run's name and, below it, its verdict; bad ones are marked by more than a colour."""
    sign = "✗ " if entry.verdict in BAD else "✓ " if entry.verdict == "GO" else ""
    name = entry.label if len(entry.label) <= 16 else "…" + entry.label[-15:]
    return "<br>".join(filter(None, (plot_text(name), plot_text(f"{sign}{entry.verdict}".strip()))))


def _mark(at: int) -> Figure:
    return {
        "type": "rect",
        "xref": "x",
        "yref": "paper",
        "x0": at - 0.3,
        "x1": at + 0.3,
        "y0": 0,
        "y1": 1,
        "layer": "below",
        "line": {"width": 1.2, "color": "var(--bad)", "dash": "dot"},
    }


def _line(
    figure: Figure,
    rows: pd.DataFrame,
    quantity: str,
    order: list[Judged],
    place: dict[str, int],
    styles: dict[str, Key],
    nudge: float,
) -> None:
    _, count, form = QUANTITIES[quantity]
    rows = rows.assign(at=[place[label] for label in rows["run"]]).sort_values("at")
    key = styles[rows["what"].iloc[0]]
    hover = [_hover(cell, quantity, count, form, order[cell["at"]]) for cell in records(rows)]
    values = rows[quantity].tolist()
    bars = whiskers(key, values, *(rows[f"{quantity}_{end}"].tolist() for end in ("low", "high")))
    x = [at + nudge for at in rows["at"].tolist()]
    figure["data"].append(line(key, x, values, hover, error_y=bars))


def _hover(cell: dict[str, Any], quantity: str, count: str, form: Any, entry: Judged) -> str:
    ends = between(cell[f"{quantity}_low"], cell[f"{quantity}_high"], form)
    said = [
        f"{plot_text(cell['what'])}<br>{plot_text(entry.label)}, {plot_text(entry.made)}",
        f"{form(cell[quantity])} {ends}, n = {int(cell[count])}",
        plot_text(f"{entry.verdict}: {entry.why}") if entry.verdict else "",
    ]
    return "<br>".join(filter(None, said))
