"""`python -m jobs.report`: the report of finished runs, made again from their Parquet files, and
the page of all runs of a folder."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.errors import run_main
from jobs.progress import console
from reports.analysis import analyse
from reports.explorer.pack import CAPS, Caps
from reports.index import write_index
from reports.load import ReportError
from reports.markdown import markdown
from reports.pages import write_page
from reports.render import write_report
from reports.several import load_all
from reports.terminal_structure import summaries


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m jobs.report",
        description="Write the HTML report of finished runs and print their summary table.",
    )
    parser.add_argument(
        "runs", nargs="*", type=Path, metavar="RUN", help="run directory; several are compared"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="default: report.html in the run; of several runs: report.html here",
    )
    parser.add_argument(
        "--format",
        choices=("html", "markdown"),
        default="html",
        help="markdown: for a pull request; printed, or written to --out",
    )
    parser.add_argument(
        "--samples",
        type=_caps,
        default=CAPS,
        metavar="N|all",
        help=f"rows to explore in the page; default: {CAPS.rows:,}, or what fits",
    )
    parser.add_argument(
        "--index",
        type=Path,
        metavar="ROOT",
        help="write ROOT/index.html instead: all runs in ROOT and its folders",
    )
    options = parser.parse_args(arguments)
    if bool(options.runs) == (options.index is not None):
        parser.error("give either runs, or the folder of all runs with --index")
    screen = console()
    if options.index is not None:
        screen.print(f"index: {write_index(options.index)}", soft_wrap=True)
        return 0
    found = analyse(load_all(options.runs))
    if options.format == "markdown":
        _put(markdown(found), options.out)
        return 0
    report = write_report(found, options.out, options.samples)
    for shown in summaries(found):
        screen.print(shown)
    screen.print(f"report: {report}", soft_wrap=True)
    return 0


def _put(text: str, out: Path | None) -> None:
    if out is None:
        sys.stdout.write(text)
        return
    try:
        write_page(out, text)
    except OSError as error:
        raise ReportError(f"{out} cannot be written: {error.strerror or error}") from error


def _caps(text: str) -> Caps:
    """What `--samples` lets in, however large the files get."""
    if text == "all":
        return Caps(None, None)
    if text.isdecimal() and int(text) > 0:
        return Caps(int(text), None)
    raise argparse.ArgumentTypeError(f"give a number of rows from 1 on, or all; got {text!r}")


if __name__ == "__main__":
    run_main(main)
