"""Writes the run of the golden numbers anew: `python -m tests.reports.golden.make`.

Forty-four rows small enough to work through on paper, with everything that a figure may trip over:
repeats of which some failed, a timeout, a quarantined baseline row, traces that skip a step or end
early, a program that was not run.
"""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from reports.schema import SCHEMA_VERSION, TABLES

HERE = Path(__file__).parent
MADE = datetime(2026, 11, 1, tzinfo=UTC)

# status, correct, tokens, decode_s, nfe, converged step, verdicts by traced step; a row a repeat.
LLADA: dict[int, list[list[tuple[Any, ...]]]] = {
    4: [
        [("ok", 1, 12, 0.40, 4, None, {}), ("ok", 0, 9, 0.44, 4, None, {})],
        [("ok", 0, 20, 0.38, 4, None, {}), ("ok", 0, 11, 0.41, 4, None, {})],
        [("ok", 1, 7, 0.36, 3, None, {}), ("ok", 1, 8, 0.35, 3, None, {})],
        [("error", None, None, None, None, None, {}), ("ok", 0, 14, 0.47, 4, None, {})],
        [("ok", 1, 10, 0.39, 4, None, {}), ("ok", 0, 16, 0.43, 4, None, {})],
    ],
    8: [
        [
            ("ok", 1, 11, 0.80, 8, 3, {1: 0, 2: 0, 3: 1, 5: 1, 8: 1}),
            ("ok", 1, 9, 0.84, 8, 1, {1: 1}),
        ],
        [("ok", 0, 21, 0.79, 8, None, {1: 0, 2: 1, 8: 0}), ("ok", 0, 10, 0.82, 8, None, {8: 0})],
        [("ok", 1, 7, 0.61, 6, 6, {1: 0, 6: 1}), ("ok", 1, 8, 0.66, 6, 2, {2: 1, 6: 1})],
        [("timeout", None, None, None, None, None, {}), ("ok", 1, 13, 0.91, 8, 8, {8: 1})],
        [("ok", 0, 10, 0.77, 8, None, {1: 0, 8: 0}), ("ok", 1, 15, 0.83, 8, 4, {4: 1, 8: 1})],
    ],
}
AR: list[list[tuple[Any, ...]]] = [
    [("ok", 1, 12, 0.24, 12, None, {}), ("ok", 1, 10, 0.21, 10, None, {})],
    [("ok", 1, 18, 0.37, 18, None, {}), ("ok", 0, 13, 0.26, 13, None, {})],
    [("ok", 1, 8, 0.15, 8, None, {}), ("ok", 1, 9, 0.18, 9, None, {})],
    [("quarantined", None, None, None, None, None, {}), ("ok", 1, 15, 0.31, 15, None, {})],
    [("ok", 0, 11, 0.23, 11, None, {}), ("ok", 1, 14, 0.29, 14, None, {})],
]
# nll in nats, tokens, entropy, seconds, nfe.
TEXTS = {
    "llada": [(41.5, 10, 2.1, 0.71, 8), (52.0, 13, 2.4, 0.75, 8), (30.25, 8, 1.9, 0.69, 8)],
    "ar": [(33.0, 11, 2.2, 0.22, 11), (36.5, 12, 2.3, 0.25, 12), (29.75, 9, 2.0, 0.18, 9)],
}


def main() -> None:
    samples: list[dict[str, Any]] = []
    steps: list[dict[str, Any]] = []
    cells: list[dict[str, Any]] = []
    for budget, rows in LLADA.items():
        _questions(f"g{budget}", "llada", budget, rows, samples, steps, cells)
    _questions("gar", "ar", 16, AR, samples, steps, cells)
    for decoder, texts in TEXTS.items():
        _texts(decoder, texts, samples, cells)
    _programs(samples, cells)
    _write({"samples": samples, "steps": steps, "cells": cells})


def _row(cell: dict[str, Any], sample: str, **values: Any) -> dict[str, Any]:
    names = ("run_id", "cell_id", "task", "model", "decoder", "steps", "gen_length", "mode")
    row = {**dict.fromkeys(TABLES["samples"].names), **{name: cell[name] for name in names}}
    row.update(sample_id=sample, seed=0, prompt=f"{sample}?", repeat=0, status="ok")
    row.update(prompt_sha256=hashlib.sha256(sample.encode()).hexdigest(), created_at=MADE)
    row.update(device="golden", dtype="float32", slots=4, **values)
    row["sid"] = f"{cell['cell_id']}-{sample}-{row['repeat']}"
    return row


def _cell(name: str, task: str, decoder: str, steps: int, n: int) -> dict[str, Any]:
    cell = {**dict.fromkeys(TABLES["cells"].names), "run_id": "golden", "cell_id": name}
    cell.update(task=task, model=f"m-{decoder}", decoder=decoder, steps=steps, n=n)
    cell.update(gen_length=16, mode="throughput", task_version="1", num_fewshot=0, statuses=[])
    cell.update(decoder_config=json.dumps({"name": decoder}), decoder_fingerprint=name, metrics=[])
    return cell | {"model_digest": "0"}


def _questions(
    name: str,
    decoder: str,
    budget: int,
    rows: list[list[tuple[Any, ...]]],
    samples: list[dict[str, Any]],
    steps: list[dict[str, Any]],
    cells: list[dict[str, Any]],
) -> None:
    cell = _cell(name, "gsm8k", decoder, budget, sum(map(len, rows)))
    cells.append(cell)
    for at, repeats in enumerate(rows):
        for repeat, (status, correct, tokens, seconds, nfe, converged, trace) in enumerate(repeats):
            row = _row(cell, f"q{at}", repeat=repeat)
            row.update(status=status, correct=correct, generated_tokens=tokens, nfe=nfe)
            row.update(decode_s=seconds, latency_s=seconds and seconds * 4)
            row["token_forwards"] = nfe and (nfe + 9 if decoder == "ar" else nfe * 25)
            row["error"] = None if status == "ok" else f"{status} of q{at}"
            if trace:
                row["converged_step"] = converged
                row["first_correct_step"] = min((at for at in trace if trace[at]), default=None)
                row["oscillated"] = not correct and 1 in trace.values()
            samples.append(row)
            for step, verdict in trace.items():
                told = {**dict.fromkeys(TABLES["steps"].names), "sid": row["sid"], "step": step}
                told.update(nfe=step, committed=[], tokens=[], confidence=[], masked_left=0)
                steps.append(told | {"correct": verdict, "elapsed_s": 0.0})


def _texts(
    decoder: str,
    texts: list[tuple[float, int, float, float, int]],
    samples: list[dict[str, Any]],
    cells: list[dict[str, Any]],
) -> None:
    cell = _cell(f"t{decoder}", "lm1b", decoder, 8, len(texts))
    cells.append(cell)
    for at, (nll, tokens, entropy, seconds, nfe) in enumerate(texts):
        metrics = {"nll": nll, "scored_tokens": tokens, "unigram_entropy_nats": entropy}
        row = _row(cell, f"t{at}", generated_tokens=tokens, nfe=nfe, decode_s=seconds)
        row.update(metrics=list(metrics.items()), latency_s=seconds, token_forwards=nfe * 20)
        samples.append(row)


def _programs(samples: list[dict[str, Any]], cells: list[dict[str, Any]]) -> None:
    cell = _cell("hllada", "humaneval", "llada", 8, 2)
    cells.append(cell)
    for at in range(2):
        row = _row(cell, f"h{at}", generated_tokens=16, nfe=8, decode_s=0.9, latency_s=1.0)
        row.update(status="not_executed", token_forwards=160)
        samples.append(row)


def _write(tables: dict[str, list[dict[str, Any]]]) -> None:
    files = []
    for name, rows in tables.items():
        path = HERE / f"{name}.parquet"
        pq.write_table(pa.Table.from_pylist(rows, TABLES[name]), path, compression="zstd")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        files.append({"table": name, "path": path.name, "sha256": digest, "rows": len(rows)})
    success = {"schema_version": SCHEMA_VERSION, "run_id": "golden", "files": files}
    success["created_at"] = MADE.isoformat()
    (HERE / "_SUCCESS.json").write_text(json.dumps(success, indent=1) + "\n")
    (HERE / "run.json").write_text('{"models": {}, "hardware": {}, "versions": {}}\n')


if __name__ == "__main__":
    main()
