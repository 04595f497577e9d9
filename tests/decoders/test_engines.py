"""What an engine must hold whatever it is fed: neutrality, cost, refusals."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from decoders import (
    Decoder,
    DecoderError,
    Model,
    Request,
    make_decoder,
    make_engine,
)
from decoders.models.base import attention_bias
from tests.decoders.decoding import decoded

SLOW = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def llada(**given: object) -> Decoder:
    return make_decoder("llada", {"gen_length": 16, "steps": 8, **given})


@st.composite
def diffusion_requests(draw: st.DrawFn) -> list[Request]:
    requests = []
    for index in range(draw(st.integers(1, 7))):
        length = draw(st.integers(1, 40))
        block = draw(st.sampled_from([4, 8, 16]))
        decoder = llada(
            block_length=block,
            steps=(16 // block) * draw(st.integers(1, 5)),
            temperature=draw(st.sampled_from([0.0, 0.0, 0.7, 1.0])),
            remasking=draw(st.sampled_from(["low_confidence", "random"])),
        )
        prompt = draw(st.lists(st.integers(0, 195), min_size=length, max_size=length))
        requests.append(Request(f"s{index}", tuple(prompt), decoder, trace=draw(st.booleans())))
    return requests


@SLOW
@given(
    requests=diffusion_requests(),
    slots=st.sampled_from([1, 2, 3, 8]),
    order=st.randoms(use_true_random=False),
)
def test_a_diffusion_sample_does_not_feel_its_neighbours(
    masked: Model, requests: list[Request], slots: int, order: object
) -> None:
    alone = {}
    for request in requests:
        alone |= decoded(make_engine(masked, request.decoder, 1), [request])
    shuffled = list(requests)
    order.shuffle(shuffled)
    together = decoded(make_engine(masked, requests[0].decoder, slots), shuffled)

    assert {sid: r.output_ids for sid, r in together.items()} == {
        sid: r.output_ids for sid, r in alone.items()
    }
    for request in requests:
        result = together[request.sid]
        length = len(request.prompt_ids) + request.decoder.gen_length
        assert result.nfe == request.decoder.budget
        assert result.token_forwards == result.nfe * length


@SLOW
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=7),
    temperature=st.sampled_from([0.0, 1.0]),
    slots=st.sampled_from([2, 3, 8]),
)
def test_an_autoregressive_sample_does_not_feel_its_neighbours(
    causal: Model, lengths: list[int], temperature: float, slots: int
) -> None:
    decoder = make_decoder("ar", {"gen_length": 20, "temperature": temperature})
    generator = torch.Generator().manual_seed(sum(lengths))
    requests = [
        Request(str(n), tuple(torch.randint(8, 60, (size,), generator=generator).tolist()), decoder)
        for n, size in enumerate(lengths)
    ]
    alone = {}
    for request in requests:
        alone |= decoded(make_engine(causal, decoder, 1), [request])
    together = decoded(make_engine(causal, decoder, slots), requests[::-1])
    assert {sid: r.output_ids for sid, r in together.items()} == {
        sid: r.output_ids for sid, r in alone.items()
    }


@pytest.mark.parametrize("slots", [1, 3, 8])
def test_greedy_text_is_that_of_transformers(causal: Model, slots: int) -> None:
    generator = torch.Generator().manual_seed(1)
    prompts = [
        tuple(torch.randint(8, 60, (size,), generator=generator).tolist())
        for size in (3, 40, 17, 5, 90, 33, 21, 8)
    ]
    decoder = make_decoder("ar", {"gen_length": 40})
    results = decoded(
        make_engine(causal, decoder, slots),
        [Request(str(n), prompt, decoder) for n, prompt in enumerate(prompts)],
    )
    lengths = set()
    for n, prompt in enumerate(prompts):
        expected = causal.network.generate(
            torch.tensor([prompt]),
            max_new_tokens=40,
            do_sample=False,
            eos_token_id=7,
            pad_token_id=7,
        )[0, len(prompt) :].tolist()
        result = results[str(n)]
        assert list(result.output_ids) == expected
        assert result.nfe == result.nfe_ar == len(expected)
        assert result.token_forwards == len(prompt) + len(expected) - 1
        lengths.add(len(expected))
    assert len(lengths) > 2, "some prompts should end at EOS and some at the budget"


def test_an_autoregressive_row_ends_where_its_request_says(causal: Model) -> None:
    decoder = make_decoder("ar", {"gen_length": 40})
    prompt = tuple(range(8, 30))
    free = decoded(make_engine(causal, decoder, 1), [Request("a", prompt, decoder)])["a"]
    assert len(free.output_ids) > 6

    def five(ids: object) -> bool:
        return len(ids) >= 5

    request = Request("a", prompt, decoder, is_complete=five)
    cut = decoded(make_engine(causal, decoder, 1), [request])["a"]
    assert cut.output_ids == free.output_ids[:5]
    assert cut.nfe == 5


def test_a_trace_tells_the_whole_story(masked: Model) -> None:
    decoder = llada(block_length=8, steps=8)
    request = Request("s", tuple(range(20)), decoder, trace=True)
    traced = decoded(make_engine(masked, decoder, 2), [request])["s"]
    plain = decoded(make_engine(masked, decoder, 2), [Request("s", tuple(range(20)), decoder)])["s"]
    assert traced.output_ids == plain.output_ids
    assert plain.trace is None
    trace = traced.trace
    assert trace is not None
    assert trace.committed.shape == trace.tokens.shape == trace.confidence.shape == (8, 16)
    assert (trace.committed.sum(0) == 1).all(), "every position is written once"
    assert tuple(trace.tokens[-1]) == traced.output_ids
    assert tuple(trace.committed.argmax(0) + 1) == traced.commit_steps
    assert not trace.committed[:4, 8:].any(), "the second block waits for the first"
    assert (
        (trace.confidence[trace.committed] > 0) & (trace.confidence[trace.committed] <= 1)
    ).all()
    assert (trace.top2_gap >= 0).all()
    assert (trace.entropy > 0).all()
    assert (trace.elapsed_s[1:] >= trace.elapsed_s[:-1]).all()
    assert trace.elapsed_s[-1] == pytest.approx(traced.decode_s)


@pytest.mark.parametrize("block_length", [16, 8])
def test_a_trace_keeps_the_entropy_that_each_token_was_taken_from(
    masked: Model, block_length: int
) -> None:
    prompt, decoder = tuple(range(20)), llada(block_length=block_length, steps=8)
    request = Request("s", prompt, decoder, trace=True)
    # A neighbour of another length, so that rows and canvases do not line up by chance.
    other = Request("t", tuple(range(3)), decoder, trace=True)
    traced = decoded(make_engine(masked, decoder, 2), [other, request])["s"]
    assert traced.trace is not None and traced.trace.token_entropy is not None
    canvas = [masked.mask_id] * 16
    expected = [0.0] * 16
    with torch.inference_mode():
        for step in range(1, 9):
            tokens_1L = torch.tensor([[*prompt, *canvas]])
            bias = attention_bias(torch.ones(1, tokens_1L.shape[1], dtype=torch.bool), masked.dtype)
            logits_LV = masked.head(masked.hidden(tokens_1L, bias))[0, len(prompt) :]
            entropy_G = torch.distributions.Categorical(logits=logits_LV.double()).entropy()
            for place, at in enumerate(traced.commit_steps):
                if at == step:
                    expected[place] = float(entropy_G[place])
                    canvas[place] = traced.output_ids[place]
    assert traced.trace.token_entropy.tolist() == pytest.approx(expected, rel=1e-4)


def test_shares_of_time_add_up_to_the_engines_time(masked: Model) -> None:
    import time

    decoder = llada(steps=16)
    requests = [Request(str(n), tuple(range(5 + 9 * n)), decoder) for n in range(6)]
    began = time.perf_counter()
    results = decoded(make_engine(masked, decoder, 3), requests)
    wall = time.perf_counter() - began
    total = sum(result.decode_s for result in results.values())
    assert 0.5 * wall < total <= wall
    assert all(result.latency_s >= result.decode_s for result in results.values())


@pytest.mark.parametrize(
    ("prompt", "words"),
    [((), "empty"), ((5, 199), "mask token"), ((5, 200), "outside"), ((5,) * 500, "512")],
)
def test_a_prompt_that_cannot_be_decoded_is_refused(
    masked: Model, prompt: tuple[int, ...], words: str
) -> None:
    engine = make_engine(masked, llada(), 1)
    with pytest.raises(DecoderError, match=words):
        engine.submit(Request("s", prompt, llada()))
    assert engine.load == 0


def test_recipes_and_models_must_fit(masked: Model, causal: Model) -> None:
    with pytest.raises(DecoderError, match="mask id"):
        make_engine(causal, llada(), 1)
    ar = make_decoder("ar", {"gen_length": 4})
    with pytest.raises(DecoderError, match="causal"):
        make_engine(masked, ar, 1).submit(Request("s", (1,), ar))
    with pytest.raises(DecoderError, match="slots"):
        make_engine(masked, llada(), 0)
