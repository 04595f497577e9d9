"""The first sentences, and how many rows there are of each status."""

from typing import Any

import pandas as pd

from reports.analysis import Analysis
from reports.cells import records
from reports.load import Run
from reports.schema import STATUSES
from reports.sections.base import Section
from reports.tables import Column, Entry
from reports.text import shortened
from reports.verdict import verdicts

FAILURE_COLUMNS = (
    Column("task", "benchmark", number=False),
    Column("model", "of the row", number=False),
    Column("status", "what became of it", number=False),
    Column("message", "the row's own", number=False, wrapped=True),
    Column("rows", "with this message"),
)


def findings(found: Analysis) -> Section:
    models = found.run.about.get("models", {})
    return Section(
        "findings",
        {
            "verdicts": said(found),
            "bundled": [name for name, model in models.items() if _is_bundled(name, model)],
            "statuses": _statuses(found.run),
            "failure_columns": FAILURE_COLUMNS,
            "failures": _failure_rows(failures(found)),
        },
    )


def said(found: Analysis) -> list[tuple[str, list[str]]]:
    """`verdicts` of what was found."""
    return verdicts(
        found.run, found.cells, found.traces, found.compared, found.drafted, found.structured
    )


def _is_bundled(name: str, model: dict[str, Any]) -> bool:
    return bool(model.get("bundled", name.startswith("tiny-")))


def _statuses(run: Run) -> list[tuple[str, int]]:
    counts = run.samples["status"].value_counts()
    return [(status.replace("_", " "), int(counts.get(status, 0))) for status in STATUSES]


def failures(found: Analysis) -> pd.DataFrame:
    """Rows without a result by run, task, model, status and message, most frequent first."""
    names = ["run", "task", "model", "status", "error"]
    samples = found.run.samples
    bad = samples[~samples["status"].isin(["ok", "not_executed"])]
    if bad.empty:
        return pd.DataFrame(columns=[*names, "rows"])
    runs = dict(zip(found.cells["cell_id"], found.cells["run"], strict=True))
    kinds = bad.assign(
        run=[runs[cell_id] for cell_id in bad["cell_id"]],
        error=[_message(text) for text in bad["error"]],
    )
    counted = kinds.groupby(names, sort=False).size()
    return counted.rename("rows").reset_index().sort_values("rows", ascending=False, kind="stable")


def _failure_rows(counted: pd.DataFrame) -> list[list[Entry]]:
    return [
        [
            Entry(row["task"], row["run"], row["task"]),
            Entry(row["model"], order=row["model"]),
            Entry(row["status"].replace("_", " "), order=row["status"]),
            Entry(row["error"], order=row["error"]),
            Entry(f"{row['rows']:,}", order=row["rows"]),
        ]
        for row in records(counted)
    ]


def _message(error: object) -> str:
    return shortened(error, 300) if isinstance(error, str) and error else "no message"
