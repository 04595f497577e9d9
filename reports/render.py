"""`report.html`: one file that opens from disk and asks nothing of any network."""

import base64
import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from reports.analysis import Analysis, analyse
from reports.load import ReportError, Run
from reports.sections.base import Section, asset, environment
from reports.sections.cells import all_cells
from reports.sections.convergence import convergence
from reports.sections.findings import findings
from reports.sections.notes import notes
from reports.sections.quality import quality
from reports.sections.samples import samples
from reports.sections.setting import setting
from reports.sections.speed import speed
from reports.sections.structure import structure
from reports.text import moment, script_json

SCRIPTS = ("report.js",)
"""The page's own scripts below `html/`, in the order in which they run, after plotly."""


def render(run_dir: Path, out: Path | None = None) -> Path:
    """Writes the report of a finished run to `out` (default: RUN/report.html), atomically.

    Raises ReportError where the run is missing, unfinished or not what it says it is, and where
    `out` cannot be written.
    """
    return write_report(analyse(Path(run_dir)), out)


def write_report(found: Analysis, out: Path | None = None) -> Path:
    """Writes the page of one or several runs to `out`, atomically. The default is report.html in
    the run, or in the working directory where there are several.

    Raises ReportError where `out` cannot be written.
    """
    out = Path(out or ("" if len(found.members) > 1 else found.run.path) / Path("report.html"))
    text = page(found)
    try:
        write_page(out, text)
    except OSError as error:
        raise ReportError(f"{out} cannot be written: {error.strerror or error}") from error
    return out


def page(run: Run | Analysis) -> str:
    """The whole report as HTML text."""
    found = analyse(run)
    return assemble(
        found,
        (
            findings(found),
            setting(found),
            quality(found),
            convergence(found),
            speed(found),
            structure(found),
            all_cells(found),
            samples(found),
            notes(found),
        ),
    )


def assemble(found: Analysis, sections: Sequence[Section]) -> str:
    """The sections in one page, with what they are drawn by."""
    run = found.run
    scripts = [_inline(text) for text in (get_plotlyjs(), *map(asset, SCRIPTS))]
    figures = {name: figure for part in sections for name, figure in part.figures().items()}
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            policy=_policy(*scripts),
            css=Markup(asset("report.css")),
            title=", ".join(found.labels) or run.run_id,
            runs=len(found.members),
            created=moment(run.success.get("created_at")),
            wall_s=run.success.get("wall_s"),
            cells=len(found.cells),
            rows=len(run.samples),
            sections=[section.html() for section in sections],
            figures=Markup(script_json(figures)),
            scripts=scripts,
        )
    )


def _inline(script: str) -> Markup:
    """A script's text as it will be read back from a page, or ReportError if it cannot be."""
    script = script.replace("\r\n", "\n").replace("\r", "\n")
    lowered = script.lower()
    if "</script" in lowered or ("<!--" in lowered and "<script" in lowered):
        raise ReportError("the installed plotly holds text that ends a script element: try another")
    return Markup(script)


def _policy(*scripts: str) -> str:
    """Content-Security-Policy: no network at all, no script but the page's own.

    Inline styles stay allowed: plotly adds style elements and attributes of its own. They cannot
    leak anything where nothing may be requested.
    """
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    allowed = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def write_page(out: Path, text: str) -> None:
    """A reader sees the old page or the new one, never half of it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{out.name}.", dir=out.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, out)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
