"""Reading a finished run directory.

Only the files that `_SUCCESS.json` lists are read, and only if they are what it says. The
light columns are read at once, steps when a report asks for them.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from reports.schema import READABLE, SCHEMA_VERSION, TABLES
from reports.steps import Steps, read_steps, there

HEAVY = ("prompt", "target", "output_text", "output_ids", "commit_steps", "prompt_sha256")
"""Columns of `samples` that no chart needs; the explorer reads them of the rows that it shows."""


class ReportError(Exception):
    """A run that no report can be made from: says what is wrong and how to mend it."""


@dataclass(frozen=True)
class Run:
    """One finished run."""

    path: Path
    success: dict[str, Any]
    """`_SUCCESS.json`: counts, files, when and how long."""
    about: dict[str, Any]
    """`run.json`: the resolved config, models, versions and hardware."""
    samples: pd.DataFrame
    """The samples table without its HEAVY columns; `metrics` are Arrow maps."""
    cells: pd.DataFrame
    files: dict[str, tuple[Path, ...]] = field(repr=False)

    @property
    def run_id(self) -> str:
        return str(self.success["run_id"])

    def rows(self, cell_id: str) -> pd.DataFrame:
        """The samples of one cell, in the order of the run."""
        return self._cells.get(cell_id, self.samples.iloc[:0])

    def traces(self, cell_id: str) -> pd.DataFrame:
        """The steps of one cell's samples: step, correct, top1_share, and `row`, the place of
        their sample in `rows(cell_id)`."""
        return self._steps.of(cell_id)

    @cached_property
    def _cells(self) -> dict[str, pd.DataFrame]:
        groups = self.samples.groupby("cell_id", sort=False)
        return {str(cell_id): rows for cell_id, rows in groups}

    @cached_property
    def _steps(self) -> Steps:
        return read_steps(self.files["steps"], self.samples)

    def digests(self) -> pd.DataFrame:
        """Columns `prompt_digest` and `output_digest` of every sample, indexed by sid: equal
        where the texts are. An output that is not there has the digest of an empty one."""
        parts = []
        for path in self.files["samples"]:
            columns = ["sid", "prompt_sha256", "output_text"]
            for batch in pq.ParquetFile(path).iter_batches(columns=columns):
                frame = batch.to_pandas()
                outputs = frame["output_text"].fillna("").to_numpy(dtype=object)
                parts.append(
                    pd.DataFrame(
                        {
                            "prompt_digest": frame["prompt_sha256"].to_numpy(dtype=object),
                            "output_digest": pd.util.hash_array(outputs, categorize=False),
                        },
                        index=pd.Index(frame["sid"], name="sid"),
                    )
                )
        return pd.concat(parts)


def load(run_dir: Path) -> Run:
    """Reads a run directory, or raises ReportError with what to do."""
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise ReportError(f"{run_dir} is not a directory: give the directory of a run")
    success = _json(
        run_dir / "_SUCCESS.json",
        missing=f"{run_dir} holds no finished run (it has no _SUCCESS.json): run the same command "
        "again, it computes only what is missing",
    )
    version = success.get("schema_version")
    if version not in READABLE:
        raise ReportError(
            f"{run_dir} was written with schema version {version!r}, this report reads "
            f"{', '.join(map(str, READABLE))}: use the version of the program that made the run"
        )
    about = _json(
        run_dir / "run.json",
        missing=f"{run_dir} has no run.json, which says what was run: copy the whole directory",
    )
    files = _listed_files(run_dir, success)
    return Run(
        path=run_dir,
        success=success,
        about=about,
        samples=_samples(files),
        cells=_cells(files),
        files=files,
    )


def _json(path: Path, missing: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ReportError(missing) from None
    except (OSError, ValueError) as error:
        raise ReportError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ReportError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


def _listed_files(run_dir: Path, success: dict[str, Any]) -> dict[str, tuple[Path, ...]]:
    """The files by table, each checked against its entry. A run of an older version may lack
    nullable columns, which are then null."""
    older = success["schema_version"] < SCHEMA_VERSION
    files: dict[str, list[Path]] = {table: [] for table in TABLES}
    for entry in _entries(run_dir, success):
        table, name = entry["table"], PurePosixPath(entry["path"])
        if table not in files:
            continue
        if name.is_absolute() or ".." in name.parts:
            raise ReportError(f"_SUCCESS.json lists {name}, which lies outside of {run_dir}")
        files[table].append(_checked(run_dir / name, table, entry, older))
    return {table: tuple(paths) for table, paths in files.items()}


def _entries(run_dir: Path, success: dict[str, Any]) -> list[dict[str, Any]]:
    entries = success.get("files")
    needed = {"table", "path", "sha256"}
    if isinstance(entries, list) and all(
        isinstance(entry, dict) and needed <= entry.keys() for entry in entries
    ):
        return entries
    raise ReportError(f"{run_dir / '_SUCCESS.json'} does not list the files of the run")


def _checked(path: Path, table: str, entry: dict[str, Any], older: bool) -> Path:
    again = "delete the file and run the same command again"
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ReportError(
            f"{path} is listed in _SUCCESS.json and cannot be read: {error}"
        ) from error
    if digest != entry["sha256"]:
        raise ReportError(f"{path} is not the file that _SUCCESS.json lists (sha256): {again}")
    present = pq.read_schema(path).names
    absent = [
        column.name
        for column in TABLES[table]
        if column.name not in present and not (older and column.nullable)
    ]
    if absent:
        raise ReportError(f"{path} lacks the columns {', '.join(absent)} of {table}: {again}")
    return path


def _samples(files: dict[str, tuple[Path, ...]]) -> pd.DataFrame:
    """The light columns. A million maps as dicts would take a gigabyte: they stay Arrow's."""
    table = _read("samples", files, [name for name in TABLES["samples"].names if name not in HEAVY])
    frame: pd.DataFrame = table.to_pandas(
        types_mapper=lambda kind: pd.ArrowDtype(kind) if pa.types.is_map(kind) else None,
        split_blocks=True,
        self_destruct=True,
    )
    return frame


def _cells(files: dict[str, tuple[Path, ...]]) -> pd.DataFrame:
    table = _read("cells", files, TABLES["cells"].names)
    frame: pd.DataFrame = table.to_pandas(maps_as_pydicts="strict")
    return frame


def _read(table: str, files: dict[str, tuple[Path, ...]], columns: Sequence[str]) -> pa.Table:
    """These columns of a table."""
    parts = [pa.schema([TABLES[table].field(name) for name in columns]).empty_table()]
    parts += [pq.read_table(path, columns=there(path, columns)) for path in files[table]]
    return pa.concat_tables(parts, promote_options="permissive")
