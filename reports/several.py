"""Several runs as one: what each has stays its own, and what cannot be compared stays apart."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from reports.cells import cell_table
from reports.load import ReportError, Run, load
from reports.text import visible


@dataclass(frozen=True)
class Several(Run):
    """Runs under one roof. Their cell ids and sids are told apart by a number before them."""

    members: tuple[Run, ...] = ()
    labels: tuple[str, ...] = ()
    tasks: dict[tuple[str, str], str] = field(default_factory=dict)
    """What a run's task is called, by (run, task): its own name where all runs that have it asked
    the same questions, else with the names of the runs that did."""

    @property
    def run_id(self) -> str:
        """The ids of all, in the order given."""
        return ", ".join(run.run_id for run in self.members)

    def traces(self, cell_id: str) -> pd.DataFrame:
        """As of a single run."""
        number, _, own = cell_id.partition(":")
        return self.members[int(number)].traces(own)

    def digests(self) -> pd.DataFrame:
        """As of a single run."""
        return pd.concat(_marked(at, run.digests()) for at, run in enumerate(self.members))


def load_all(folders: Sequence[Path]) -> Run:
    """One run as it is, several as one.

    Raises:
        ReportError: one cannot be read, or is given twice.
    """
    runs = [load(folder) for folder in folders]
    places = [run.path.resolve() for run in runs]
    for place in places:
        if places.count(place) > 1:
            raise ReportError(f"{place} is given twice: give each run once")
    return together(runs) if len(runs) > 1 else runs[0]


def together(runs: Sequence[Run]) -> Several:
    """Runs as one; the newest speaks where only one can."""
    newest = max(runs, key=created)
    named = labels([run.path for run in runs])
    tasks = _told_apart(dict(zip(named, runs, strict=True)))
    return Several(
        path=newest.path,
        success={**newest.success, "wall_s": None},
        about={"models": _models(runs)},
        samples=pd.concat(
            [
                run.samples.assign(
                    cell_id=[_mark(at, found) for found in run.samples["cell_id"]],
                    sid=[_mark(at, found) for found in run.samples["sid"]],
                    task=[tasks[named[at], found] for found in run.samples["task"]],
                )
                for at, run in enumerate(runs)
            ],
            ignore_index=True,
        ),
        cells=pd.concat(
            [
                run.cells.assign(cell_id=[_mark(at, found) for found in run.cells["cell_id"]])
                for at, run in enumerate(runs)
            ],
            ignore_index=True,
        ),
        files={},
        members=tuple(runs),
        labels=tuple(named),
        tasks=tasks,
    )


def created(run: Run) -> str:
    """When a run was made, as it sorts."""
    return str(run.success.get("created_at") or "")


def members(run: Run) -> list[tuple[str, Run]]:
    """The runs with what each is called; a single one needs no name."""
    if isinstance(run, Several):
        return list(zip(run.labels, run.members, strict=True))
    return [("", run)]


def labels(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    whole = [path.resolve().parts for path in paths]
    for length in range(1, max(map(len, whole)) + 1):
        found = [visible("/".join(parts[-length:])) for parts in whole]
        if len(set(found)) == len(found):
            return found
    return [visible(str(path)) for path in paths]


def all_cells(run: Run) -> pd.DataFrame:
    """`cell_table` of one run or of each of several, with a `run` column.

    Of several the series are named by their run, and the tasks by their runs where these asked
    other questions: no chart puts accuracies of other prompts beside each other.
    """
    if not isinstance(run, Several):
        return cell_table(run)
    tables = []
    for at, (label, member) in enumerate(members(run)):
        table = cell_table(member)
        if table.empty:
            continue
        table["cell_id"] = [_mark(at, found) for found in table["cell_id"]]
        table["run"] = label
        table["series"] = [f"{series} @ {label}" for series in table["series"]]
        tables.append(table)
    if not tables:
        return cell_table(run.members[0])
    joined = pd.concat(tables, ignore_index=True)
    joined["task"] = [
        run.tasks[row] for row in zip(joined["run"], joined["benchmark"], strict=True)
    ]
    # Lines of one kind side by side, each in the order of the runs.
    order = {name: at for at, name in enumerate(dict.fromkeys(joined["task"]))}
    return joined.sort_values(
        "task", key=lambda names: names.map(order), kind="stable"
    ).reset_index(drop=True)


def _told_apart(runs: dict[str, Run]) -> dict[tuple[str, str], str]:
    """`Several.tasks` of runs by their labels."""
    groups: dict[str, list[tuple[set[Any], list[str]]]] = {}
    for label, run in runs.items():
        for task, asked in questions(run).items():
            known = groups.setdefault(task, [])
            alike = [group for group in known if group[0] & asked]
            merged = set(asked).union(*(group[0] for group in alike))
            mates = [name for group in alike for name in group[1]] + [label]
            groups[task] = [group for group in known if group not in alike] + [(merged, mates)]
    return {
        (label, task): task if len(found) == 1 else f"{task} ({', '.join(mates)})"
        for task, found in groups.items()
        for _, mates in found
        for label in mates
    }


def questions(run: Run) -> dict[str, set[tuple[str, int]]]:
    """By task: what its cells asked, each a (task version, digest of all prompts by sample)."""
    versions = dict(zip(run.cells["cell_id"], run.cells["task_version"], strict=True))
    tasks = dict(zip(run.cells["cell_id"], run.cells["task"], strict=True))
    found: dict[str, set[tuple[str, int]]] = {task: set() for task in tasks.values()}
    columns = ["cell_id", "sample_id", "prompt_sha256"]
    parts = [pq.read_table(path, columns=columns) for path in run.files["samples"]]
    if not parts:
        return found
    rows = pd.concat([part.to_pandas() for part in parts]).drop_duplicates()
    rows["digest"] = pd.util.hash_pandas_object(rows[["sample_id", "prompt_sha256"]], index=False)
    for cell_id, digest in rows.groupby("cell_id")["digest"].agg(np.bitwise_xor.reduce).items():
        found[tasks[cell_id]].add((versions[cell_id], int(digest)))
    return found


def _models(runs: Sequence[Run]) -> dict[str, Any]:
    return {name: model for run in runs for name, model in run.about.get("models", {}).items()}


def _mark(at: int, name: str) -> str:
    return f"{at}:{name}"


def _marked(at: int, frame: pd.DataFrame) -> pd.DataFrame:
    return frame.set_axis([_mark(at, name) for name in frame.index], axis="index")
