"""What was run: models, machine, mode, versions."""

from typing import Any

from reports.analysis import Analysis
from reports.cells import records
from reports.sections.base import Section

MODES = ("throughput", "latency")


def setting(found: Analysis) -> Section:
    cells, about = found.cells, found.run.about
    hardware = about.get("hardware", {})
    pairs = cells[["mode", "slots"]].dropna().drop_duplicates() if len(cells) else cells
    return Section(
        "setting",
        {
            "models": {name: _model(model) for name, model in about.get("models", {}).items()},
            "device": hardware.get("device", "unknown"),
            "processor": ", ".join(
                map(str, hardware.get("gpus") or [hardware.get("cpu", "unknown")])
            ),
            "cores": hardware.get("cores"),
            "pool": hardware.get("pool"),
            "threads": hardware.get("threads_per_worker"),
            "slots": ", ".join(f"{row['slots']} ({row['mode']})" for row in records(pairs)),
            "modes": modes(found),
            "versions": about.get("versions", {}),
            "fewest": int(cells["rows"].min()) if len(cells) else 0,
            "most": int(cells["rows"].max()) if len(cells) else 0,
        },
    )


def modes(found: Analysis) -> list[str]:
    """Those that the run has cells of."""
    cells = found.cells
    return [mode for mode in MODES if len(cells) and (cells["mode"] == mode).any()]


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
