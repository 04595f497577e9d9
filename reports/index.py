"""`index.html` of a folder of runs: all of them, newest first, each with its verdict."""

import json
from datetime import UTC, datetime
from pathlib import Path

from markupsafe import Markup

from reports.index_entries import VERDICT, Entry, read, runs
from reports.load import ReportError
from reports.pages import content_policy, inline, write_page
from reports.sections.base import asset, environment
from reports.sparklines import HEIGHT, WIDTH, suites
from reports.text import visible

__all__ = ["VERDICT", "write_index"]


def write_index(root: Path) -> Path:
    """Writes ROOT/index.html from what the runs in ROOT and its folders say; in one step.

    A run is a directory with `run.json` or `verdict.json`, at most two levels down. Of each only
    these, `_SUCCESS.json` and the table of cells are read. A broken run hides no other: it stands
    there as broken, with why.

    Raises:
        ReportError: there is no such folder, or the page cannot be written.
    """
    root = Path(root)
    if not root.is_dir():
        raise ReportError(f"{root} is not a directory: give the folder that the runs are in")
    entries = sorted(
        (read(root, folder) for folder in runs(root)),
        key=lambda entry: (entry.began, entry.name),
        reverse=True,
    )
    out = root / "index.html"
    try:
        write_page(out, _page(root.resolve().name, entries))
    except OSError as error:
        raise ReportError(f"{out} cannot be written: {error.strerror or error}") from error
    return out


def _page(name: str, entries: list[Entry]) -> str:
    script = inline(asset("index.js"))
    template = environment().get_template("index.html.j2")
    return template.render(
        policy=content_policy([script]),
        css=Markup(asset("report.css") + asset("index.css")),
        script=script,
        root=name,
        entries=entries,
        suites=suites(entries),
        names_json=_names_json,
        size={"width": WIDTH, "height": HEIGHT},
        choices={
            "suite": _names([entry.suite for entry in entries]),
            "model": _names([model for entry in entries for model in entry.models]),
            "task": _names([task for entry in entries for task in entry.tasks]),
            "verdict": _names([entry.verdict for entry in entries]),
        },
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M UTC}",
    )


def _names_json(names: tuple[str, ...]) -> str:
    """A list that the page's script reads, its names as the page shows them."""
    return json.dumps([visible(name) for name in names])


def _names(found: list[str]) -> list[str]:
    return sorted({name for name in found if name})
