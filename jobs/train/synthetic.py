"""Seeded generators: arithmetic drills, multiple choice, JSON records and HTML pages."""

import json
import random
from collections.abc import Sequence
from decimal import Decimal
from html import escape
from typing import Any

from jobs.train.data import Document, Problem

SUBJECTS = (
    "elementary mathematics",
    "high school mathematics",
    "everyday arithmetic",
    "word problems",
    "college mathematics",
    "general knowledge",
)
LETTERS = "ABCD"


def plain(value: Decimal) -> str:
    """The number as the training problems write it: no exponent, no trailing zeros."""
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _number(rng: random.Random) -> Decimal:
    roll = rng.random()
    if roll < 0.45:
        return Decimal(rng.randint(1, 30))
    if roll < 0.75:
        return Decimal(rng.randint(10, 500))
    if roll < 0.85:
        return Decimal(rng.randint(1, 90) * rng.choice((10, 100)))
    return Decimal(rng.randint(1, 999)) / rng.choice((10, 100))


def _step(rng: random.Random, left: Decimal) -> tuple[str, str, Decimal]:
    """One exact equation that begins at `left`: (expression, words for it, result)."""
    operation = rng.choice("++--***//%")
    right = _number(rng)
    if operation == "/":
        divisor = Decimal(rng.choice((2, 2, 3, 4, 5, 6, 8, 10, 12, 20, 100)))
        if left % divisor == 0 or divisor in (2, 4, 5, 10):
            return f"{plain(left)}/{divisor}", f"divide by {divisor}", left / divisor
        operation = "*"
    if operation == "%":
        percent = Decimal(rng.choice((5, 10, 15, 20, 25, 30, 40, 50, 60, 75, 80)))
        result = left * percent / 100
        if rng.random() < 0.5:
            return f"{percent}/100*{plain(left)}", f"take {percent}%", result
        share = plain(percent / 100)
        return f"{plain(left)}*{share}", f"take {percent}%", result
    if operation == "*":
        factor = Decimal(rng.randint(2, 30)) if rng.random() < 0.8 else right
        return f"{plain(left)}*{plain(factor)}", f"multiply by {plain(factor)}", left * factor
    if operation == "-" and right <= left:
        return f"{plain(left)}-{plain(right)}", f"subtract {plain(right)}", left - right
    return f"{plain(left)}+{plain(right)}", f"add {plain(right)}", left + right


def drill(rng: random.Random) -> Problem:
    """A chain of one to four exact equations, told in a few words."""
    value = _number(rng)
    words, steps = [f"Start with {plain(value)}"], []
    for _ in range(rng.randint(1, 4)):
        expression, word, result = _step(rng, value)
        if result > 100_000 or len(plain(result)) > 6:
            break
        steps.append(f"<<{expression}={plain(result)}>>")
        words.append(word)
        value = result
    if not steps:
        return drill(rng)
    return Problem(-1, ", ".join(words) + ".", tuple(steps), plain(value))


def multiple_choice(rng: random.Random, problem: Problem) -> Document:
    """The problem with its answer among three near misses, in the shape of MMLU's prompt."""
    try:
        right = Decimal(problem.answer.replace(",", ""))
    except ArithmeticError:
        right = Decimal(rng.randint(1, 99))
    options = {plain(right)}
    while len(options) < 4:
        shift = rng.choice((1, 2, 3, 5, 10)) * rng.choice((1, -1))
        near = rng.choice((right + shift, right * 2, right + right // 10 + shift, right * 10))
        options.add(plain(near))
    order = sorted(options)
    rng.shuffle(order)
    subject = rng.choice(SUBJECTS)
    lines = "".join(f"{letter}. {text}\n" for letter, text in zip(LETTERS, order, strict=True))
    prompt = (
        f"The following are multiple choice questions (with answers) about {subject}.\n\n"
        f"{problem.question}\n{lines}Answer:"
    )
    return Document(prompt, f" {LETTERS[order.index(plain(right))]}", True)


def _phrase(rng: random.Random, words: Sequence[str], low: int, high: int) -> str:
    start = rng.randrange(len(words))
    return " ".join(words[start : start + rng.randint(low, high)])


def _value(rng: random.Random, words: Sequence[str], depth: int) -> Any:
    roll = rng.random()
    if depth and roll < 0.2:
        return {
            rng.choice(words).strip(".,;").lower(): _value(rng, words, depth - 1)
            for _ in range(rng.randint(1, 4))
        }
    if depth and roll < 0.35:
        make = rng.choice((lambda: rng.randint(0, 99), lambda: _phrase(rng, words, 1, 2)))
        return [make() for _ in range(rng.randint(0, 4))]
    leaves = (
        lambda: rng.randint(0, 10_000),
        lambda: round(rng.uniform(0, 100), 2),
        lambda: rng.random() < 0.5,
        lambda: None,
        lambda: f"20{rng.randint(10, 29)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}",
        lambda: _phrase(rng, words, 1, 5),
        lambda: _phrase(rng, words, 1, 5),
    )
    return rng.choice(leaves)()


def json_record(rng: random.Random, words: Sequence[str]) -> Document:
    """A nested record, indented or on one line."""
    keys = ["id", "name", "title", "tags", "items", "price", "created", "owner", "active"]
    record: dict[str, Any] = {}
    for key in rng.sample(keys, rng.randint(2, 6)):
        record[key] = _value(rng, words, 2)
    data: Any = record if rng.random() < 0.8 else [record, {**record, "id": rng.randint(1, 999)}]
    return Document("", json.dumps(data, indent=rng.choice((2, 2, None))), True)


def html_page(rng: random.Random, words: Sequence[str]) -> Document:
    """A small page of headings, paragraphs, lists, tables and forms."""

    def text(low: int, high: int) -> str:
        return escape(_phrase(rng, words, low, high))

    def table() -> str:
        columns = rng.randint(2, 3)
        head = "".join(f"<th>{text(1, 1)}</th>" for _ in range(columns))
        rows = "".join(
            "<tr>" + "".join(f"<td>{rng.randint(0, 999)}</td>" for _ in range(columns)) + "</tr>\n"
            for _ in range(rng.randint(1, 3))
        )
        return f"<table>\n<tr>{head}</tr>\n{rows}</table>"

    def items() -> str:
        lines = "".join(f"<li>{text(1, 4)}</li>\n" for _ in range(rng.randint(2, 4)))
        return f"<ul>\n{lines}</ul>"

    def form() -> str:
        name = rng.choice(("name", "email", "date", "city", "phone"))
        return (
            f'<form action="/{name}" method="post">\n<label for="{name}">{text(1, 2)}</label>\n'
            f'<input type="text" id="{name}" name="{name}">\n'
            f'<button type="submit">{text(1, 1)}</button>\n</form>'
        )

    parts = (
        lambda: f"<p>{text(4, 16)}</p>",
        lambda: f"<h2>{text(1, 4)}</h2>",
        lambda: f'<a href="/{rng.randint(1, 99)}">{text(1, 3)}</a>',
        lambda: f'<div class="{rng.choice(("note", "card", "main"))}">{text(2, 8)}</div>',
        table,
        items,
        form,
    )
    body = "\n".join(rng.choice(parts)() for _ in range(rng.randint(2, 4)))
    title = text(1, 4)
    page = (
        f"<!DOCTYPE html>\n<html>\n<head>\n<title>{title}</title>\n</head>\n<body>\n"
        f"<h1>{title}</h1>\n{body}\n</body>\n</html>"
    )
    return Document("", page, True)
