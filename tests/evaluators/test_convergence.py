"""Convergence against a definition written from the words of the result schema."""

from hypothesis import given
from hypothesis import strategies as st

from evaluators import Convergence, Score, converge, converge_texts

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
