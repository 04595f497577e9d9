"""The tasks by name."""

from difflib import get_close_matches

from evaluators import gsm8k, humaneval, lm1b, mmlu
from evaluators.task import Task


class UnknownTaskError(ValueError):
    """A task name that no task has."""


def tasks() -> dict[str, Task]:
    """Every task by its name."""
    return {task.name: task for task in (*gsm8k.TASKS, mmlu.TASK, *humaneval.TASKS, lm1b.TASK)}


def get_task(name: str) -> Task:
    """The task of that name.

    Raises:
        UnknownTaskError: There is none; the message names the nearest one.
    """
    known = tasks()
    if name in known:
        return known[name]
    near = get_close_matches(name.lower().replace("_", "-"), known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UnknownTaskError(f"task: got {name!r}; {hint}The tasks are {', '.join(known)}")
