"""What a report says of a run, computed once: the sections of a page and the terminal's summary
draw from it."""

from dataclasses import dataclass

import pandas as pd

from reports.cells import SPECULATIVE, cell_table
from reports.convergence import Convergence, convergences
from reports.load import Run
from reports.settling import Settling, settlings
from reports.speed import Speedup, speedups
from reports.structure import Structured, structures


@dataclass(frozen=True)
class Analysis:
    """The numbers of one run."""

    run: Run
    cells: pd.DataFrame
    """`reports.cells.cell_table`."""
    traces: list[Convergence]
    compared: dict[str, Speedup]
    """Speed against autoregression by cell_id."""
    drafted: dict[str, Speedup]
    """Speed against speculative decoding by cell_id."""
    settled: list[Settling]
    structured: list[Structured]

    @property
    def tasks(self) -> list[str]:
        """In the order of the run."""
        return list(dict.fromkeys(self.cells["task"])) if len(self.cells) else []


def analyse(run: Run) -> Analysis:
    """Everything that the page and the summary state of a run."""
    cells = cell_table(run)
    return Analysis(
        run=run,
        cells=cells,
        traces=convergences(run, cells),
        compared=speedups(run, cells),
        drafted=speedups(run, cells, SPECULATIVE),
        settled=settlings(run, cells),
        structured=structures(run, cells),
    )
