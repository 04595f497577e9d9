"""The same rows through `jobs.evaluate`: what Ray, scoring and storing add to decoding."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from jobs.bench.work import Ask, Prompts
from jobs.errors import UserError


@dataclass(frozen=True)
class Evaluation:
    """A run of one recipe on one task."""

    source: str
    """A bundled name or a folder."""
    dtype: str
    slots: int
    recipe: str
    settings: Mapping[str, Any]
    prompts: Prompts
    on_gpu: bool
    warm_up: int
    """Rows that an actor decodes before the first that counts."""
    tensor_parallel: int = 1

    def config(self, samples: int, pool: int, seed: int) -> dict[str, Any]:
        """As `jobs.evaluate` reads it."""
        if self.prompts.task is None:
            raise UserError("--through-ray decodes a task; give --prompts, not --prompt-length")
        model = {"source": self.source, "dtype": self.dtype, "slots": self.slots}
        return {
            "name": "bench",
            "models": {"model": model},
            "tasks": {self.prompts.task: {"limit": samples, "num_fewshot": self.prompts.shots}},
            "decoders": [
                {"recipe": self.recipe, "models": ["model"], "settings": dict(self.settings)}
            ],
            "seed": seed,
            "trace": False,
            "cluster": {
                "pool": pool,
                "warmup": self.warm_up,
                "tensor_parallel": self.tensor_parallel,
            }
            | ({} if self.on_gpu else {"num_gpus": 0}),
        }


def rows_of(config: Mapping[str, Any], folder: Path) -> list[Ask]:
    """The prompts of the run, as its manifest has them."""
    from jobs.config import load_config  # it wants pydantic, which a bench alone need not have
    from jobs.plan import Plan

    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(dict(config)), encoding="utf-8")
    rows = Plan(load_config(path)).manifest()
    pairs = zip(rows["prompt_ids"].to_pylist(), rows["choices"].to_pylist(), strict=True)
    return [Ask(tuple(ids), tuple(map(tuple, choices or ()))) for ids, choices in pairs]


def evaluate(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Runs it in a process of its own. Rates are from the first sample's entry into a slot to the
    last one's end, so that the start of Ray and of the model is not in them.

    Raises:
        UserError: the run failed.
    """
    path, out = folder / "run.yaml", folder / "run"
    path.write_text(yaml.safe_dump(dict(config)), encoding="utf-8")
    command = [sys.executable, "-m", "jobs.evaluate", "--config", str(path), "--out", str(out)]
    ended = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    if ended.returncode:
        reason = ended.stderr.strip().splitlines() or ["it said nothing"]
        raise UserError(f"--through-ray: jobs.evaluate failed: {reason[-1]}")
    return {**read(out), "run_s": json.loads((out / "_SUCCESS.json").read_text())["wall_s"]}


def read(out: Path) -> dict[str, Any]:
    """Rate and tail of a finished run, from its rows."""
    table = pq.read_table(out / "samples", columns=["status", "worker", "created_at", "latency_s"])
    failed = pc.sum(pc.not_equal(table["status"], "ok")).as_py()
    if failed:
        raise UserError(f"--through-ray: {failed} of {table.num_rows} rows ended in errors")
    rows = table.to_pylist()
    ends = [row["created_at"].timestamp() for row in rows]
    began = min(end - row["latency_s"] for end, row in zip(ends, rows, strict=True))
    last: dict[str, float] = {}
    first: dict[str, float] = {}
    for end, row in zip(ends, rows, strict=True):
        name = row["worker"]
        last[name] = max(last.get(name, end), end)
        first[name] = min(first.get(name, end), end - row["latency_s"])
    return {
        "samples": len(rows),
        "samples_s": len(rows) / (max(ends) - began),
        "workers": len(last),
        "tail_s": max(last.values()) - min(last.values()),
        "head_s": max(first.values()) - min(first.values()),
    }
