"""Speed against autoregression, accuracy against speed, what became of drafts."""

from reports.analysis import Analysis
from reports.cells import LIKELIHOOD, records
from reports.figures_forwards import drafts_chart
from reports.figures_rows import SPREADS, spread_chart, spreads
from reports.figures_speed import costs_chart, frontier_chart, speedup_chart
from reports.sections.base import Section
from reports.sections.setting import MODES, modes


def speed(found: Analysis) -> Section:
    cells = found.cells
    return Section(
        "speed",
        {"modes": modes(found), "refusals": refusals(found)},
        (
            *(
                spread_chart(cells, spreads(found.costs, quantity), quantity, mode)
                for quantity in SPREADS
                for mode in MODES
            ),
            *(speedup_chart(cells, found.compared, mode) for mode in MODES),
            *(costs_chart(cells, found.compared, mode) for mode in MODES),
            *(frontier_chart(cells, mode) for mode in MODES),
            drafts_chart(cells),
        ),
    )


def refusals(found: Analysis) -> list[str]:
    """Why cells are missing from the speed charts, each reason once a task and mode."""
    compared = found.compared
    lines = {
        f"{cell['task']}, {cell['series']} ({cell['mode']}): {compared[cell['cell_id']].why_not}"
        for cell in records(found.cells)
        if cell["cell_id"] in compared
        and compared[cell["cell_id"]].why_not
        and cell["decoder"] != LIKELIHOOD
    }
    return sorted(lines)
