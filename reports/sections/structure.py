"""Speed by structure of the text, where a run has the experiment."""

from reports.analysis import Analysis
from reports.figures_structure import structure_chart
from reports.sections.base import Section
from reports.tables import without_spare
from reports.tables_structure import STRUCTURE_COLUMNS, structure_rows


def structure(found: Analysis) -> Section:
    columns, rows = without_spare(STRUCTURE_COLUMNS, structure_rows(found.structured))
    return Section(
        "structure",
        {"structure_columns": columns, "structure_rows": rows},
        (structure_chart(found.structured),),
    )
