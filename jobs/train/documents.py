"""The training mixture: which documents there are of each kind, and each kind's share."""

import random
import re
from collections.abc import Iterator
from pathlib import Path

from jobs.train import synthetic
from jobs.train.config import TrainError
from jobs.train.data import SEPARATOR, Document, Problem, read_text, training_problems

SHARES = {
    "problems": 0.58,
    "drills": 0.06,
    "choice": 0.04,
    "news": 0.04,
    "books": 0.07,
    "prose": 0.03,
    "code": 0.14,
    "json": 0.02,
    "html": 0.02,
}
"""Part of the training positions, by kind."""
COUNTS = {"drills": 100_000, "choice": 40_000, "json": 14_000, "html": 10_000}
"""Documents of the generated kinds."""
MEGABYTES = {"books": 14.0, "prose": 5.0, "code": 18.0}
"""Text kept of the large kinds, evenly from the whole."""
PIECE_CHARS = (250, 400, 400, 700, 700, 1400)
_DEFINITION = re.compile(r"\n(?=(?:async def |def |class |@)\S)")


def _pieces(rng: random.Random, text: str, kind: str) -> Iterator[Document]:
    """Cuts a long document at paragraphs (code: at definitions, then at lines)."""
    glue = "\n" if kind == "code" else "\n\n"
    units = _DEFINITION.split(text) if kind == "code" else text.split("\n\n")
    limit = rng.choice(PIECE_CHARS)
    held: list[str] = []
    size = 0
    for number, unit in enumerate(units):
        last = number == len(units) - 1
        if held and size + len(unit) > limit:
            # Before a definition, or at a paragraph: a natural end, so the text ends there.
            yield Document("", glue.join(held), kind == "code")
            held, size, limit = [], 0, rng.choice(PIECE_CHARS)
        if len(unit) > limit:
            cut = unit.rfind("\n" if kind == "code" else " ", 0, limit)
            yield Document("", unit[: cut if cut > 0 else limit], False)
            continue
        held.append(unit)
        size += len(unit) + len(glue)
        if last:
            yield Document("", glue.join(held), True)


def _long(folder: Path, kind: str, seed: int, scale: float) -> list[Document]:
    rng = random.Random(f"{seed} {kind}")
    documents = [text.strip("\n") for text in read_text(folder, kind).split(SEPARATOR)]
    documents = [text for text in documents if text]
    rng.shuffle(documents)
    kept: list[Document] = []
    left = MEGABYTES[kind] * scale * 1e6
    for text in documents:
        if left <= 0:
            break
        # No single book or module may fill the share: 200 kB of one at most.
        for piece in _pieces(rng, text[:200_000], kind):
            if piece.text.strip():
                kept.append(piece)
                left -= len(piece.text)
    return kept


def _problem(problem: Problem) -> Document:
    return Document(problem.prompt, problem.response, True)


def training_documents(
    folder: Path, seed: int = 0, scale: float = 1.0
) -> dict[str, list[Document]]:
    """Every training document by kind; the same folder and seed give the same lists.

    `scale` shrinks the generated kinds and the long texts.
    """
    problems = training_problems(folder)
    if not problems:
        raise TrainError("the data folder holds no problem that may be trained on")
    counts = {kind: max(1, int(count * scale)) for kind, count in COUNTS.items()}
    rng = random.Random(f"{seed} synthetic")
    books = _long(folder, "books", seed, scale)
    words = " ".join(piece.text for piece in books[:2000]).split() or ["word"]
    drills = [synthetic.drill(rng) for _ in range(counts["drills"])]
    asked = rng.choices(problems, k=counts["choice"] * 3 // 4)
    asked += rng.choices(drills, k=counts["choice"] - len(asked))
    news = [line for line in read_text(folder, "news").split("\n") if line]
    return {
        "problems": [_problem(problem) for problem in problems],
        "drills": [_problem(problem) for problem in drills],
        "choice": [synthetic.multiple_choice(rng, problem) for problem in asked],
        "news": [Document("", line, True) for line in news],
        "books": books,
        "prose": _long(folder, "prose", seed, scale),
        "code": _long(folder, "code", seed, scale),
        "json": [synthetic.json_record(rng, words) for _ in range(counts["json"])],
        "html": [synthetic.html_page(rng, words) for _ in range(counts["html"])],
    }


def tokenizer_texts(
    documents: dict[str, list[Document]], megabytes: float = 40.0, seed: int = 0
) -> Iterator[str]:
    """A sample of the mixture in its shares, for learning the merges."""
    for kind, share in SHARES.items():
        left = share * megabytes * 1e6
        order = list(documents[kind])
        random.Random(f"{seed} {kind}").shuffle(order)
        for document in order:
            if left <= 0:
                break
            text = document.prompt + document.text
            left -= len(text)
            yield text
