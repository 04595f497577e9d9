"""The samples, to be filtered and replayed."""

from reports.explorer.pack import Explorer
from reports.sections.base import Section


def samples(explorer: Explorer) -> Section:
    return Section(
        "samples",
        {
            "held": explorer.held,
            "rows": explorer.rows,
            "has_words": explorer.has_words,
            "folder": explorer.data.get("folder"),
        },
    )
