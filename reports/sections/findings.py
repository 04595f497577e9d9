"""The first sentences, and how many rows there are of each status."""

from typing import Any

from reports.analysis import Analysis
from reports.cells import records
from reports.load import Run
from reports.schema import STATUSES
from reports.sections.base import Section
from reports.text import shortened
from reports.verdict import verdicts

MOST_FAILURES = 20


def findings(found: Analysis) -> Section:
    models = found.run.about.get("models", {})
    return Section(
        "findings",
        {
            "verdicts": verdicts(
                found.run,
                found.cells,
                found.traces,
                found.compared,
                found.drafted,
                found.structured,
            ),
            "bundled": [name for name, model in models.items() if _is_bundled(name, model)],
            "statuses": _statuses(found.run),
            "failures": _failures(found),
        },
    )


def _is_bundled(name: str, model: dict[str, Any]) -> bool:
    return bool(model.get("bundled", name.startswith("tiny-")))


def _statuses(run: Run) -> list[tuple[str, int]]:
    counts = run.samples["status"].value_counts()
    return [(status.replace("_", " "), int(counts.get(status, 0))) for status in STATUSES]


def _failures(found: Analysis) -> list[dict[str, Any]]:
    """Rows without a result by run, task, model, status and message, most frequent first."""
    samples = found.run.samples
    bad = samples[~samples["status"].isin(["ok", "not_executed"])]
    if bad.empty:
        return []
    runs = dict(zip(found.cells["cell_id"], found.cells["run"], strict=True))
    kinds = bad.assign(
        run=[runs[cell_id] for cell_id in bad["cell_id"]],
        error=[_message(text) for text in bad["error"]],
    )
    counted = kinds.groupby(["run", "task", "model", "status", "error"], sort=False).size()
    frame = counted.rename("rows").reset_index().sort_values("rows", ascending=False)
    return records(frame.head(MOST_FAILURES))


def _message(error: object) -> str:
    return shortened(error, 300) if isinstance(error, str) and error else "no message"
