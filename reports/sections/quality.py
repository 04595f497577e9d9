"""Accuracy and perplexity: against steps, of given texts, against tokens a forward."""

from reports.analysis import Analysis
from reports.figures import accuracy_chart, perplexity_chart
from reports.figures_forwards import forwards_chart
from reports.free_text import (
    GIVEN_COLUMNS,
    WRITTEN_COLUMNS,
    given_rows,
    remarks,
    written_rows,
)
from reports.sections.base import Section


def quality(found: Analysis) -> Section:
    cells = found.cells
    return Section(
        "quality",
        {
            "written_columns": WRITTEN_COLUMNS,
            "written_rows": written_rows(cells),
            "given_columns": GIVEN_COLUMNS,
            "given_rows": given_rows(cells),
            "remarks": remarks(cells),
        },
        (accuracy_chart(cells, found.traces), perplexity_chart(cells), forwards_chart(cells)),
    )
