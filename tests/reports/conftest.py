"""A generator of run directories that look like the real ones, for the tests of reports."""

import hashlib
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reports.schema import SCHEMA_VERSION, TABLES

CREATED = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
AR_LENGTH = 64
END = 0
"""The end-of-text token; any other id is a letter's code point."""
# How often a task is right at the full budget: (diffusion, autoregressive); None: no verdict.
SKILL: dict[str, tuple[float, float] | None] = {
    "gsm8k": (0.06, 0.08),
    "gsm8k-resampled": (0.68, 0.88),
    "mmlu": (0.28, 0.26),
    "humaneval": None,
    "lm1b": None,
}


@dataclass
class Plan:
    """What a synthetic run holds."""

    tasks: tuple[str, ...] = tuple(SKILL)
    budgets: tuple[int, ...] = (4, 8, 16, 32, 64)
    n: int = 24
    modes: tuple[str, ...] = ("throughput",)
    ar: bool = True
    traces: bool = True
    failed_every: int = 0
    """Every so many samples of a diffusion cell fail; 1: all of them."""
    output: Callable[[str, int], str] = lambda task, at: f"{at} + 2 = {at + 2}\n#### {at + 2}"
    right: Callable[[str, str, int, int], bool] | None = None
    """Overrides the drawn verdict: (task, decoder, steps, sample number)."""
    error: str = ""
    """Of every third row of a diffusion cell, if it is not empty."""
    device: str = "cpu"
    ar_device: str = ""
    """Where the baseline ran; empty: where all others did."""
    model: str = "tiny-mdlm"
    task_version: str = "1"
    letters: set[tuple[str, int]] = field(default_factory=set)
    """(model, token id) of the vocabulary."""
    words: dict[int, bytes] = field(default_factory=dict)
    """Tokens that are no letters."""
    samples: list[dict[str, Any]] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    cells: list[dict[str, Any]] = field(default_factory=list)


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes a run directory by the given Plan fields and returns its path."""

    def make(name: str = "run", **settings: Any) -> Path:
        return write_run(tmp_path / name, Plan(**settings))

    return make


@pytest.fixture(scope="session")
def make_runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """As `make_run`, for runs that tests share; `change` may edit the Plan before it is written."""

    def make(change: Callable[[Plan], None] | None = None, **settings: Any) -> Path:
        return write_run(tmp_path_factory.mktemp("runs") / "run", Plan(**settings), change)

    return make


@pytest.fixture
def write_tables(tmp_path: Path) -> Callable[..., Path]:
    """Writes the tables of a Plan that a test filled in itself."""

    def write(plan: Plan) -> Path:
        return _write(tmp_path / "run", plan)

    return write


@pytest.fixture
def blank_row() -> Callable[..., dict[str, Any]]:
    """A row of a table with every column null but the given ones."""

    def blank(table: str, **values: Any) -> dict[str, Any]:
        return {**dict.fromkeys(TABLES[table].names), **values}

    return blank


@pytest.fixture
def empty_plan() -> Plan:
    return Plan(tasks=())


def write_run(path: Path, plan: Plan, change: Callable[[Plan], None] | None = None) -> Path:
    for task in plan.tasks:
        for mode in plan.modes:
            for steps in plan.budgets:
                _cell(plan, task, plan.model, "llada", steps, mode)
            if plan.ar:
                _cell(plan, task, "tiny-ar", "ar", AR_LENGTH, mode)
    if change is not None:
        change(plan)
    return _write(path, plan)


def _cell(plan: Plan, task: str, model: str, decoder: str, steps: int, mode: str) -> None:
    cell_id = f"{task}/{model}/{decoder}/{steps}/{mode}"
    start = len(plan.samples)
    for at in range(plan.n):
        _sample(plan, cell_id, task, model, decoder, steps, mode, at)
    rows = plan.samples[start:]
    statuses: dict[str, int] = {}
    for row in rows:
        statuses[row["status"]] = statuses.get(row["status"], 0) + 1
    metrics = {}
    if task == "lm1b":
        scored = [row["metrics"] for row in rows if row["metrics"]]
        if scored:
            nll, tokens = (sum(m[k] for m in scored) for k in ("nll", "scored_tokens"))
            metrics = {"perplexity": float(np.exp(nll / tokens)), "unigram_entropy_nats": 2.6}
    plan.cells.append(
        {
            "run_id": "run-synthetic",
            "cell_id": cell_id,
            "task": task,
            "task_version": plan.task_version,
            "model": model,
            "model_digest": hashlib.sha256(model.encode()).hexdigest(),
            "decoder": decoder,
            "decoder_config": json.dumps({"name": decoder, "steps": steps, "block_length": 32}),
            "decoder_fingerprint": hashlib.sha256(cell_id.encode()).hexdigest()[:16],
            "steps": steps,
            "gen_length": AR_LENGTH,
            "mode": mode,
            "num_fewshot": 0,
            "n": len(rows),
            "statuses": list(statuses.items()),
            "metrics": list(metrics.items()),
        }
    )
    for row in rows:
        row["metrics"] = list(row["metrics"].items())


def _sample(
    plan: Plan, cell_id: str, task: str, model: str, decoder: str, steps: int, mode: str, at: int
) -> None:
    rng = np.random.default_rng(zlib.crc32(f"{cell_id}{at}".encode()))
    ar = decoder == "ar"
    sid = hashlib.sha256(f"{cell_id}/{at}".encode()).hexdigest()[:32]
    prompt = (
        f"Question: A farm has {at} hens and buys 2 more. How many hens are there now?\nAnswer:"
    )
    row: dict[str, Any] = dict.fromkeys(TABLES["samples"].names)
    row.update(
        run_id="run-synthetic",
        cell_id=cell_id,
        sid=sid,
        task=task,
        sample_id=f"{task}-{at:04d}",
        category="algebra" if task == "mmlu" else None,
        model=model,
        decoder=decoder,
        steps=steps,
        gen_length=AR_LENGTH,
        block_length=None if ar else 32,
        mode=mode,
        seed=0,
        status="ok",
        prompt=prompt,
        target=None if task == "lm1b" else str(at + 2),
        prompt_sha256=hashlib.sha256(prompt.encode()).hexdigest(),
        prompt_tokens=24,
        metrics={},
        device=(plan.ar_device if ar else "") or plan.device,
        dtype="float32",
        slots=1 if mode == "latency" else 8,
        worker="worker-0",
        created_at=CREATED,
    )
    plan.samples.append(row)
    if not ar and plan.failed_every and at % plan.failed_every == 0:
        row.update(status="error", error="RuntimeError: logits hold NaN at position 3")
        return
    if not ar and plan.error and at % 3 == 0:
        row.update(status="error", error=plan.error)
        return
    tokens = int(rng.integers(20, 60))
    output = plan.output(task, at)
    ids = [ord(letter) for letter in output.replace("\0", "")[:AR_LENGTH]]
    ids += [END] * (AR_LENGTH - len(ids))
    plan.letters |= {(model, token) for token in ids}
    forwards = tokens if ar else steps
    seconds = forwards * (0.0011 if ar else 0.009) * float(rng.uniform(0.8, 1.3))
    row.update(
        output_text=output,
        output_ids=ids,
        generated_tokens=tokens,
        nfe=forwards,
        nfe_block=0,
        nfe_ar=forwards if ar else 0,
        token_forwards=24 + tokens if ar else forwards * (24 + AR_LENGTH),
        decode_s=seconds,
        latency_s=seconds * (1.0 if mode == "latency" else 7.5),
        tokens_per_forward=tokens / forwards,
    )
    if task == "lm1b":
        level = 3.6 if ar else 4.2 + 6.0 / steps
        row["metrics"] = {
            "nll": float(tokens * rng.normal(level, 0.25)),
            "scored_tokens": float(tokens),
            "unigram_entropy_nats": float(rng.normal(2.6, 0.1)),
        }
    elif task == "humaneval":
        row["status"] = "not_executed"
    else:
        _judge(plan, row, rng, at)


def _judge(plan: Plan, row: dict[str, Any], rng: np.random.Generator, at: int) -> None:
    task, decoder, steps = row["task"], row["decoder"], row["steps"]
    skill = SKILL[task]
    assert skill is not None, f"{task} has no verdicts"
    chance = skill[1] if decoder == "ar" else skill[0] * (1 - 1.4 / (steps**0.5 + 1))
    right = bool(rng.uniform() < chance)
    if plan.right is not None:
        right = plan.right(task, decoder, steps, at)
    row.update(correct=int(right), score=float(right), answer=str(at + 2 if right else at + 7))
    if decoder == "ar" or not plan.traces:
        return
    turn = max(1, round(steps * float(rng.beta(2.0, 2.4))))
    oscillated = not right and bool(rng.uniform() < 0.2)
    verdicts = [
        int(step >= turn if right else oscillated and turn <= step < steps)
        for step in range(1, steps + 1)
    ]
    row.update(
        first_correct_step=verdicts.index(1) + 1 if any(verdicts) else None,
        converged_step=turn if right else None,
        last_change_step=turn,
        oscillated=any(verdicts) and not right,
        commit_steps=[1 + position * steps // AR_LENGTH for position in range(AR_LENGTH)],
    )
    for step, verdict in enumerate(verdicts, start=1):
        places = [at for at, written in enumerate(row["commit_steps"]) if written == step]
        plan.steps.append(
            {
                "sid": row["sid"],
                "step": step,
                "nfe": step,
                "committed": places,
                "tokens": [row["output_ids"][place] for place in places],
                "confidence": [float(np.float32(x)) for x in rng.uniform(size=len(places))],
                "masked_left": AR_LENGTH - AR_LENGTH * step // steps,
                "answer": str(at + 2 if verdict else at + 7),
                "correct": verdict,
                "top2_gap": 1.5,
                "entropy": 0.7,
                "elapsed_s": row["decode_s"] * step / steps,
            }
        )


def _text(data: bytes) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def _write(path: Path, plan: Plan) -> Path:
    texts = {token: chr(token).encode() for _, token in plan.letters} | {END: b"<|end|>"}
    texts |= plan.words
    vocabulary = [
        {
            "model": model,
            "token_id": token,
            "text": _text(texts[token]),
            "bytes": texts[token],
            "special": token == END,
        }
        for model, token in sorted(plan.letters)
    ]
    tables = {"samples": plan.samples, "steps": plan.steps, "cells": plan.cells}
    tables["vocabulary"] = vocabulary
    files, statuses = [], dict[str, int]()
    for name, rows in tables.items():
        if not rows:
            continue
        part = path / name / "part-00000.parquet"
        part.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows, TABLES[name]), part, compression="zstd")
        content = part.read_bytes()
        files.append(
            {
                "table": name,
                "path": f"{name}/part-00000.parquet",
                "bytes": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
                "rows": len(rows),
            }
        )
    for row in plan.samples:
        statuses[row["status"]] = statuses.get(row["status"], 0) + 1
    path.mkdir(exist_ok=True)
    about = {
        "run_id": "run-synthetic",
        "config": {"tasks": list(plan.tasks), "limit": plan.n},
        "models": {
            name: {
                "digest": hashlib.sha256(name.encode()).hexdigest(),
                "parameters": 4_300_000,
                "family": "llada" if name == "tiny-mdlm" else "llama",
                "visibility": "bidirectional" if name == "tiny-mdlm" else "causal",
                "dtype": "float32",
                "bundled": True,
            }
            for name in ("tiny-mdlm", "tiny-ar")
        },
        "versions": {"python": "3.11.7", "torch": "2.13.0", "ray": "2.60.0"},
        "hardware": {
            "cpu": "Example CPU @ 2.4 GHz",
            "cores": 2,
            "gpus": [],
            "device": "cpu",
            "pool": 2,
            "threads_per_worker": 1,
        },
        "data": {"gsm8k": {"sha256": "0" * 64, "rows": 1319}},
    }
    (path / "run.json").write_text(json.dumps(about))
    success = {
        "schema_version": SCHEMA_VERSION,
        "run_id": "run-synthetic",
        "created_at": "2026-11-21T09:30:00+00:00",
        "finished_at": "2026-11-21T09:31:44+00:00",
        "wall_s": 104.2,
        "rows": len(plan.samples),
        "statuses": statuses,
        "files": files,
        "config_digest": "c0ffee" * 8,
    }
    (path / "_SUCCESS.json").write_text(json.dumps(success))
    return path
