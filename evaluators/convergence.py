"""When a sample's answer was first right: from a trace, the answer at each step of decoding.

At each step the masks are filled with the model's best tokens of that step and the text goes
through the same filters as the final one. Steps are counted from 1, the last is the final
output. Early right answers are the subject of Prophet (arXiv:2508.19982).
"""

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from evaluators.task import Score


class Judged(NamedTuple):
    """What a sample would have answered had decoding stopped at a step."""

    answer: str | None
    correct: bool | None


@dataclass(frozen=True, slots=True)
class Convergence:
    """The history of one sample's answer; steps from 1, None where a thing never happened."""

    first_correct_step: int | None
    """The first step with the right answer."""
    converged_step: int | None
    """Right from there on to the end; None when the final answer is wrong."""
    last_change_step: int | None
    """The answer changed there for the last time. Before step 1 there is no answer, so a
    first answer is a change; None only if no step has an answer."""
    oscillated: bool | None
    """Right at some step and wrong at the end; None when the final output was not judged."""


def converge(judged: Sequence[tuple[str | None, bool | None]]) -> Convergence:
    """Summarises the (answer, correct) of steps 1 to S, the last being the final output.

    A step that was not judged (correct is None) counts as not right. Where the final one was
    not judged, or there are no steps, nothing is said about correctness.
    """
    last_change = None
    before: str | None = None
    for step, (answer, _) in enumerate(judged, start=1):
        if answer != before:
            last_change = step
        before = answer
    if not judged or judged[-1][1] is None:
        return Convergence(None, None, last_change, None)
    right = [correct is True for _, correct in judged]
    first = right.index(True) + 1 if any(right) else None
    if not right[-1]:
        return Convergence(first, None, last_change, first is not None)
    last_wrong = len(right) - right[::-1].index(False) if False in right else 0
    return Convergence(first, last_wrong + 1, last_change, False)


def converge_texts(
    texts: Sequence[str], score: Callable[[str], Score], at: Container[int] | None = None
) -> tuple[list[Judged], Convergence]:
    """Scores the text of each step and summarises.

    Most steps repeat an earlier text, so each distinct one is scored once.

    Args:
        texts: The output as it would have been at steps 1 to S, cut at the stop strings.
        score: A task's `score` with the sample bound.
        at: The steps to score besides the last, where scoring is expensive; None for all.

    Returns:
        The judgement of each step, aligned with `texts`, and their summary over the steps that
        were scored. A step that was not is neither right nor wrong: (None, None).
    """
    seen: dict[str, Judged] = {}
    judged = [Judged(None, None)] * len(texts)
    steps = [step for step in range(1, len(texts) + 1) if at is None or step in at]
    if texts and steps[-1:] != [len(texts)]:
        steps.append(len(texts))
    for step in steps:
        text = texts[step - 1]
        if text not in seen:
            scored = score(text)
            seen[text] = Judged(scored.answer, scored.correct)
        judged[step - 1] = seen[text]
    found = converge([judged[step - 1] for step in steps])

    def step_of(place: int | None) -> int | None:
        return None if place is None else steps[place - 1]

    return judged, Convergence(
        step_of(found.first_correct_step),
        step_of(found.converged_step),
        step_of(found.last_change_step),
        found.oscillated,
    )
