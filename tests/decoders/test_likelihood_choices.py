"""The engine that picks the likeliest of a question's choices."""

import math
from dataclasses import replace

import pytest
import torch

from decoders import DecoderError, Model, Request, make_decoder
from decoders.likelihood import (
    ChoiceRequest,
    ChoiceResult,
    Item,
    Likelihood,
    LikelihoodEngine,
    encode_pair,
)
from decoders.recipes.likelihood import ByLikelihood

PROMPT = (5, 17, 42, 9, 30, 3)
LETTERS = ((33,), (34,), (35,), (36,))


def request(sid: str = "q", choices=LETTERS, prompt=PROMPT, **settings) -> ChoiceRequest:
    return ChoiceRequest(sid, prompt, ByLikelihood(**settings), choices=choices)


def run(engine: LikelihoodEngine, *requests: ChoiceRequest) -> list[ChoiceResult]:
    for asked in requests:
        engine.submit(asked)
    done: list[ChoiceResult] = []
    while engine.load:
        done += engine.step()
    return done


def test_the_likeliest_choice_is_the_output(masked: Model, causal: Model) -> None:
    for model in (masked, causal):
        (result,) = run(LikelihoodEngine(model, 4), request())
        expected = Likelihood(model).score([Item("q", PROMPT, choice) for choice in LETTERS])
        assert result.values == tuple(value.logprob for value in expected)
        assert result.output_ids == LETTERS[result.values.index(max(result.values))]
        assert (result.nfe, result.token_forwards) == (1, 7 if model is masked else 6)
        assert result.nfe_ar == (1 if model is causal else 0)
        assert result.error is None and 0 < result.decode_s <= result.latency_s


def test_guidance_and_samples_are_counted(masked: Model) -> None:
    choices = ((4, 9, 10), (7, 8, 11))
    (result,) = run(
        LikelihoodEngine(masked, 1), request(choices=choices, mc_num=4, batch=2, cfg_scale=0.5)
    )
    assert result.nfe == 8
    assert result.token_forwards == 8 * 9 * 2
    assert all(stderr is not None and stderr > 0 for stderr in result.stderrs)


def test_rows_do_not_depend_on_slots_or_order(masked: Model) -> None:
    asked = [
        request(
            f"q{n}", ((n, 2, 3), (n, 9)), (7,) * (1 + 5 * n % 17), mc_num=2 + 2 * (n % 2), batch=2
        )
        for n in range(9)
    ]
    one = {result.sid: result for result in run(LikelihoodEngine(masked, 1), *asked)}
    four = {result.sid: result for result in run(LikelihoodEngine(masked, 4), *reversed(asked))}
    assert one.keys() == four.keys() and len(one) == 9
    for sid, result in one.items():
        assert result.values == pytest.approx(four[sid].values, rel=1e-5)
        assert result.output_ids == four[sid].output_ids
        assert (result.nfe, result.token_forwards) == (four[sid].nfe, four[sid].token_forwards)


def test_slots_bound_a_step(masked: Model) -> None:
    engine = LikelihoodEngine(masked, 2)
    for n in range(5):
        engine.submit(request(f"q{n}"))
    assert [len(engine.step()) for _ in range(3)] == [2, 2, 1]
    assert engine.step() == [] and engine.load == 0


def test_equal_choices_go_to_the_first(masked: Model) -> None:
    (result,) = run(LikelihoodEngine(masked, 1), request(choices=((33, 4), (33, 4)), mc_num=8))
    assert result.values[0] == result.values[1]
    assert result.output_ids == (33, 4)


def test_a_value_that_is_no_number_is_never_the_answer(masked: Model) -> None:
    class Broken(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base_model, self.config = masked.network.base_model, masked.network.config

        def lm_head(self, hidden):
            return masked.network.lm_head(hidden) * math.nan

    engine = LikelihoodEngine(replace(masked, network=Broken()), 1)
    (result,) = run(engine, request())
    assert result.output_ids == ()
    assert result.error.startswith("choice 0: the model gave a log-likelihood of nan; choice 1")


def test_requests_that_cannot_be_scored_are_refused(masked: Model, causal: Model) -> None:
    engine = LikelihoodEngine(masked, 1)
    with pytest.raises(DecoderError, match="needs a request with choices"):
        engine.submit(request(choices=()))
    with pytest.raises(DecoderError, match="needs a request with choices"):
        engine.submit(Request("q", PROMPT, ByLikelihood()))
    with pytest.raises(DecoderError, match="ar scores no choices"):
        engine.submit(ChoiceRequest("q", PROMPT, make_decoder("ar", {}), choices=LETTERS))
    with pytest.raises(DecoderError, match="answer of at least one token"):
        engine.submit(request(choices=((3,), ())))
    with pytest.raises(DecoderError, match="512 positions"):
        engine.submit(request(prompt=(3,) * 510, choices=((3,), (1, 2, 3))))
    with pytest.raises(DecoderError, match="cfg_scale needs a masked model"):
        LikelihoodEngine(causal, 1).submit(request(cfg_scale=1.0))
    with pytest.raises(DecoderError, match="slots"):
        LikelihoodEngine(masked, 0)
    assert engine.load == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mc_num": 0}, "mc_num must be a whole number"),
        ({"mc_num": 5, "batch": 2}, "multiple of batch, got 5 and 2"),
        ({"cfg_scale": -1.0}, "cfg_scale must lie in"),
        ({"gen_length": 2}, "do nothing here"),
        ({"temperature": 1.0}, "do nothing here"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message) -> None:
    with pytest.raises(DecoderError, match=message):
        ByLikelihood(**settings)


def test_pairs_are_cut_as_lm_eval_cuts_them() -> None:
    """White space at the context's end is the continuation's, and merges stay whole."""

    def encode(text: str) -> list[int]:
        """A word with the space before it is a token; its id is its length."""
        pieces: list[str] = []
        for character in text:
            if not pieces or character == " ":
                pieces.append("")
            pieces[-1] += character
        return [1, *map(len, pieces)]

    assert encode_pair(encode, "Answer:", " A") == ((1, 7), (2,))
    assert encode_pair(encode, "Answer: ", "A") == ((1, 7), (2,))
    assert encode_pair(encode, "To be", " or not") == ((1, 2, 3), (3, 4))
    with pytest.raises(DecoderError, match="adds no token"):
        encode_pair(encode, "To be", "")
