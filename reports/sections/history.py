"""One model over time."""

from reports.analysis import Analysis
from reports.history import history_chart
from reports.sections.base import Section


def history(found: Analysis) -> Section:
    return Section("history", {}, (history_chart(found.run, found.cells),))
