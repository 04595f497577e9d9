"""The tables beside a page: `report.tables/NAME.parquet` and `.csv` of `report.html`."""

import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.api.types import is_object_dtype, is_string_dtype

_FORMULA = re.compile(r"\s*[=+\-@\t\r]")
KINDS = ("parquet", "csv")


def tables_of(page: Path) -> Path:
    """The folder of a page's tables."""
    return page.with_name(f"{page.stem}.tables")


@contextmanager
def replaced(folder: Path, tables: Mapping[str, pd.DataFrame]) -> Iterator[None]:
    """Puts the tables in the folder if what is done in the context succeeds: they are written
    whole before it, take their names at its end, and those that are no more go.

    Raises:
        OSError: they cannot be written; the folder is left as it was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as staged:
        for name, frame in tables.items():
            write_parquet(frame, Path(staged) / f"{name}.parquet")
            write_csv(frame, Path(staged) / f"{name}.csv")
        try:
            yield
        except BaseException:
            if not any(folder.iterdir()):
                folder.rmdir()
            raise
        written = sorted(Path(staged).iterdir())
        for path in written:
            os.chmod(path, 0o644)
            os.replace(path, folder / path.name)
    kept = {path.name for path in written}
    for path in folder.iterdir():
        if path.suffix.lstrip(".") in KINDS and path.name not in kept:
            path.unlink()
    if not kept and not any(folder.iterdir()):
        folder.rmdir()


def write_parquet(frame: pd.DataFrame, path: Path) -> None:
    """zstd, without the index."""
    frame.to_parquet(path, index=False, compression="zstd")


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """UTF-8, full precision, empty where there is nothing. Text that a spreadsheet would take for
    a formula begins with an apostrophe."""
    safe = frame.copy()
    for name, column in frame.items():
        if is_text(column):
            safe[name] = pd.Series([unformula(value) for value in column], frame.index, object)
    safe.to_csv(path, index=False, lineterminator="\n")


def is_text(column: "pd.Series[Any]") -> bool:
    """Whether a column may hold strings."""
    return bool(is_object_dtype(column) or is_string_dtype(column))


def unformula(value: object) -> object:
    """Text that is no formula anywhere (CWE-1236): one that begins like one gets an apostrophe."""
    if isinstance(value, str) and _FORMULA.match(value):
        return f"'{value}"
    return value
