"""Many answers at once against one at a time and against the plain forward."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from decoders import DecoderError, Model
from decoders.likelihood import Item, Likelihood, masked_likelihood
from decoders.noise import seed_of

PROMPT = (5, 17, 42, 9, 100, 3)
CLOSE = {"rel": 1e-5, "abs": 1e-5}


def exact(model: Model, prompt: tuple[int, ...], answer: tuple[int, ...]) -> list[float]:
    """Each answer token's log-probability under transformers' own forward."""
    tokens = torch.tensor([[*prompt, *answer]])
    rows = model.network(tokens).logits[0, len(prompt) - 1 : -1].double().log_softmax(-1)
    return rows.gather(1, tokens[0, len(prompt) :, None])[:, 0].tolist()


def alone(model: Model, item: Item, **given: float) -> float:
    """The value as LLaDA's own procedure finds it, with the item's draws."""
    values = {"mc_num": 8, "batch": 4, **given}
    generator = torch.Generator().manual_seed(seed_of(item.sid))
    return masked_likelihood(model, item.prompt, item.answer, generator=generator, **values)[0]


def test_causal_values_are_the_chain_rule(causal: Model) -> None:
    items = [Item("a", (3, 9), (4,)), Item("b", (8,), (1, 2, 3)), Item("c", (3, 9, 9, 1), (7, 7))]
    values = Likelihood(causal).score(items, per_token=True)
    for item, value in zip(items, values, strict=True):
        expected = exact(causal, item.prompt, item.answer)
        assert value.tokens == pytest.approx(expected, **CLOSE)
        assert value.logprob == pytest.approx(sum(expected), **CLOSE)
        assert (value.stderr, value.forwards, value.error) == (0.0, 1, None)
        assert value.positions == len(item.prompt) + len(item.answer) - 1
    assert Likelihood(causal).score(items)[0].tokens is None


def test_greedy_is_what_the_model_would_write(causal: Model) -> None:
    text = [3, 9]
    for _ in range(3):
        text.append(int(causal.network(torch.tensor([text])).logits[0, -1].argmax()))
    answer = tuple(text[2:])
    other = (*answer[:-1], (answer[-1] + 1) % 60)
    values = Likelihood(causal).score([Item("a", (3, 9), answer), Item("b", (3, 9), other)])
    assert [value.is_greedy for value in values] == [True, False]


@pytest.mark.parametrize("cfg_scale", [0.0, 0.5])
@pytest.mark.parametrize("shift", [0, 1])
def test_masked_values_are_the_reference_procedure(masked: Model, shift, cfg_scale) -> None:
    model = replace(masked, shift=shift)
    items = [
        Item("a", PROMPT, (33,)),
        Item("b", PROMPT, (4, 9, 100, 7, 8, 77, 31, 2)),
        Item("c", PROMPT[:2], (4, 9, 100)),
        Item("d", (), (11, 12, 13, 14)),
    ]
    values = Likelihood(model).score(items, mc_num=8, batch=4, cfg_scale=cfg_scale)
    expected = [alone(model, item, cfg_scale=cfg_scale) for item in items]
    assert [value.logprob for value in values] == pytest.approx(expected, **CLOSE)
    assert [value.forwards for value in values] == [1, 8, 8, 8]
    assert values[1].positions == 8 * 14 * (2 if cfg_scale else 1)
    assert values[0].stderr == 0.0
    assert all(value.stderr and value.stderr > 0 for value in values[1:])
    assert all(value.is_greedy is None and value.seconds > 0 for value in values)


def test_choices_of_one_token_share_one_forward(masked: Model, causal: Model) -> None:
    """And their values are exactly those of a forward each."""
    for model, prompt in ((masked, PROMPT), (causal, (3, 9, 4))):
        engine = Likelihood(model)
        items = [Item("q", prompt, (token,)) for token in (30, 31, 32, 33)]
        together = engine.score(items, mc_num=1, batch=1)
        one_by_one = [engine.score([item], mc_num=1, batch=1)[0] for item in items]
        assert [v.logprob for v in together] == [v.logprob for v in one_by_one]
        assert [v.forwards for v in together] == [1, 0, 0, 0]
        assert [v.forwards for v in one_by_one] == [1, 1, 1, 1]
        assert len({v.logprob for v in together}) == 4


def test_one_token_needs_one_sample(masked: Model) -> None:
    item = Item("q", PROMPT, (30,))
    many, one = (Likelihood(masked).score([item], mc_num=n, batch=1)[0] for n in (64, 1))
    assert many.logprob == one.logprob == pytest.approx(alone(masked, item), **CLOSE)
    assert many.forwards == 1


token = st.integers(0, 59)
items = st.lists(
    st.tuples(
        st.lists(token, min_size=1, max_size=9).map(tuple),
        st.lists(token, min_size=1, max_size=5).map(tuple),
    ),
    min_size=1,
    max_size=7,
)


@settings(
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(items, st.randoms(use_true_random=False), st.integers(1, 80))
def test_a_value_belongs_to_its_item(masked, causal, pairs, random, positions) -> None:
    """Neighbours, order and the size of a forward change nothing."""
    listed = [Item(f"s{n}", prompt, answer) for n, (prompt, answer) in enumerate(pairs)]
    shuffled = random.sample(listed, len(listed))
    for model in (masked, causal):
        values = Likelihood(model, positions).score(shuffled, mc_num=4, batch=2)
        for item, value in zip(shuffled, values, strict=True):
            own = Likelihood(model).score([item], mc_num=4, batch=2)[0]
            assert value.logprob == pytest.approx(own.logprob, **CLOSE)
            assert (value.forwards, value.positions) == (own.forwards, own.positions)


def test_draws_come_from_the_sid(masked: Model) -> None:
    answer = (4, 9, 100, 7, 8, 77)
    sids = ["a", "b", "a"]
    values = Likelihood(masked).score([Item(s, PROMPT, answer) for s in sids], mc_num=2, batch=2)
    assert values[0].logprob == values[2].logprob != values[1].logprob


def test_the_stated_error_is_that_of_repeats(masked: Model) -> None:
    answer = (4, 9, 100, 7, 8, 77)
    repeats = [Item(f"r{n}", PROMPT, answer) for n in range(60)]
    values = Likelihood(masked).score(repeats, mc_num=32, batch=2)
    spread = torch.tensor([value.logprob for value in values]).std().item()
    stated = math.sqrt(sum(value.stderr**2 for value in values) / len(values))
    assert stated == pytest.approx(spread, rel=0.35)
    single = Likelihood(masked).score(repeats[:1], mc_num=1, batch=1)[0]
    assert single.stderr is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_an_error_of_its_item(masked: Model, value) -> None:
    class Broken(torch.nn.Module):
        """Gives token 31 this logit."""

        def __init__(self) -> None:
            super().__init__()
            self.base_model, self.config = masked.network.base_model, masked.network.config

        def lm_head(self, hidden):
            logits = masked.network.lm_head(hidden)
            logits[..., 31] = value
            return logits

    broken = replace(masked, network=Broken())
    listed = [Item("a", PROMPT, (31,)), Item("b", PROMPT, (30,))]
    one, other = Likelihood(broken).score(listed, mc_num=1, batch=1)
    assert math.isnan(one.logprob) and "log-likelihood of" in one.error
    assert (other.error is None) is (value == -math.inf)


def test_a_bad_item_does_not_stop_the_others(masked: Model, causal: Model) -> None:
    good = Item("a", PROMPT, (30,))
    bad = {
        Item("b", PROMPT, ()): "answer of at least one token",
        Item("c", PROMPT, (199,)): "mask token",
        Item("d", PROMPT, (4000,)): "outside the 200",
        Item("e", (1,) * 512, (4,)): "512 positions",
    }
    values = Likelihood(masked).score([*bad, good], mc_num=1, batch=1)
    for value, reason in zip(values, bad.values(), strict=False):
        assert math.isnan(value.logprob) and reason in value.error
    assert values[-1].error is None
    unprompted = Likelihood(causal).score([Item("a", (), (3,))])[0]
    assert "prompt of at least one token" in unprompted.error
    fits, does_not = Likelihood(causal).score([Item("a", (1,) * n, (4,)) for n in (256, 257)])
    assert fits.error is None and does_not.error
    assert Likelihood(causal).score([]) == []


def test_models_and_settings_that_do_not_fit_are_refused(masked: Model, causal: Model) -> None:
    with pytest.raises(DecoderError, match="block-causal"):
        Likelihood(replace(masked, visibility="block-causal", block=4))
    with pytest.raises(DecoderError, match="mask id"):
        Likelihood(replace(masked, mask_id=None))
    with pytest.raises(DecoderError, match="positions"):
        Likelihood(masked, 0)
    with pytest.raises(DecoderError, match="multiple of the batch, got 5 and 2"):
        Likelihood(masked).score([], mc_num=5, batch=2)
    with pytest.raises(DecoderError, match="cfg_scale needs a masked model"):
        Likelihood(causal).score([], cfg_scale=0.5)
    with pytest.raises(DecoderError, match="cfg_scale must be"):
        Likelihood(masked).score([], cfg_scale=-1)


def test_forwards_are_filled_up_to_their_budget(masked: Model) -> None:
    fed: list[tuple[int, int]] = []
    network = masked.network

    class Watched(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config, self.lm_head, self.inner = network.config, network.lm_head, network

        def base_model(self, input_ids, **given):
            fed.append(tuple(input_ids.shape))
            return network.base_model(input_ids=input_ids, **given)

    listed = [Item(f"s{n}", (1,) * (4 + n % 20), (2,)) for n in range(40)]
    Likelihood(replace(masked, network=Watched()), 256).score(listed, mc_num=1, batch=1)
    assert len(fed) <= 5
    assert sum(rows for rows, _ in fed) == 40
