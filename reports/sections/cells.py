"""The table of all cells."""

from reports.analysis import Analysis
from reports.sections.base import Section
from reports.tables import CELL_COLUMNS, cell_rows, without_spare


def all_cells(found: Analysis) -> Section:
    rows = cell_rows(found.cells, found.compared, found.drafted)
    columns, rows = without_spare(CELL_COLUMNS, rows)
    return Section("cells", {"cell_columns": columns, "cell_rows": rows})
