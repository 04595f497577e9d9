"""HumanEval: write a Python function from its docstring (Chen et al., arXiv:2107.03374).

Prompts and stop strings are those of lm-eval's task `humaneval` (version 1). What a model
wrote is never run here: rows say `not_executed` and `correct` is null. What can be said
without running it are two static facts, read from the syntax tree.
"""

import ast
import warnings
from collections.abc import Sequence
from pathlib import Path

from evaluators.store import read
from evaluators.task import Prompt, Sample, Score, Scorer, Task

UNTIL = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
MAX_PROGRAM_CHARS = 32_768
"""Longer programs count as not parsing: the parser's memory and stack grow with its input."""


def load(data: Path | None = None) -> list[Sample]:
    """The 164 problems; `sample_id` is the official task_id.

    Raises:
        DataError: The data cannot be read.
    """
    return [Sample(row["task_id"], None, None, row) for row in read("humaneval_test", data)]


def prompts(
    samples: Sequence[Sample], num_fewshot: int = 0, data: Path | None = None
) -> list[Prompt]:
    """The official prompts: imports, signature and docstring.

    Raises:
        ValueError: num_fewshot is not 0: the benchmark has no examples.
    """
    if num_fewshot:
        raise ValueError(f"humaneval: num_fewshot must be 0, got {num_fewshot}")
    return [Prompt(sample.fields["prompt"], UNTIL) for sample in samples]


def score(sample: Sample, output: str, scorer: Scorer | None = None) -> Score:
    """Reads prompt and output as one program, without running it; never raises.

    Returns:
        A score that is not executed, with the metrics `parses` (the program is valid Python)
        and `has_body` (it also defines the asked function with more than a docstring, which an
        empty output does not).
    """
    tree = _parse(sample.fields["prompt"] + output)
    metrics = {
        "parses": float(tree is not None),
        "has_body": float(tree is not None and _has_body(tree, sample.fields["entry_point"])),
    }
    return Score(correct=None, metrics=metrics, executed=False)


def aggregate(scores: Sequence[Score]) -> dict[str, float]:
    """The shares of programs that parse and that have a body, in 0 to 1; empty without scores."""
    if not scores:
        return {}
    return {
        name: sum(item.metrics[name] for item in scores) / len(scores)
        for name in ("parses", "has_body")
    }


def _parse(program: str) -> ast.Module | None:
    if len(program) > MAX_PROGRAM_CHARS:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes and the like, in a model's code
            return ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _has_body(tree: ast.Module, entry_point: str) -> bool:
    functions = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == entry_point
    ]
    if not functions:
        return False
    body = functions[-1].body  # a later definition replaces an earlier one
    return len(body) > (ast.get_docstring(functions[-1], clean=False) is not None)


TASK = Task(
    name="humaneval",
    version="1",
    load=load,
    prompts=prompts,
    score=score,
    aggregate=aggregate,
    has_answer=False,  # nothing here judges a program, so no step can be right
)
