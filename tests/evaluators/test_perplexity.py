"""Corpus perplexity against lm-eval's own metrics."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.perplexity import count_bytes, count_words, perplexity

TEXTS = ["the cat sat .", " a b\tc\n", "é", ""]


def test_perplexities_equal_lm_eval(offline) -> None:
    from lm_eval.api.metrics import bits_per_byte, weighted_perplexity
    from lm_eval.tasks.wikitext import preprocess_wikitext

    logprobs = [-10.5, -3.25, -7.0, 0.0]
    found = perplexity(TEXTS, logprobs, [5, 4, 2, 0], "bpe")
    theirs = [
        preprocess_wikitext.process_results({"page": text}, [value])
        for text, value in zip(TEXTS, logprobs, strict=True)
    ]
    expected = {
        name: rule([each[name] for each in theirs])
        for name, rule in {
            "word_perplexity": weighted_perplexity,
            "byte_perplexity": weighted_perplexity,
            "bits_per_byte": bits_per_byte,
        }.items()
    }
    assert found.per_word == pytest.approx(expected["word_perplexity"])
    assert found.per_byte == pytest.approx(expected["byte_perplexity"])
    assert found.bits_per_byte == pytest.approx(expected["bits_per_byte"])
    assert found.per_token == pytest.approx(math.exp(20.75 / 11))
    assert (found.is_bound, found.mc_stderr, found.tokenizer) == (False, 0.0, "bpe")
    assert found.interval(found.tokens) == (found.per_token, found.per_token)


@given(st.text())
def test_words_are_counted_as_lm_eval_counts(text) -> None:
    import re

    assert count_words(text) == len(re.split(r"\s+", text))
    assert count_bytes(text) == len(text.encode())


def test_a_bound_is_named_one() -> None:
    exact = perplexity(["a b"], [-2.0], [2], "bpe").metrics()
    bound = perplexity(["a b"], [-2.0], [2], "bpe", mc_num=16, stderrs=[0.5]).metrics()
    assert "perplexity_per_token" in exact and "mc_num" not in exact
    assert not any(name.startswith("perplexity_per") for name in bound)
    assert bound["perplexity_bound_per_token"] == exact["perplexity_per_token"]
    assert bound["bits_per_byte_bound"] == exact["bits_per_byte"]
    assert (bound["mc_num"], bound["mc_stderr_nats_per_token"]) == (16.0, 0.25)


def test_the_interval_is_that_of_the_draws() -> None:
    found = perplexity(["a", "b"], [-2.0, -4.0], [3, 3], "bpe", mc_num=8, stderrs=[0.3, 0.4])
    assert found.mc_stderr == pytest.approx(0.5)
    low, high = found.interval(found.tokens)
    assert low < found.per_token < high
    assert math.log(high / low) == pytest.approx(2 * 1.959964 * 0.5 / 6)
    for stderrs in (None, [0.3, None]):
        unknown = perplexity(["a", "b"], [-2.0, -4.0], [3, 3], "bpe", mc_num=1, stderrs=stderrs)
        assert unknown.interval(unknown.words) is None
        assert "mc_stderr_nats_per_token" not in unknown.metrics()


def test_what_cannot_be_averaged_is_refused() -> None:
    with pytest.raises(ValueError, match=r"text 1 and 0 more .* got nan"):
        perplexity(["a", "b"], [-1.0, math.nan], [1, 1], "bpe")
    with pytest.raises(ValueError, match=r"equally long, got \[1, 2\]"):
        perplexity(["a", "b"], [-1.0], [1, 1], "bpe")
    with pytest.raises(ValueError, match="at least one token"):
        perplexity([], [], [], "bpe")
    assert perplexity(["a"], [-1e6], [1], "bpe").per_token == math.inf
