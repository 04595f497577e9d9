"""The rows of one made-up cell, drawn a column at a time: what they say agrees with itself."""

import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from reports.schema import SAMPLES, STEPS

RUN_ID = "run-made-up"
CREATED = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
# How often a task is right at a large budget: (diffusion, autoregressive); None: no verdict.
SKILL: dict[str, tuple[float, float] | None] = {
    "gsm8k": (0.6, 0.7),
    "mmlu": (0.55, 0.6),
    "humaneval": (0.3, 0.4),
    "lm1b": None,
    "structure-completion": None,
}
REPEATS = {"humaneval": 5, "structure-completion": 4}
CATEGORIES = {
    "mmlu": tuple(f"subject {at}" for at in range(57)),
    "structure-completion": ("code", "json", "list", "prose", "table"),
}
FAILED = 0.002
TEXTS = 4_000
"""Distinct outputs; each ends in its row's own answer."""

WORDS = tuple(f"{first}{rest}" for first in "bdfhmst" for rest in ("a", "en", "is", "or", "ut"))
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Cell:
    task: str
    model: str
    decoder: str
    steps: int
    gen_length: int
    mode: str

    @property
    def cell_id(self) -> str:
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]

    @property
    def repeats(self) -> int:
        return REPEATS.get(self.task, 1)

    @property
    def is_ar(self) -> bool:
        return self.decoder == "ar"

    @property
    def traced(self) -> bool:
        return not self.is_ar and self.mode == "throughput"


def samples_of(cell: Cell, count: int) -> pa.Table:
    """`count` rows of the samples table, in the order of sample and repeat."""
    rng = np.random.default_rng(zlib.crc32(cell.cell_id.encode()))
    at = np.arange(count) // cell.repeats
    repeat = np.arange(count) % cell.repeats
    failed = rng.random(count) < (0 if cell.is_ar else FAILED)
    tokens = rng.integers(16, cell.gen_length + 1, count)
    forwards = tokens if cell.is_ar else np.full(count, cell.steps)
    seconds = forwards * (0.0011 if cell.is_ar else 0.009) * rng.uniform(0.8, 1.3, count)
    fed = 24 + tokens if cell.is_ar else forwards * (24 + cell.gen_length)
    prompts = _prompts(cell.task, int(at[-1]) + 1)
    columns: dict[str, Any] = {
        **{name: getattr(cell, name) for name in ("cell_id", "task", "model", "decoder", "mode")},
        **{"run_id": RUN_ID, "steps": cell.steps, "gen_length": cell.gen_length},
        **{"seed": 0, "truncated_tokens": 0, "created_at": CREATED, "worker": "worker-0"},
        **{"device": "cpu", "dtype": "float32", "slots": 1 if cell.mode == "latency" else 8},
        "sid": _sids(cell, count),
        "sample_id": pc.binary_join_element_wise(cell.task, _text(at), "/"),
        "repeat": repeat,
        "block_length": None if cell.is_ar else 32,
        "status": pa.DictionaryArray.from_arrays(failed.astype(np.int8), ["ok", "error"]),
        "error": _where(failed, "RuntimeError: logits hold NaN at position 3"),
        "prompt": prompts["text"].take(pa.array(at)),
        "prompt_sha256": prompts["sha256"].take(pa.array(at)),
        "prompt_tokens": 24 + at % 200,
        "output_ids": _lists(rng.integers(0, 32_000, count * cell.gen_length), cell.gen_length),
        "generated_tokens": tokens,
        "nfe": forwards,
        "nfe_block": 0,
        "nfe_ar": forwards if cell.is_ar else 0,
        "nfe_draft": 0,
        "draft_token_forwards": 0,
        "token_forwards": fed,
        "decode_s": seconds,
        "latency_s": seconds * (1.0 if cell.mode == "latency" else 7.5),
        "tokens_per_forward": tokens / forwards,
        "edited_tokens": 0,
        "commit_steps": _lists(
            np.tile(1 + np.arange(cell.gen_length) * cell.steps // cell.gen_length, count),
            cell.gen_length,
        ),
    }
    if cell.task in CATEGORIES:
        names = CATEGORIES[cell.task]
        columns["category"] = pa.array(names).take(pa.array(at % len(names)))
    columns.update(_verdicts(cell, at, rng))
    columns["metrics"] = _metrics(cell, tokens, columns, rng)
    picked = pa.array(rng.integers(0, TEXTS, count))
    columns["output_text"] = pc.binary_join_element_wise(
        _outputs().take(picked), columns.get("answer", _text(at)), "\n#### "
    )
    return _table(SAMPLES, columns, count, failed)


def steps_of(cell: Cell, samples: pa.Table, rows: int = 2048) -> Iterator[pa.Table]:
    """The trace of each of these samples, a step a row, of `rows` samples at a time."""
    for start in range(0, samples.num_rows, rows):
        yield _steps(cell, samples.slice(start, rows), np.random.default_rng(start))


def _steps(cell: Cell, samples: pa.Table, rng: np.random.Generator) -> pa.Table:
    n, steps, each = samples.num_rows, cell.steps, cell.gen_length // cell.steps
    count, step = n * steps, np.tile(np.arange(1, steps + 1), n)
    of = np.repeat(np.arange(n), steps)
    columns: dict[str, Any] = {
        "sid": samples["sid"].take(pa.array(of)),
        "step": step,
        "nfe": step,
        "committed": _lists(np.tile(np.arange(cell.gen_length), n), each),
        "tokens": _lists(rng.integers(0, 32_000, count * each), each),
        "confidence": _lists(rng.random(count * each, np.float32), each),
        "masked_left": cell.gen_length - step * each,
        "top1_share": np.minimum(1, 0.3 + 0.7 * step / steps),
        "top2_gap": rng.random(count, np.float32) * 10,
        "entropy": rng.random(count, np.float32),
        "elapsed_s": step * 0.009,
    }
    if SKILL[cell.task]:
        turn = samples["last_change_step"].fill_null(1).to_numpy()[of]
        right = samples["correct"].fill_null(0).to_numpy()[of] == 1
        lost = samples["oscillated"].fill_null(False).to_numpy(zero_copy_only=False)[of]
        now = np.where(right, step >= turn, lost & (step >= turn) & (step < steps))
        columns["correct"] = now.astype(np.int8)
        columns["answer"] = _text(np.where(now, 2, 7) + of)
    return _table(STEPS, columns, count)


def _verdicts(cell: Cell, at: Array, rng: np.random.Generator) -> dict[str, Any]:
    """What the task's checker and the trace say; nothing where nothing is right or wrong."""
    skill, count = SKILL[cell.task], len(at)
    if skill is None:
        return {}
    chance = skill[1] if cell.is_ar else skill[0] * (1 - 1.4 / (cell.steps**0.5 + 1))
    right = rng.random(count) < chance
    found: dict[str, Any] = {
        "correct": right,
        "score": right.astype(np.float64),
        "answer": _text(at + np.where(right, 2, 7)),
        "target": _text(at + 2),
    }
    if not cell.traced:
        return found
    turn = np.maximum(1, np.rint(cell.steps * rng.beta(2.0, 2.4, count))).astype(np.int32)
    lost = ~right & (rng.random(count) < 0.2) & (turn < cell.steps)
    return found | {
        "first_correct_step": pa.array(turn, mask=~(right | lost)),
        "converged_step": pa.array(turn, mask=~right),
        "last_change_step": turn,
        "oscillated": lost,
    }


def _metrics(
    cell: Cell, tokens: Array, columns: dict[str, Any], rng: np.random.Generator
) -> pa.Array:
    """The map of each row's own numbers."""
    count = len(tokens)
    if cell.task == "lm1b":
        values = {
            "nll": tokens * rng.normal(3.6 if cell.is_ar else 4.2 + 6 / cell.steps, 0.25, count),
            "scored_tokens": tokens,
            "unigram_entropy_nats": rng.normal(2.6, 0.1, count),
        }
    elif cell.task == "structure-completion":
        values = {
            "output_bytes": tokens * 4,
            "compression_ratio": rng.uniform(1, 3, count),
            "token_entropy_nats": rng.uniform(0, 4, count),
        }
    else:
        values = {"exact_match": columns["score"], "strict": columns["score"]}
    keys = pa.array(list(values)).take(pa.array(np.tile(np.arange(len(values)), count)))
    items = np.column_stack(list(values.values())).astype(np.float64).ravel()
    ends = np.arange(0, len(items) + 1, len(values), dtype=np.int32)
    return pa.MapArray.from_arrays(ends, keys, pa.array(items))


ALWAYS = frozenset(name for name in SAMPLES.names if not SAMPLES.field(name).nullable)
KEPT = ALWAYS | {
    *("repeat", "category", "block_length", "error", "target", "device", "dtype", "slots"),
    "metrics",
}
"""What a row says although decoding failed."""


def _table(
    schema: pa.Schema, columns: dict[str, Any], count: int, failed: Array | None = None
) -> pa.Table:
    """Single values fill their column, absent columns are null; a failed row has no output."""
    arrays = []
    for field in schema:
        value = columns.get(field.name)
        if isinstance(value, np.ndarray):
            value = pa.array(value)
        elif not isinstance(value, pa.Array | pa.ChunkedArray):
            value = pa.repeat(pa.scalar(value, field.type), count)
        if field.name not in KEPT and failed is not None:
            value = pc.if_else(pa.array(failed), pa.scalar(None, value.type), value)
        arrays.append(value.cast(field.type))
    return pa.table(arrays, schema=schema)


def _sids(cell: Cell, count: int) -> pa.Array:
    start = hashlib.sha256(cell.cell_id.encode())
    found = []
    for at in range(count):
        digest = start.copy()
        digest.update(at.to_bytes(8, "big"))
        found.append(digest.hexdigest()[:24])
    return pa.array(found)


@cache
def _prompts(task: str, count: int) -> dict[str, pa.Array]:
    rng = np.random.default_rng(zlib.crc32(task.encode()))
    texts = [f"Question {at}: {_words(rng, 60, 120)}?\nAnswer:" for at in range(count)]
    digests = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
    return {"text": pa.array(texts), "sha256": pa.array(digests)}


@cache
def _outputs() -> pa.Array:
    rng = np.random.default_rng(0)
    return pa.array([_words(rng, 40, 100) for _ in range(TEXTS)])


def _words(rng: np.random.Generator, fewest: int, most: int) -> str:
    return " ".join(WORDS[at] for at in rng.integers(0, len(WORDS), rng.integers(fewest, most)))


def _text(numbers: Array) -> pa.Array:
    return pa.array(numbers).cast(pa.string())


def _where(rows: Array, text: str) -> pa.Array:
    return pc.if_else(pa.array(rows), text, pa.scalar(None, pa.string()))


def _lists(values: Array, each: int) -> pa.Array:
    ends = np.arange(0, len(values) + 1, each, dtype=np.int32)
    return pa.ListArray.from_arrays(ends, pa.array(values))
