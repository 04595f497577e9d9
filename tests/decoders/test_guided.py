"""Guided Diffusion against the authors' tokens, the guider's own, and a plain loop."""

import dataclasses
import json
import random
from pathlib import Path
from typing import Literal

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from transformers import Qwen2ForCausalLM

from decoders import DecoderError, Model, Request, Result
from decoders.autoregressive import AutoregressiveEngine
from decoders.guided import GuidedEngine
from decoders.recipes.autoregressive import Autoregressive
from decoders.recipes.guided import Guided
from tests.decoders.decoding import decoded

HERE = Path(__file__).parent
GOLDENS = sorted((HERE / "goldens").glob("guided.*.json"))
STRATEGIES = ("deterministic", "topk", "topk_relative", "dynamic_threshold")


def tiny(name: str, kind: Literal["diffusion", "causal"], stop: int = 198) -> Model:
    """A conformance model, read as Dream (shifted rows, mask 199) or as an ordinary causal one."""
    network = Qwen2ForCausalLM.from_pretrained(HERE / "models" / name)
    diffusion = kind == "diffusion"
    return Model(
        name=name,
        digest=name,
        family="dream" if diffusion else "qwen2",
        visibility="bidirectional" if diffusion else "causal",
        network=network.eval().requires_grad_(False),
        mask_id=199 if diffusion else None,
        eos_id=stop,
        eot_id=None,
        stop_ids=frozenset({stop}),
        vocabulary=200,
        max_length=512,
        shift=1 if diffusion else 0,
    )


@pytest.fixture(scope="module")
def dream() -> Model:
    return tiny("dream_b", "diffusion")


@pytest.fixture(scope="module")
def guider() -> Model:
    return tiny("fdv2_a", "causal")


def one(model: Model, guider: Model, request: Request) -> Result:
    return decoded(GuidedEngine(model, guider, 1), [request])[request.sid]


def prompt_of(seed: int, length: int = 8) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(0, 190, (length,), generator=generator).tolist())


@pytest.mark.parametrize("path", GOLDENS, ids=lambda path: path.stem)
def test_tokens_and_forwards_are_the_authors(path: Path) -> None:
    golden = json.loads(path.read_text())
    params = golden["params"]
    decoder = Guided(
        guider="g",
        strategy=params["strategy"],
        gen_length=params["max_new_tokens"],
        verify_length=params["verify_batch_size"],
        top_k=params["top_k"],
        relative=params["relative"],
    )
    prompt = tuple(golden["prompt_ids"][0])
    model, guider = tiny(golden["model"], "diffusion"), tiny(golden["ar_model"], "causal")
    result = one(model, guider, Request("s", prompt, decoder, trace=True))
    assert result.trace is not None
    if "excluded" in golden:  # a defect of theirs, so what is right comes from a plain loop
        rounds = plain(model, guider, prompt, decoder)
        assert list(result.output_ids) == [token for wrote in rounds for token in wrote]
        return
    assert list(result.output_ids) == golden["output_ids"][0][len(prompt) :]
    assert result.nfe == golden["nfe"]
    assert result.nfe_ar == golden["ar_calls"]
    assert result.trace.committed.sum(1).tolist() == golden["unmasked_per_step"]


def plain(model: Model, guider: Model, prompt: tuple[int, ...], decoder: Guided) -> list[list[int]]:
    """What each round writes, with one full pass of either model and no cache; no EOS."""
    text, rounds, length = list(prompt), [], len(prompt) + decoder.gen_length
    while len(text) < length:
        canvas = torch.tensor([text + [199] * (length - len(text))])
        seen = torch.zeros(1, 1, length, length)
        logits = model.network(input_ids=canvas, attention_mask=seen).logits[0]
        logits[:, 199] = -torch.inf
        drafts = logits[len(text) - model.shift : length - model.shift].argmax(-1).tolist()
        chance = guider.network(torch.tensor([text + drafts])).logits[0].softmax(-1)
        wrote = []
        for draft, p in zip(drafts, chance[len(text) - 1 :].double(), strict=False):
            best = int(p.argmax())
            among = draft in p.topk(decoder.top_k).indices
            passes = {
                "deterministic": draft == best,
                "topk": among,
                "topk_relative": among and p[draft] >= decoder.relative * p[best],
                "dynamic_threshold": p[draft] > decoder.threshold,
            }[decoder.strategy]
            p[draft] = -1
            wrote.append(draft if passes else best if best != draft else int(p.argmax()))
            if not passes:
                break
        text += wrote
        rounds.append(wrote)
    return rounds


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("verify_length", [1, 4, 32])
def test_a_round_writes_what_a_plain_loop_writes(
    dream: Model, guider: Model, strategy: str, verify_length: int
) -> None:
    """Also where a whole chunk stands, after which the reference's cache is off by one."""
    whole = 0
    for seed in range(3):
        decoder = Guided(
            guider="g",
            strategy=strategy,
            gen_length=20,
            verify_length=verify_length,
            top_k=150,
            relative=1e-6,
            threshold=1e-6,
        )
        prompt = prompt_of(seed)
        rounds = plain(dream, guider, prompt, decoder)
        result = one(dream, guider, Request("s", prompt, decoder))
        assert list(result.output_ids) == [token for wrote in rounds for token in wrote]
        assert result.nfe == len(rounds)
        steps = [n for n, wrote in enumerate(rounds, 1) for _ in wrote]
        assert list(result.commit_steps) == steps
        assert result.nfe_ar >= result.nfe
        assert result.token_forwards == result.nfe * 28
        whole += sum(len(wrote) > verify_length for wrote in rounds)
    assert whole or strategy != "topk" or verify_length == 32, "a whole chunk should stand"


def test_a_model_without_shift_drafts_from_its_own_rows(dream: Model, guider: Model) -> None:
    unshifted = dataclasses.replace(dream, shift=0)
    decoder = Guided(guider="g", strategy="topk", top_k=100, gen_length=20)
    rounds = plain(unshifted, guider, prompt_of(0), decoder)
    result = one(unshifted, guider, Request("s", prompt_of(0), decoder))
    assert list(result.output_ids) == [token for wrote in rounds for token in wrote]
    assert result.nfe == len(rounds) < 20


def test_deterministic_guidance_is_the_guiders_own_greedy_text(guider: Model) -> None:
    """Whatever the diffusion model drafts; only the forwards differ."""
    forwards = set()
    decoder = Guided(guider="g", gen_length=24, verify_length=5)
    baseline = Autoregressive(gen_length=24)
    for name in ("dream_a", "dream_b"):
        model = tiny(name, "diffusion")
        for seed in range(3):
            prompt = prompt_of(seed, 5 + 7 * seed)
            alone = decoded(AutoregressiveEngine(guider, 1), [Request("s", prompt, baseline)])["s"]
            result = one(model, guider, Request("s", prompt, decoder))
            ended = len(alone.output_ids)
            assert result.output_ids[:ended] == alone.output_ids
            assert set(result.output_ids[ended:]) <= {198}
            forwards.add((seed, result.nfe))
    # Drafts of a model that agrees with the guider need fewer forwards.
    same = tiny("dream_a", "causal")
    result = one(tiny("dream_a", "diffusion"), same, Request("s", prompt_of(1), decoder))
    assert result.nfe < 24


def test_the_first_end_token_ends_the_text(dream: Model, guider: Model) -> None:
    decoder = Guided(guider="g", strategy="topk", top_k=120, gen_length=20)
    prompt = prompt_of(0)
    free = one(dream, guider, Request("s", prompt, decoder))
    for place in (0, 3, 8):
        stop = free.output_ids[place]
        at = free.output_ids.index(stop)
        ending = tiny("dream_b", "diffusion", stop), tiny("fdv2_a", "causal", stop)
        result = one(*ending, Request("s", prompt, decoder, trace=True))
        assert result.output_ids[: at + 1] == free.output_ids[: at + 1]
        assert set(result.output_ids[at:]) == {stop}
        assert result.commit_steps[: at + 1] == free.commit_steps[: at + 1]
        assert result.nfe == free.commit_steps[at]
        assert result.trace is not None
        assert result.trace.masked_left[-1] == 0


def test_a_drafted_end_may_end_the_text(dream: Model, guider: Model) -> None:
    prompt = prompt_of(0)
    decoder = Guided(guider="g", gen_length=20)
    trace = one(dream, guider, Request("s", prompt, decoder, trace=True)).trace
    assert trace is not None
    logits = dream.network(
        input_ids=torch.tensor([[*prompt, *[199] * 20]]), attention_mask=torch.zeros(1, 1, 28, 28)
    ).logits
    draft = int(logits[0, 7, :199].argmax())
    ending = tiny("dream_b", "diffusion", draft), tiny("fdv2_a", "causal", draft)
    going = one(*ending, Request("s", prompt, decoder))
    stopping = Guided(guider="g", gen_length=20, stop_on_draft_eos=True)
    stopped = one(*ending, Request("s", prompt, stopping))
    assert going.nfe > stopped.nfe == 1
    assert stopped.output_ids == (going.output_ids[0], *[draft] * 19)


@pytest.mark.parametrize("strategy", ["deterministic", "topk"])
def test_a_trace_tells_the_whole_story(dream: Model, guider: Model, strategy: str) -> None:
    decoder = Guided(guider="g", strategy=strategy, top_k=120, gen_length=20, verify_length=4)
    request = Request("s", prompt_of(3), decoder)
    plain = one(dream, guider, request)
    traced = one(dream, guider, Request("s", prompt_of(3), decoder, trace=True))
    assert plain.trace is None
    assert plain.output_ids == traced.output_ids
    trace = traced.trace
    assert trace is not None
    steps = traced.nfe
    assert trace.committed.shape == trace.tokens.shape == trace.confidence.shape == (steps, 20)
    assert (trace.committed.sum(0) == 1).all(), "every position is written once"
    assert tuple(trace.committed.argmax(0) + 1) == traced.commit_steps
    assert tuple(trace.tokens[-1]) == traced.output_ids
    assert (trace.tokens != 199).all(), "what is not written yet is drafted"
    assert (trace.masked_left == 20 - np.cumsum(trace.committed.sum(1))).all()
    assert np.isfinite(trace.confidence[trace.committed]).all()
    assert np.isfinite(trace.confidence).sum() == traced.drafted_tokens
    assert (trace.top2_gap >= 0).all()
    assert (trace.entropy > 0).all()
    assert (trace.elapsed_s[1:] >= trace.elapsed_s[:-1]).all()
    assert trace.elapsed_s[-1] == pytest.approx(traced.decode_s)


@st.composite
def requests_of(draw: st.DrawFn) -> list[Request]:
    requests = []
    for index in range(draw(st.integers(1, 6))):
        strategy = draw(st.sampled_from(STRATEGIES))
        drawn = strategy == "dynamic_threshold"
        decoder = Guided(
            guider="g",
            strategy=strategy,
            gen_length=draw(st.integers(1, 20)),
            verify_length=draw(st.sampled_from([1, 4, 32])),
            top_k=120,
            relative=1e-4,
            threshold=1e-4,
            temperature=draw(st.sampled_from([0.0, 1.0])) if drawn else 0.0,
        )
        prompt = prompt_of(draw(st.integers(0, 99)), draw(st.integers(1, 40)))
        requests.append(Request(f"s{index}", prompt, decoder, trace=draw(st.booleans())))
    return requests


@settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(requests=requests_of(), slots=st.sampled_from([2, 3, 8]), order=st.randoms())
def test_a_sample_does_not_feel_its_neighbours(
    dream: Model, guider: Model, requests: list[Request], slots: int, order: random.Random
) -> None:
    shuffled = list(requests)
    order.shuffle(shuffled)
    together = decoded(GuidedEngine(dream, guider, slots), shuffled)
    for request in requests:
        alone, other = one(dream, guider, request), together[request.sid]
        assert alone.output_ids == other.output_ids
        assert alone.commit_steps == other.commit_steps
        assert (alone.nfe, alone.nfe_ar) == (other.nfe, other.nfe_ar)
        assert alone.draft_token_forwards == other.draft_token_forwards
        assert (other.trace is None) != request.trace


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"guider": ""}, "guider must name a model"),
        ({"strategy": "greedy"}, "strategy must be deterministic, topk, topk_relative or dyn"),
        ({"top_k": 0}, "top_k must be a whole number >= 1, got 0"),
        ({"verify_length": 0}, "verify_length must be a whole number >= 1, got 0"),
        ({"relative": 1.5}, r"relative must lie in \[0, 1\], got 1.5"),
        ({"threshold": -0.1}, "threshold must lie"),
        ({"temperature": 1.0}, "temperature must be 0 with deterministic"),
    ],
)
def test_bad_settings_are_refused(given: dict[str, object], words: str) -> None:
    with pytest.raises(DecoderError, match=words):
        Guided(**{"guider": "g", **given})


def test_models_and_prompts_that_do_not_fit_are_refused(dream: Model, guider: Model) -> None:
    decoder = Guided(guider="g", gen_length=20)
    engine = GuidedEngine(dream, guider, 1)
    for prompt, words in [((), "empty"), ((5, 199), "mask token"), ((5,) * 500, "512")]:
        with pytest.raises(DecoderError, match=words):
            engine.submit(Request("s", prompt, decoder))
    with pytest.raises(DecoderError, match="no guided recipe"):
        engine.submit(Request("s", (1,), Autoregressive()))
    assert engine.load == 0
    with pytest.raises(DecoderError, match="guided needs a causal model as guider"):
        GuidedEngine(dream, dream, 1).submit(Request("s", (1,), decoder))
    with pytest.raises(DecoderError, match="no mask id"):
        GuidedEngine(guider, guider, 1)
