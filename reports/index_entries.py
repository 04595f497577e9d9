"""What a folder of runs says of each, read from small files alone."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from math import inf
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from reports.text import shortened

VERDICT = "verdict.json"
"""What a scheduler leaves in a run: suite, fire, verdict, why, base."""

Tone = Literal["good", "bad", "unsure", "none"]
TONES: dict[str, Tone] = {
    "GO": "good",
    "FIRST": "good",
    "NO-GO": "bad",
    "REFUSED": "bad",
    "FAILED": "bad",
    "INCONCLUSIVE": "unsure",
}
UNFINISHED, BROKEN = "not finished", "broken"

WHY_LIMIT = 400

ACCURACIES = ("flexible", "micro", "pass@1", "acc", "exact_match", "accuracy")
"""Names of a task's headline share among its aggregates, the first that it has."""

_COLUMNS = ("task", "model", "decoder", "steps", "gen_length", "mode", "num_fewshot", "metrics")

Key = tuple[Any, ...]
"""What a cell is known by from run to run: _COLUMNS but for the last."""


@dataclass(frozen=True)
class Entry:
    """A line of the page."""

    name: str
    """The run's directory, from the root."""
    suite: str = ""
    """Of the scheduler; of a run that somebody started the name in its config."""
    began: str = ""
    verdict: str = ""
    tone: Tone = "none"
    why: str = ""
    base: str = ""
    rows: int | None = None
    lost: dict[str, int] = field(default_factory=dict)
    """Rows without a result by status."""
    wall_s: float | None = None
    models: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    accuracies: dict[Key, float] = field(default_factory=dict)
    """Of the cells that have one, in the order of the run."""
    report: str | None = None
    """Relative link, quoted."""
    comparison: str | None = None

    @property
    def failed(self) -> int:
        return sum(self.lost.values())

    @property
    def rows_per_s(self) -> float | None:
        """Rows over the wall time of the whole run, its start included."""
        return self.rows / self.wall_s if self.rows and self.wall_s else None


class BrokenError(Exception):
    """A file of a run is not what it should be."""


def runs(root: Path) -> list[Path]:
    """The run directories of a root folder, at most two levels down."""
    patterns = (f"{depth}/{mark}" for depth in ("*", "*/*") for mark in ("run.json", VERDICT))
    return sorted({path.parent for pattern in patterns for path in root.glob(pattern)})


def read(root: Path, folder: Path) -> Entry:
    """A run's line. What is broken says why; what can be read is there all the same."""
    broken: list[str] = []
    about, success, verdict = (
        _json(folder / name, broken) for name in ("run.json", "_SUCCESS.json", VERDICT)
    )
    said = str(verdict.get("verdict") or ("" if success else UNFINISHED))
    config = about.get("config")
    suite = verdict.get("suite") or (config.get("name") if isinstance(config, dict) else "")
    base = verdict.get("base")
    entry = Entry(
        name=str(folder.relative_to(root)),
        suite=str(suite or ""),
        began=_moment(verdict.get("fire") or (about | success).get("created_at")),
        verdict=said,
        tone=TONES.get(said, "none"),
        why=shortened(str(verdict.get("why") or ""), WHY_LIMIT),
        base=Path(str(base)).name if base else "",
        report=_link(root, folder / "report.html"),
        comparison=_link(root, folder / "comparison.md"),
    )
    try:
        entry = replace(entry, **_counts(success), **_cells(folder, success))
    except BrokenError as error:
        broken.append(str(error))
    if broken:
        why = "; ".join([*broken, *filter(None, [entry.why])])
        name = f"{entry.verdict}, {BROKEN}" if verdict.get("verdict") else BROKEN
        entry = replace(entry, verdict=name, tone="bad", why=shortened(why, WHY_LIMIT))
    return entry


def _json(path: Path, broken: list[str]) -> dict[str, Any]:
    """What a file holds; nothing where there is none."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        broken.append(f"{path.name} cannot be read: {error}")
        return {}
    if not isinstance(content, dict):
        broken.append(f"{path.name} holds no JSON object")
        return {}
    return content


def _counts(success: dict[str, Any]) -> dict[str, Any]:
    if not success:
        return {}
    rows, wall_s = success.get("rows"), success.get("wall_s")
    statuses = success.get("statuses", {})
    if not isinstance(rows, int):
        raise BrokenError("_SUCCESS.json does not count its rows")
    if not isinstance(statuses, dict) or not all(isinstance(n, int) for n in statuses.values()):
        raise BrokenError("_SUCCESS.json does not count its statuses")
    lost = {name: n for name, n in statuses.items() if name not in ("ok", "not_executed")}
    known = float(wall_s) if isinstance(wall_s, int | float) else 0.0
    return {"rows": rows, "lost": lost, "wall_s": known if 0 < known < inf else None}


def _cells(folder: Path, success: dict[str, Any]) -> dict[str, Any]:
    """Models, tasks and accuracies, from the table of cells that `_SUCCESS.json` lists."""
    rows: list[dict[str, Any]] = []
    for path, digest in _listed(success.get("files") or []):
        try:
            content = (folder / path).read_bytes()
            if hashlib.sha256(content).hexdigest() != digest:
                raise BrokenError(f"{path} is not the file that _SUCCESS.json lists")
            with pq.ParquetFile(pa.BufferReader(content)) as file:
                rows += file.read(list(_COLUMNS)).to_pylist(maps_as_pydicts="lossy")
        except (OSError, pa.ArrowException, ValueError) as error:
            raise BrokenError(f"{path} cannot be read: {error}") from error
    accuracies: dict[Key, float] = {}
    for row in rows:
        *key, metrics = (row.get(name) for name in _COLUMNS)
        found: dict[str, float] = dict(metrics or {})
        value = next((found[name] for name in ACCURACIES if name in found), None)
        if value is not None and 0 <= value <= 1:
            accuracies.setdefault(tuple(key), value)
    return {
        "models": tuple(dict.fromkeys(str(row.get("model")) for row in rows)),
        "tasks": tuple(dict.fromkeys(str(row.get("task")) for row in rows)),
        "accuracies": accuracies,
    }


def _listed(entries: object) -> Iterable[tuple[PurePosixPath, object]]:
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise BrokenError("_SUCCESS.json does not list the files of the run")
    for entry in entries:
        if entry.get("table") == "cells":
            path = PurePosixPath(str(entry.get("path")))
            if path.is_absolute() or ".." in path.parts:
                raise BrokenError(f"_SUCCESS.json lists {path}, which lies outside of the run")
            yield path, entry.get("sha256")


def _moment(written: object) -> str:
    """A time stamp in UTC, as it sorts; empty where there is none."""
    try:
        moment = datetime.fromisoformat(str(written)).astimezone(UTC)
    except (ValueError, OverflowError):
        return ""
    return f"{moment:%Y-%m-%d %H:%M}"


def _link(root: Path, path: Path) -> str | None:
    return "./" + quote(str(path.relative_to(root))) if path.is_file() else None
