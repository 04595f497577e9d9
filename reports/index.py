"""`index.html` of a folder of runs: all of them, newest first, each with its verdict."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from reports.load import ReportError
from reports.pages import write_page
from reports.text import shortened, visible

VERDICT = "verdict.json"
"""What a scheduler leaves in a run: suite, fire, verdict, why, base."""

TONES = {"GO": "good", "FIRST": "good", "NO-GO": "bad", "REFUSED": "bad", "FAILED": "bad"}

WHY_LIMIT = 400


@dataclass(frozen=True)
class Entry:
    """A line of the page."""

    name: str
    """The run's directory, from the root."""
    suite: str
    began: str
    verdict: str
    tone: str
    why: str
    base: str
    rows: int | None
    statuses: str
    """Of rows without a result; empty if there are none."""
    wall_s: float | None
    report: str | None
    """Relative link, quoted."""
    comparison: str | None


def write_index(root: Path) -> Path:
    """Writes ROOT/index.html from what the runs in ROOT and its folders say; in one step.

    A run is a directory with `run.json` or `verdict.json`, at most two levels down. What cannot be
    read of it is left empty: one broken run must not hide the others.

    Raises:
        ReportError: the page cannot be written.
    """
    entries = sorted(
        (_entry(root, folder) for folder in runs(root)),
        key=lambda entry: (entry.began, entry.name),
        reverse=True,
    )
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    pages = files("reports").joinpath("html")
    text = environment.from_string(pages.joinpath("index.html.j2").read_text("utf-8")).render(
        css=Markup(pages.joinpath("report.css").read_text("utf-8")),
        entries=entries,
        root=root.name,
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M UTC}",
    )
    out = root / "index.html"
    try:
        write_page(out, text)
    except OSError as error:
        raise ReportError(f"{out} cannot be written: {error.strerror or error}") from error
    return out


def runs(root: Path) -> list[Path]:
    """The run directories of a root folder."""
    patterns = (f"{depth}/{mark}" for depth in ("*", "*/*") for mark in ("run.json", VERDICT))
    return sorted({path.parent for pattern in patterns for path in root.glob(pattern)})


def _entry(root: Path, folder: Path) -> Entry:
    about, success = _json(folder / "run.json"), _json(folder / "_SUCCESS.json")
    verdict = _json(folder / VERDICT)
    statuses = success.get("statuses")
    lost = {
        str(status): count
        for status, count in (statuses.items() if isinstance(statuses, dict) else ())
        if status not in ("ok", "not_executed")
    }
    said = str(verdict.get("verdict") or ("" if success else "not finished"))
    base = verdict.get("base")
    return Entry(
        name=str(folder.relative_to(root)),
        suite=str(verdict.get("suite") or ""),
        began=_moment(verdict.get("fire") or (about | success).get("created_at")),
        verdict=said,
        tone=TONES.get(said, "none"),
        why=shortened(str(verdict.get("why") or ""), WHY_LIMIT),
        base=Path(str(base)).name if base else "",
        rows=success["rows"] if isinstance(success.get("rows"), int) else None,
        statuses=", ".join(f"{count} {status}" for status, count in sorted(lost.items())),
        wall_s=success["wall_s"] if isinstance(success.get("wall_s"), int | float) else None,
        report=_link(root, folder / "report.html"),
        comparison=_link(root, folder / "comparison.md"),
    )


def _json(path: Path) -> dict[str, Any]:
    """What a file holds, or nothing."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _moment(written: object) -> str:
    """A time stamp in UTC, as it sorts; empty where there is none."""
    try:
        moment = datetime.fromisoformat(str(written))
    except ValueError:
        return ""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"


def _link(root: Path, path: Path) -> str | None:
    return "./" + quote(str(path.relative_to(root))) if path.is_file() else None


def _finalize(value: Any) -> Any:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
