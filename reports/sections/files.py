"""The tables beside the page."""

from collections.abc import Mapping

import pandas as pd

from reports.frames import TABLES
from reports.sections.base import Section


def numbers(tables: Mapping[str, pd.DataFrame], folder: str) -> Section:
    """Links to `folder`, which lies beside the page."""
    return Section(
        "files",
        {
            "folder": folder,
            "tables": [(name, len(frame), TABLES[name][1]) for name, frame in tables.items()],
        },
    )
