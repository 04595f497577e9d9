"""LM1B: prefixes, and the perplexity of what a model writes after them."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evaluators import DataError, LogLikelihood, Sample, lm1b
from evaluators.store import read

ANY_TEXT = st.text(st.characters(exclude_categories=()))
SAMPLES = lm1b.load()
SAMPLE = Sample("7", "d e", None, {"prefix": "a b c"})


def uniform(prefix: str, continuation: str) -> LogLikelihood:
    """Every word has probability 1/8."""
    tokens = len(continuation.split())
    return LogLikelihood(-tokens * math.log(8), tokens)


def test_samples_are_the_long_sentences_of_the_official_file() -> None:
    sentences = [row["text"] for row in read("lm1b_test")]
    assert len(sentences) == 6075
    assert sum(len(sentence.split()) for sentence in sentences) == 153_583
    long = [index for index, text in enumerate(sentences) if len(text.split()) >= 12]
    assert [sample.sample_id for sample in SAMPLES] == [str(index) for index in long]
    prompts = lm1b.prompts(SAMPLES)
    for sample, prompt in zip(SAMPLES, prompts, strict=True):
        assert len(prompt.text.split()) == 8
        assert f"{prompt.text} {sample.target}" == sentences[int(sample.sample_id)]


def test_prefix_length_is_a_setting() -> None:
    assert len(lm1b.load(prefix_words=3)[0].fields["prefix"].split()) == 3
    with pytest.raises(ValueError, match="at least 1, got 0"):
        lm1b.load(prefix_words=0)
    with pytest.raises(DataError, match="no sentence has the 5004 words"):
        lm1b.load(prefix_words=5000)
    with pytest.raises(ValueError, match="must be 0, got 2"):
        lm1b.prompts(SAMPLES, 2)


def test_score_is_the_mean_nll_of_the_output() -> None:
    seen = []

    def scorer(prefix: str, continuation: str) -> LogLikelihood:
        seen.append((prefix, continuation))
        return uniform(prefix, continuation)

    result = lm1b.score(SAMPLE, " x y x y", scorer)
    assert seen == [("a b c", " x y x y")]
    assert result.correct is None
    assert result.score == pytest.approx(math.log(8))
    assert result.metrics == pytest.approx(
        {
            "nll": 4 * math.log(8),
            "scored_tokens": 4.0,
            "unigram_entropy_nats": math.log(2),
            "distinct_2": 2 / 3,
        }
    )


def test_one_word_has_no_pairs() -> None:
    metrics = lm1b.score(SAMPLE, "x", uniform).metrics
    assert set(metrics) == {"nll", "scored_tokens", "unigram_entropy_nats"}
    assert metrics["unigram_entropy_nats"] == 0.0


@pytest.mark.parametrize("output", ["", " ", "\n", "\u2003"])
def test_an_output_without_a_word_is_not_scored(output) -> None:
    result = lm1b.score(SAMPLE, output, uniform)
    assert (result.score, dict(result.metrics)) == (None, {})


@pytest.mark.parametrize(
    ("logprob", "tokens"), [(math.nan, 3), (-math.inf, 3), (math.inf, 3), (-1.0, 0)]
)
def test_a_likelihood_that_is_no_number_is_an_error(logprob, tokens) -> None:
    with pytest.raises(ValueError, match=r"sample 7: .* finite log-likelihood"):
        lm1b.score(SAMPLE, "x", lambda prefix, text: LogLikelihood(logprob, tokens))


def test_no_scorer_is_an_error() -> None:
    with pytest.raises(ValueError, match="needs a scorer"):
        lm1b.score(SAMPLE, "x")


@given(ANY_TEXT)
@example("18 A\x00 \ud800x\udfff")
def test_any_text_has_finite_metrics_and_reaches_the_scorer_as_utf8(text) -> None:
    def scorer(prefix: str, continuation: str) -> LogLikelihood:
        continuation.encode("utf-8")
        return LogLikelihood(-1.0, 1)

    assert all(math.isfinite(value) for value in lm1b.score(SAMPLE, text, scorer).metrics.values())


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=30))
def test_entropy_is_between_zero_and_that_of_equal_shares(words) -> None:
    entropy = lm1b.unigram_entropy(words)
    assert 0 <= entropy <= math.log(len(set(words))) + 1e-12


def test_aggregate_weighs_tokens() -> None:
    scores = [
        lm1b.score(SAMPLE, "x", lambda prefix, text: LogLikelihood(-3.0, 1)),
        lm1b.score(SAMPLE, "x y z", lambda prefix, text: LogLikelihood(-3.0, 3)),
        lm1b.score(SAMPLE, "", uniform),
    ]
    assert lm1b.aggregate(scores) == pytest.approx(
        {
            "empty": 1 / 3,
            "perplexity": math.exp(6 / 4),
            "unigram_entropy_nats": math.log(3) / 2,
            "distinct_2": 1.0,
        }
    )


def test_aggregate_at_the_edges() -> None:
    assert lm1b.aggregate([]) == {}
    assert lm1b.aggregate([lm1b.score(SAMPLE, "", uniform)]) == {"empty": 1.0}
    absurd = lm1b.score(SAMPLE, "x", lambda prefix, text: LogLikelihood(-1e6, 1))
    assert lm1b.aggregate([absurd])["perplexity"] == math.inf
