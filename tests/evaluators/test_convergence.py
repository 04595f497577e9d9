"""Convergence against a definition written from the words of the result schema."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators import Convergence, Score, converge, converge_texts, get_task

ANSWERS = st.sampled_from([None, "1", "2", "3"])
HISTORY = st.lists(st.tuples(ANSWERS, st.sampled_from([True, False, None])), max_size=12)


def naive(judged) -> Convergence:
    steps = range(1, len(judged) + 1)
    answer = {0: None} | {step: judged[step - 1][0] for step in steps}
    changes = [step for step in steps if answer[step] != answer[step - 1]]
    last_change = max(changes, default=None)
    if not judged or judged[-1][1] is None:
        return Convergence(None, None, last_change, None)
    right = {step: judged[step - 1][1] is True for step in steps}
    first = min((step for step in steps if right[step]), default=None)
    stays = [step for step in steps if all(right[later] for later in steps if later >= step)]
    oscillated = any(right.values()) and not right[len(judged)]
    return Convergence(first, min(stays, default=None), last_change, oscillated)


@given(HISTORY)
def test_equals_the_naive_definition(judged) -> None:
    assert converge(judged) == naive(judged)


@given(HISTORY)
def test_steps_are_ordered(judged) -> None:
    result = converge(judged)
    if result.converged_step is not None:
        assert 1 <= result.first_correct_step <= result.converged_step <= len(judged)
        assert result.oscillated is False
    if result.oscillated:
        assert result.first_correct_step is not None


def test_right_early_then_lost_then_right_again() -> None:
    judged = [(None, False), ("4", True), ("5", False), ("4", True), ("4", True)]
    assert converge(judged) == Convergence(2, 4, 4, False)


def test_right_once_and_wrong_at_the_end() -> None:
    assert converge([("4", True), ("5", False)]) == Convergence(1, None, 2, True)


def test_without_steps_or_judgement_nothing_is_said() -> None:
    assert converge([]) == Convergence(None, None, None, None)
    assert converge([("a", None), ("b", None)]) == Convergence(None, None, 2, None)


def test_texts_are_scored_once_each() -> None:
    calls = []

    def score(text: str) -> Score:
        calls.append(text)
        return Score(correct=text == "4", answer=text or None)

    texts = ["", "4", "4", "7", "4", "4"]
    judged, result = converge_texts(texts, score)
    assert calls == ["", "4", "7"]
    assert [item.answer for item in judged] == [None, "4", "4", "7", "4", "4"]
    assert result == converge(judged) == Convergence(2, 5, 5, False)


@given(HISTORY.map(lambda judged: [str(answer) for answer, _ in judged]))
def test_texts_equal_scoring_each_step(texts) -> None:
    def score(text: str) -> Score:
        return Score(correct=text == "1", answer=text)

    judged, result = converge_texts(texts, score)
    assert judged == [(text, text == "1") for text in texts]
    assert result == naive(judged)


def test_only_the_chosen_steps_and_the_last_are_scored() -> None:
    calls = []

    def score(text: str) -> Score:
        calls.append(text)
        return Score(correct=text == "4", answer=text)

    judged, result = converge_texts(["4", "4", "5", "6", "4", "4", "4"], score, {2, 4, 6, 99})
    assert calls == ["4", "6"]
    assert [step for step, item in enumerate(judged, start=1) if item.correct is not None] == [
        2,
        4,
        6,
        7,
    ]
    assert result == Convergence(2, 6, 6, False)
    assert converge_texts([], score, {1}) == ([], Convergence(None, None, None, None))


@given(
    HISTORY.map(lambda judged: [str(answer) for answer, _ in judged]), st.sets(st.integers(0, 12))
)
def test_a_summary_of_chosen_steps_is_that_of_the_history_without_the_others(texts, at) -> None:
    def score(text: str) -> Score:
        return Score(correct=text == "1", answer=text)

    judged, result = converge_texts(texts, score, at)
    kept = [step for step in range(1, len(texts) + 1) if step in at or step == len(texts)]
    assert [judged[step - 1] for step in kept] == [score_of(texts[step - 1]) for step in kept]
    assert all(judged[step - 1] == (None, None) for step in set(range(1, len(texts) + 1)) - {*kept})
    alone = converge([judged[step - 1] for step in kept])
    place = {None: None} | {n: step for n, step in enumerate(kept, start=1)}
    assert result == Convergence(
        place[alone.first_correct_step],
        place[alone.converged_step],
        place[alone.last_change_step],
        alone.oscillated,
    )


def score_of(text: str) -> tuple[str, bool]:
    return text, text == "1"


@pytest.mark.parametrize(
    ("budget", "steps"),
    [(64, {8, 16, 32, 48, 64}), (20, {2, 5, 10, 15, 20}), (4, {1, 2, 3, 4}), (1, {1})],
)
def test_shares_of_a_budget_are_the_whole_steps_within_them(budget, steps) -> None:
    assert get_task("humaneval").judged_steps(budget) == steps
    assert get_task("gsm8k").judged_steps(budget) is None
