"""Whole texts: lm-eval's windows, exact values, and a bound that is one."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from decoders import Model
from decoders.likelihood import Item, Likelihood, corpus_likelihood
from decoders.likelihood.corpus import rolling


@given(st.integers(0, 40), st.integers(2, 12), st.data())
def test_windows_equal_lm_eval(length, most, data) -> None:
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    context = data.draw(st.integers(1, most - 1))
    text = list(range(100, 100 + length))
    theirs = [
        make_disjoint_window(pair) for pair in get_rolling_token_windows(text, 7, most, context)
    ]
    ours = rolling(text, [7], most, context, causal=True)
    assert [tuple(map(list, pair)) for pair in ours] == theirs


@given(st.integers(0, 40), st.integers(4, 12), st.integers(0, 2), st.integers(1, 3), st.booleans())
def test_windows_score_each_token_once_and_fit(length, most, before, context, causal) -> None:
    text = list(range(length))
    windows = rolling(text, [99] * before, most, context, causal)
    assert [token for _, scored in windows for token in scored] == text
    for seen, scored in windows:
        assert scored and len(seen) + len(scored) - causal <= most
    for seen, scored in windows[1:]:
        assert len(seen) >= min(context, scored[0])
        assert seen == tuple(range(scored[0] - len(seen), scored[0]))


def test_causal_texts_are_exact(causal: Model) -> None:
    short = replace(causal, max_length=8)
    texts = [(4, 9, 11), tuple(range(1, 22)), ()]
    values = corpus_likelihood(Likelihood(short), texts, ["a", "b", "c"], prefix=[7])
    expected = []
    for text in texts:
        total = 0.0
        for seen, scored in rolling(text, [7], 8, 1, causal=True):
            logits = causal.network(torch.tensor([[*seen, *scored]])).logits[0]
            rows = logits[len(seen) - 1 : -1].double().log_softmax(-1)
            total += float(rows.gather(1, torch.tensor(scored)[:, None]).sum())
        expected.append(total)
    assert [value.logprob for value in values] == pytest.approx(expected, rel=1e-5)
    assert [value.tokens for value in values] == [3, 21, 0]
    assert all(value.stderr == 0.0 and value.error is None for value in values)


def test_the_estimate_is_the_mean_over_all_masks(masked: Model) -> None:
    """LLaDA's estimate is that of a bound which three tokens let us write out: a number of masks
    at random, then a set of that size at random."""
    text, network = (11, 57, 140), masked.network
    bound = 0.0
    for count in (1, 2, 3):
        sets = list(itertools.combinations(range(3), count))
        for places in sets:
            noisy = torch.tensor([[199 if n in places else t for n, t in enumerate(text)]])
            seen = torch.zeros(1, 1, 3, 3)
            rows = network(noisy, attention_mask=seen).logits[0].double().log_softmax(-1)
            bound += sum(float(rows[n, text[n]]) for n in places) * (3 / count) / len(sets) / 3
    # The bound lies below every order's chain rule on average (Jensen's inequality).
    orders = []
    for order in itertools.permutations(range(3)):
        noisy, total = [199] * 3, 0.0
        for place in order:
            seen = torch.zeros(1, 1, 3, 3)
            logits = network(torch.tensor([noisy]), attention_mask=seen).logits[0, place]
            total += float(logits.double().log_softmax(-1)[text[place]])
            noisy[place] = text[place]
        orders.append(total)
    assert bound == pytest.approx(sum(orders) / 6, rel=1e-5)
    assert bound <= math.log(sum(map(math.exp, orders)) / 6)
    (value,) = corpus_likelihood(Likelihood(masked), [text], ["a"], mc_num=3000, batch=3)
    assert abs(value.logprob - bound) < 4 * value.stderr
    assert 0 < value.stderr < 0.05 * abs(bound)


def test_masked_values_belong_to_their_texts(masked: Model) -> None:
    short = replace(masked, max_length=8)
    texts = {"a": (4, 9, 11), "b": tuple(range(1, 22)), "c": (5,), "d": ()}
    engine = Likelihood(short)
    values = corpus_likelihood(engine, list(texts.values()), list(texts), mc_num=4, batch=2)
    turned = corpus_likelihood(
        engine, list(texts.values())[::-1], list(texts)[::-1], mc_num=4, batch=2
    )
    for value, other in zip(values, turned[::-1], strict=True):
        assert value.logprob == pytest.approx(other.logprob, rel=1e-5)
        assert value.forwards == other.forwards
    assert [value.tokens for value in values] == [3, 21, 1, 0]
    assert [value.forwards for value in values] == [4, 12, 1, 0]
    assert values[2].stderr == 0.0 and values[1].stderr > 0
    parts = [
        Item(f"b/{n}", seen, scored)
        for n, (seen, scored) in enumerate(rolling(texts["b"], [], 8, 1, causal=False))
    ]
    alone = engine.score(parts, mc_num=4, batch=2)
    assert values[1].logprob == pytest.approx(sum(part.logprob for part in alone), rel=1e-5)


def test_a_text_that_cannot_be_scored_says_why(masked: Model, causal: Model) -> None:
    values = corpus_likelihood(
        Likelihood(masked), [(4, 199), (4, 9)], ["a", "b"], mc_num=2, batch=2
    )
    assert math.isnan(values[0].logprob) and "mask token" in values[0].error
    assert values[1].error is None
    with pytest.raises(ValueError, match="prefix of one token, got 0"):
        corpus_likelihood(Likelihood(causal), [(4,)], ["a"])
    with pytest.raises(ValueError, match="must leave room in 512 positions"):
        corpus_likelihood(Likelihood(masked), [(4,)], ["a"], context=512)
