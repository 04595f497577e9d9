"""Tasks that are answered by the likeliest of given choices, not by writing.

What such a task has beside the four functions of any: prompts that carry their choices, and a
judgement of the choices' log-likelihoods.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from evaluators.task import Prompt, Sample, Score, Task


@dataclass(frozen=True, slots=True)
class ChoicePrompt(Prompt):
    """A prompt with the texts that may follow it."""

    choices: tuple[str, ...] = ()
    """Continuations, each with the space that parts it from the prompt."""


class JudgeFunction(Protocol):
    def __call__(self, sample: Sample, logprobs: Sequence[float]) -> Score: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceTask(Task):
    """A task whose prompts are `ChoicePrompt`s."""

    judge: JudgeFunction
    """Scores a sample by the log-likelihoods in nats of its choices, in their order."""


def likeliest(logprobs: Sequence[float], count: int) -> int:
    """Which choice is the likeliest; of equally likely ones the first, as lm-eval has it.

    Raises:
        ValueError: there are not `count` values, or one is no finite number, which an argmax would
            take for the best.
    """
    if len(logprobs) != count:
        raise ValueError(f"there must be {count} log-likelihoods, got {len(logprobs)}")
    if not all(map(math.isfinite, logprobs)):
        raise ValueError(f"log-likelihoods must be finite numbers, got {list(logprobs)}")
    return max(range(count), key=logprobs.__getitem__)


def margin(logprobs: Sequence[float]) -> float:
    """Nats between the likeliest choice and the next; 0 where they are equally likely."""
    best, second = sorted(logprobs, reverse=True)[:2]
    return best - second
