"""What a report says of a run, computed once: the sections of a page and the terminal's summary
draw from it."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from reports.cells import SPECULATIVE, decoded
from reports.convergence import Convergence, convergences
from reports.duration import Duration, durations
from reports.load import Run, load
from reports.settling import Settling, settlings
from reports.several import all_cells, members
from reports.speed import Speedup, speedups
from reports.structure import Structured, structures


@dataclass(frozen=True)
class Analysis:
    """The numbers of one run, or of several together (`reports.several.Several`)."""

    run: Run
    cells: pd.DataFrame
    """`reports.several.all_cells`."""
    traces: list[Convergence]
    compared: dict[str, Speedup]
    """Speed against autoregression by cell_id."""
    drafted: dict[str, Speedup]
    """Speed against speculative decoding by cell_id."""
    durations: list[Duration]
    settled: list[Settling]
    structured: list[Structured]

    @property
    def members(self) -> list[tuple[str, Run]]:
        """The runs with what each is called; a single one needs no name."""
        return members(self.run)

    @cached_property
    def costs(self) -> dict[str, pd.DataFrame]:
        """The rows whose cost counts, by cell_id."""
        return {
            cell_id: decoded(self.run.rows(cell_id)) for cell_id in self.cells.get("cell_id", [])
        }

    @property
    def labels(self) -> list[str]:
        """What the runs are called; empty of a single one."""
        return [label for label, _ in self.members if label]

    @property
    def tasks(self) -> list[str]:
        """In the order of the run."""
        return list(dict.fromkeys(self.cells["task"])) if len(self.cells) else []


def analyse(run: "Path | Run | Analysis") -> Analysis:
    """Everything that the page and the summary state of a run; one that is done is given back.

    Raises:
        ReportError: the run cannot be read.
    """
    if isinstance(run, Analysis):
        return run
    run = run if isinstance(run, Run) else load(run)
    cells = all_cells(run)
    traces = convergences(run, cells)
    return Analysis(
        run=run,
        cells=cells,
        traces=traces,
        durations=durations(run, cells, traces),
        compared=speedups(run, cells),
        drafted=speedups(run, cells, SPECULATIVE),
        settled=settlings(run, cells),
        structured=structures(run, cells),
    )
