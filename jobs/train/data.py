"""Reading the training folder, and the 500 problems that are held out of it.

The folder (`--data DIR`) holds the files named in `FILES`; a recipe asks only for those it
needs. Nothing here is downloaded.
"""

import hashlib
import json
import lzma
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.train.config import TrainError

FILES = {
    "perturbed": "gsm8k_train_perturbed.jsonl.xz",
    "eqonly": "gsm8k_train_eqonly.txt",
    "valid": "gsm8k_valid_eqonly.txt",
    "code": "python_code.txt.xz",
    "prose": "python_prose.txt.xz",
    "books": "books_standardebooks.txt.xz",
    "news": "wmt_news_sentences.txt.xz",
}
SEPARATOR = "<|endoftext|>"
HELD_OUT_ROWS = 500
HELD_OUT_SCHEMA = pa.schema(
    [
        pa.field("template", pa.int32(), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        pa.field("steps", pa.list_(pa.string()), nullable=False),
        pa.field("answer", pa.string(), nullable=False),
    ],
    metadata={"license": "MIT", "source": "GSM8K train, numbers resampled"},
)


@dataclass(frozen=True, slots=True)
class Problem:
    """A word problem with its annotated equations."""

    template: int
    """The GSM8K problem whose numbers were resampled; -1 for an original."""
    question: str
    steps: tuple[str, ...]
    answer: str

    @property
    def prompt(self) -> str:
        return f"Question: {self.question}\nAnswer:"

    @property
    def response(self) -> str:
        return f" {' '.join(self.steps)} #### {self.answer}"


class Document(NamedTuple):
    """One training text. `prompt` is context that a diffusion model sees clean."""

    prompt: str
    text: str
    ends: bool
    """Whether an end-of-text token follows: False for a piece cut out of something longer."""


def read_text(folder: Path, name: str) -> str:
    """The text of one of `FILES`, unpacked.

    Raises:
        TrainError: if the file is missing or is not what its name says.
    """
    path = folder / FILES[name]
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise TrainError(f"cannot read {path}: {error.strerror}") from None
    try:
        return (lzma.decompress(raw) if path.suffix == ".xz" else raw).decode("utf-8")
    except (lzma.LZMAError, UnicodeDecodeError) as error:
        raise TrainError(f"{path} is damaged: {error}") from None


def _lines(folder: Path, name: str) -> list[str]:
    # Not splitlines(): questions contain U+2028 and its like, which do not end a row.
    return read_text(folder, name).rstrip("\n").split("\n")


def perturbed(folder: Path) -> list[Problem]:
    """All resampled problems, in file order."""
    rows = []
    for number, line in enumerate(_lines(folder, "perturbed"), start=1):
        try:
            row = json.loads(line)
            rows.append(
                Problem(int(row["id"]), row["question"], tuple(row["steps"]), row["answer"])
            )
        except (ValueError, KeyError, TypeError) as error:
            raise TrainError(f"{FILES['perturbed']}, line {number}: {error!r}") from None
    return rows


def originals(folder: Path, name: str = "eqonly") -> list[Problem]:
    """The `question||steps #### answer` lines of a file."""
    rows = []
    for number, line in enumerate(_lines(folder, name), start=1):
        question, bar, rest = line.partition("||")
        steps, marker, answer = rest.rpartition("####")
        if not bar or not marker:
            raise TrainError(f"{FILES[name]}, line {number}: not `question||steps #### answer`")
        rows.append(Problem(-1, question.strip(), tuple(steps.split()), answer.strip()))
    return rows


def held_out(folder: Path, rows: int = HELD_OUT_ROWS) -> list[Problem]:
    """The problems that no model is trained on, the same on every machine.

    Resampled problems in the order of their question's SHA-256, at most one of a template,
    none that is word for word an original. The template itself is trained on with other
    numbers: this measures arithmetic and reading of numbers, not new stories.
    """
    known = {problem.question for problem in originals(folder)}
    ordered = sorted(
        perturbed(folder),
        key=lambda problem: (hashlib.sha256(problem.question.encode()).digest(), problem.steps),
    )
    chosen: dict[int, Problem] = {}
    for problem in ordered:
        if problem.template not in chosen and problem.question not in known:
            chosen[problem.template] = problem
            if len(chosen) == rows:
                break
    return list(chosen.values())


def write_held_out(problems: list[Problem], path: Path) -> None:
    """Writes the problems as a zstd Parquet file."""
    table = pa.Table.from_pydict(
        {
            "template": [problem.template for problem in problems],
            "question": [problem.question for problem in problems],
            "steps": [list(problem.steps) for problem in problems],
            "answer": [problem.answer for problem in problems],
        },
        schema=HELD_OUT_SCHEMA,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd")


def read_held_out(path: Path) -> list[Problem]:
    """Reads what `write_held_out` wrote."""
    try:
        rows = pq.read_table(path, schema=HELD_OUT_SCHEMA).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise TrainError(f"cannot read the held-out problems: {error}") from None
    return [
        Problem(row["template"], row["question"], tuple(row["steps"]), row["answer"])
        for row in rows
    ]


def training_problems(folder: Path) -> list[Problem]:
    """Every problem that may be trained on: neither held out nor in the validation file."""
    excluded = {problem.question for problem in held_out(folder)}
    excluded |= {problem.question for problem in originals(folder, "valid")}
    everything = perturbed(folder) + originals(folder)
    return [problem for problem in everything if problem.question not in excluded]
