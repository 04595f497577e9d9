"""How early answers are right, and texts settled."""

from reports.analysis import Analysis
from reports.duration import duration_chart
from reports.figures import convergence_chart
from reports.figures_rows import lost_chart
from reports.sections.base import Section
from reports.settling import SETTLING_COLUMNS, settling_chart, settling_rows
from reports.tables import CONVERGENCE_COLUMNS, convergence_rows


def convergence(found: Analysis) -> Section:
    return Section(
        "convergence",
        {
            "convergence_columns": CONVERGENCE_COLUMNS,
            "convergence_rows": convergence_rows(found.traces),
            "settling_columns": SETTLING_COLUMNS,
            "settling_rows": settling_rows(found.settled),
        },
        (
            convergence_chart(found.traces),
            lost_chart(found.traces),
            duration_chart(found.durations, found.cells),
            settling_chart(found.settled, found.cells),
        ),
    )
