"""`report.html`: one file that opens from disk and asks nothing of any network."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from reports.analysis import Analysis, analyse
from reports.beside import replaced, tables_of
from reports.explorer.folder import folder_of, publish
from reports.explorer.pack import CAPS, Caps, Explorer, explore
from reports.frames import frames
from reports.load import ReportError, Run
from reports.pages import content_policy, inline
from reports.sections.base import Section, asset, environment
from reports.sections.cells import all_cells
from reports.sections.convergence import convergence
from reports.sections.files import numbers
from reports.sections.findings import findings
from reports.sections.history import history
from reports.sections.notes import notes
from reports.sections.quality import quality
from reports.sections.samples import samples
from reports.sections.setting import setting
from reports.sections.speed import speed
from reports.sections.structure import structure
from reports.text import moment, script_json

SCRIPTS = (
    "report.js",
    "tables.js",
    "explorer/data.js",
    "explorer/replay.js",
    "explorer/list.js",
    "explorer/canvas.js",
    "explorer/sample.js",
    "explorer/explorer.js",
)
"""Parts of the page's own script below `html/`, in their order; it runs after plotly."""

_HEADING = re.compile(r'<h2 id="([a-z-]+)">([^<]+)</h2>')

STYLES = ("report.css", "explorer/explorer.css")


def render(run_dir: Path, out: Path | None = None, caps: Caps = CAPS) -> Path:
    """Writes the report of a finished run to `out` (default: RUN/report.html), atomically.

    Raises ReportError where the run is missing, unfinished or not what it says it is, and where
    `out` cannot be written.
    """
    return write_report(analyse(Path(run_dir)), out, caps)


def write_report(found: Analysis, out: Path | None = None, caps: Caps = CAPS) -> Path:
    """Writes the page of one or several runs to `out`, atomically, and, where they are too many for
    a page, the samples that `caps` lets in to a folder beside it; its numbers as tables to another.
    The default is report.html in the run, or in the working directory where there are several.

    Raises ReportError where `out` cannot be written.
    """
    out = Path(out or ("" if len(found.members) > 1 else found.run.path) / Path("report.html"))
    tables = frames(found)
    text, files = _page(found, out, tables, caps)
    try:
        with replaced(tables_of(out), tables):
            publish(out, text, files)
    except OSError as error:
        raise ReportError(f"{out} cannot be written: {error.strerror or error}") from error
    return out


def beside(page: Path) -> list[Path]:
    """The files of the folders that belong to a page."""
    folders = (tables_of(page), folder_of(page))
    return [path for folder in folders for path in sorted(folder.glob("*"))]


def page(run: Run | Analysis) -> str:
    """The whole report as HTML text, as it stands in `report.html`."""
    found = analyse(run)
    return _page(found, Path("report.html"), frames(found), CAPS)[0]


def _page(
    found: Analysis, out: Path, tables: Mapping[str, pd.DataFrame], caps: Caps
) -> tuple[str, Mapping[str, str]]:
    """The page that is to stand at `out`, and the files of its folder."""
    explorer = explore(found, folder_of(out).name, caps)
    sections = (
        findings(found),
        setting(found),
        history(found),
        quality(found),
        convergence(found),
        speed(found),
        structure(found),
        all_cells(found),
        samples(explorer),
        numbers(tables, tables_of(out).name),
        notes(found),
    )
    return assemble(found, sections, explorer), explorer.files


def assemble(found: Analysis, sections: Sequence[Section], explorer: Explorer) -> str:
    """The sections in one page, with what they are drawn by."""
    run = found.run
    own = "\n".join(['"use strict";', "{", *map(asset, SCRIPTS), "}"])
    scripts = [inline(text) for text in (get_plotlyjs(), own)]
    figures = {name: figure for part in sections for name, figure in part.figures().items()}
    parts = [section.html() for section in sections]
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            policy=content_policy(scripts, explorer.nonce),
            css=Markup("\n".join(map(asset, STYLES))),
            title=", ".join(found.labels) or run.run_id,
            runs=len(found.members),
            created=moment(run.success.get("created_at")),
            wall_s=run.success.get("wall_s"),
            cells=len(found.cells),
            rows=len(run.samples),
            contents=[heading for part in parts for heading in _HEADING.findall(part)],
            sections=parts,
            figures=Markup(script_json(figures)),
            explorer=Markup(script_json(explorer.data)),
            scripts=scripts,
        )
    )
