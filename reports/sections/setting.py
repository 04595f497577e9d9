"""What was run: models, machines, modes, versions."""

from typing import Any

from reports.analysis import Analysis
from reports.cells import records
from reports.history import judged
from reports.load import Run
from reports.schema import STATUSES
from reports.sections.base import Section
from reports.text import moment

MODES = ("throughput", "latency")


def setting(found: Analysis) -> Section:
    cells, about = found.cells, found.run.about
    return Section(
        "setting",
        {
            "models": {name: _model(model) for name, model in about.get("models", {}).items()},
            "runs": [_run(found, label, run) for label, run in found.members],
            "verdicts": {entry.label: entry for entry in judged(found.run)},
            "modes": modes(found),
            "fewest": int(cells["rows"].min()) if len(cells) else 0,
            "most": int(cells["rows"].max()) if len(cells) else 0,
        },
    )


def modes(found: Analysis) -> list[str]:
    """Those that the run has cells of."""
    cells = found.cells
    return [mode for mode in MODES if len(cells) and (cells["mode"] == mode).any()]


def _run(found: Analysis, label: str, run: Run) -> dict[str, Any]:
    """Where a run was made, and how many rows of each status it has."""
    cells, hardware = found.cells, run.about.get("hardware", {})
    pairs = cells
    if len(cells):
        own = cells[cells["run"] == label]
        pairs = own[["mode", "slots"]].dropna().drop_duplicates()
    statuses = run.samples["status"].value_counts()
    return {
        "label": label,
        "created": moment(run.success.get("created_at")),
        "rows": len(run.samples),
        "statuses": ", ".join(
            f"{statuses[status]:,} {status.replace('_', ' ')}"
            for status in STATUSES
            if status in statuses
        ),
        "device": hardware.get("device", "unknown"),
        "processor": ", ".join(map(str, hardware.get("gpus") or [hardware.get("cpu", "unknown")])),
        "cores": hardware.get("cores"),
        "pool": hardware.get("pool"),
        "threads": hardware.get("threads_per_worker"),
        "slots": ", ".join(f"{row['slots']} ({row['mode']})" for row in records(pairs)),
        "versions": run.about.get("versions", {}),
    }


def _model(model: dict[str, Any]) -> dict[str, str]:
    """A model's line, of what `run.json` says about it."""
    parameters = model.get("parameters")
    facts = [
        f"{parameters / 1e6:,.1f} M parameters" if isinstance(parameters, int | float) else "",
        *(str(model.get(name) or "") for name in ("family", "visibility", "dtype")),
    ]
    return {
        "line": ", ".join(fact for fact in facts if fact),
        "digest": str(model.get("digest") or "").removeprefix("sha256:")[:12],
    }
