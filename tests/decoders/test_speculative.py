"""Speculative decoding as the engine does it; test_verification.py enumerates its rules."""

import random
from collections import Counter

import hypothesis.strategies as st
import pytest
import scipy.stats
import torch
from hypothesis import HealthCheck, given, settings
from transformers import LlamaConfig, LlamaForCausalLM

from decoders import DecoderError, Model, Request, Result, find_checkpoint, load_model
from decoders.autoregressive import AutoregressiveEngine
from decoders.pairs import check_pair
from decoders.recipes.autoregressive import Autoregressive
from decoders.recipes.speculative import SpecDiff, Speculative
from decoders.speculative import SpeculativeEngine
from tests.decoders.decoding import decoded

Text = tuple[int, ...]


def network(vocabulary: int, seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        initializer_range=0.5,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def causal_model(vocabulary: int, seed: int, stop: int = 4) -> Model:
    return Model(
        name=f"causal{seed}",
        digest=str(seed),
        family="llama",
        visibility="causal",
        network=network(vocabulary, seed),
        mask_id=None,
        eos_id=stop,
        eot_id=None,
        stop_ids=frozenset({stop}),
        vocabulary=vocabulary,
        max_length=128,
    )


def diffusion_model(vocabulary: int, seed: int, stop: int = 4, shift: int = 0) -> Model:
    """Its mask is one row more than the vocabulary of the causal models."""
    return Model(
        name=f"masked{seed}",
        digest=str(seed),
        family="llada",
        visibility="bidirectional",
        network=network(vocabulary + 1, seed),
        mask_id=vocabulary,
        eos_id=stop,
        eot_id=None,
        stop_ids=frozenset({stop}),
        vocabulary=vocabulary + 1,
        max_length=128,
        shift=1 if shift else 0,
    )


def texts_of(model: Model, prompt: Text, length: int, temperature: float) -> dict[Text, float]:
    """Every text of up to `length` tokens, ended by a stop token or not, with its probability."""
    open_texts, found = {(): 1.0}, {}
    for _ in range(length):
        prefixes = list(open_texts)
        batch = torch.tensor([prompt + text for text in prefixes])
        chance_BV = (model.network(batch).logits[:, -1].double() / temperature).softmax(-1)
        grown = {
            (*text, token): open_texts[text] * chance
            for text, row in zip(prefixes, chance_BV.tolist(), strict=True)
            for token, chance in enumerate(row)
        }
        found |= {text: w for text, w in grown.items() if text[-1] in model.stop_ids}
        open_texts = {text: w for text, w in grown.items() if text[-1] not in model.stop_ids}
    return found | open_texts


def chi_square(counts: Counter[Text], expected: dict[Text, float]) -> float:
    """The p-value; texts that are expected less than 8 times are one cell."""
    total = counts.total()
    common = [text for text, weight in expected.items() if weight * total >= 8]
    observed = [counts[text] for text in common]
    wanted = [expected[text] * total for text in common]
    observed.append(total - sum(observed))
    wanted.append(total - sum(wanted))
    return float(scipy.stats.chisquare(observed, wanted).pvalue)


@pytest.mark.parametrize(
    "decoder",
    [
        Speculative(drafter="d", gamma=2, gen_length=4, temperature=0.8),
        SpecDiff(drafter="d", gamma=3, steps=1, gen_length=4, temperature=0.8),
        SpecDiff(drafter="d", gamma=3, steps=2, gen_length=4, temperature=0.8),
        SpecDiff(drafter="d", gamma=3, steps=3, order="random", gen_length=4, temperature=0.8),
    ],
    ids=lambda d: f"{d.recipe}-{getattr(d, 'steps', 0)}",
)
def test_what_the_engine_draws_is_distributed_as_the_target(decoder: Speculative) -> None:
    model, prompt = causal_model(5, seed=0), (1, 3, 0)
    drafter = diffusion_model(5, seed=1) if isinstance(decoder, SpecDiff) else causal_model(5, 2)
    requests = [Request(f"s{n}", prompt, decoder) for n in range(4000)]
    results = decoded(SpeculativeEngine(model, drafter, 500), requests)
    counts = Counter(result.output_ids for result in results.values())
    assert chi_square(counts, texts_of(model, prompt, 4, 0.8)) > 1e-3
    assert chi_square(counts, texts_of(model, prompt, 4, 0.9)) < 1e-6, (
        "the test must be able to fail"
    )
    kept = sum(result.accepted_tokens or 0 for result in results.values())
    drafted = sum(result.drafted_tokens or 0 for result in results.values())
    assert 0.1 < kept / drafted < 0.95, "both verdicts must have been given"


@pytest.fixture(scope="module")
def bundled_pair() -> tuple[Model, Model]:
    return load_model(find_checkpoint("tiny-ar")), load_model(find_checkpoint("tiny-mdlm"))


@pytest.mark.parametrize(
    "decoder",
    [
        Speculative(drafter="tiny-ar", gamma=5, gen_length=32),
        SpecDiff(drafter="tiny-mdlm", gamma=8, steps=1, gen_length=32),
        SpecDiff(drafter="tiny-mdlm", gamma=6, steps=2, gen_length=32),
    ],
    ids=lambda d: f"{d.recipe}-{getattr(d, 'steps', 0)}",
)
def test_greedy_text_is_the_targets_own(
    bundled_pair: tuple[Model, Model], decoder: Speculative
) -> None:
    model, masked = bundled_pair
    generator = torch.Generator().manual_seed(0)
    prompts = [
        tuple(torch.randint(3, 3000, (size,), generator=generator).tolist())
        for size in (4, 30, 11, 7)
    ]
    baseline = Autoregressive(gen_length=32)
    expected = decoded(
        AutoregressiveEngine(model, 4),
        [Request(str(n), prompt, baseline) for n, prompt in enumerate(prompts)],
    )
    drafter = masked if isinstance(decoder, SpecDiff) else model
    results = decoded(
        SpeculativeEngine(model, drafter, 3),
        [Request(str(n), prompt, decoder) for n, prompt in enumerate(prompts)],
    )
    for sid, result in results.items():
        assert result.output_ids == expected[sid].output_ids
        assert result.nfe <= expected[sid].nfe
        if drafter is model:
            assert result.nfe == -(-len(result.output_ids) // 6), "it agrees with itself"


@st.composite
def requests_of(draw: st.DrawFn, kind: type[Speculative]) -> list[Request]:
    requests = []
    for index in range(draw(st.integers(1, 6))):
        gamma = draw(st.integers(1, 7))
        common = {
            "drafter": "d",
            "gamma": gamma,
            "gen_length": draw(st.integers(1, 20)),
            "temperature": draw(st.sampled_from([0.0, 0.7, 1.0])),
        }
        if kind is SpecDiff:
            common["steps"] = draw(st.integers(1, gamma))
            common["order"] = draw(st.sampled_from(["confidence", "random"]))
        length = draw(st.integers(1, 40))
        prompt = draw(st.lists(st.integers(0, 28), min_size=length, max_size=length))
        requests.append(Request(f"s{index}", tuple(prompt), kind(**common)))
    return requests


def check_cost(request: Request, result: Result) -> None:
    decoder = request.decoder
    assert isinstance(decoder, Speculative)
    assert result.drafted_tokens is not None and result.accepted_tokens is not None
    assert 1 <= len(result.output_ids) <= decoder.gen_length
    assert result.nfe == result.nfe_ar
    assert result.token_forwards == (
        len(request.prompt_ids) + result.drafted_tokens + result.nfe - 1
    )
    assert len(result.output_ids) - result.nfe <= result.accepted_tokens <= result.drafted_tokens
    rounds = Counter(result.commit_steps)
    assert list(result.commit_steps) == sorted(result.commit_steps)
    assert set(rounds) == set(range(1, result.nfe + 1))
    assert max(rounds.values()) <= decoder.gamma + 1
    if isinstance(decoder, SpecDiff):
        assert result.nfe_draft <= result.nfe * decoder.steps
    else:
        assert result.nfe_draft == result.drafted_tokens


@pytest.mark.parametrize("kind", [Speculative, SpecDiff])
@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data(), slots=st.sampled_from([1, 2, 3, 8]), order=st.randoms())
def test_a_sample_does_not_feel_its_neighbours(
    kind: type[Speculative], data: st.DataObject, slots: int, order: random.Random
) -> None:
    requests = data.draw(requests_of(kind))
    model = causal_model(30, seed=5, stop=29)
    drafter = (
        diffusion_model(30, seed=6, stop=29, shift=data.draw(st.integers(0, 1)))
        if kind is SpecDiff
        else causal_model(30, seed=7, stop=29)
    )
    single: dict[str, Result] = {}
    for request in requests:
        single |= decoded(SpeculativeEngine(model, drafter, 1), [request])
    shuffled = list(requests)
    order.shuffle(shuffled)
    together = decoded(SpeculativeEngine(model, drafter, slots), shuffled)
    for request in requests:
        one, other = single[request.sid], together[request.sid]
        assert one.output_ids == other.output_ids
        assert one.commit_steps == other.commit_steps
        assert one.draft_token_forwards == other.draft_token_forwards
        check_cost(request, other)


def test_an_answer_ends_at_a_stop_token_or_where_its_request_says() -> None:
    model, drafter = causal_model(30, seed=5, stop=29), diffusion_model(30, seed=6, stop=29)
    decoder = SpecDiff(drafter="d", gamma=6, gen_length=60, temperature=1.0)
    prompts = [(n, n + 1) for n in range(20)]
    free = decoded(
        SpeculativeEngine(model, drafter, 8),
        [Request(str(n), prompt, decoder) for n, prompt in enumerate(prompts)],
    )
    ended = [result for result in free.values() if len(result.output_ids) < 60]
    assert ended
    assert all(result.output_ids.index(29) == len(result.output_ids) - 1 for result in ended)
    whole = max(free.values(), key=lambda result: len(result.output_ids))
    prompt = prompts[int(whole.sid)]
    request = Request(whole.sid, prompt, decoder, is_complete=lambda ids: len(ids) >= 5)
    cut = decoded(SpeculativeEngine(model, drafter, 1), [request])[whole.sid]
    assert cut.output_ids == whole.output_ids[:5]
    assert cut.commit_steps == whole.commit_steps[:5]
    assert cut.nfe == cut.commit_steps[-1]


def test_masks_are_never_drafted() -> None:
    """A drafter that would draft nothing else is held to the words."""
    model, drafter = causal_model(5, seed=0), diffusion_model(5, seed=1)
    head = drafter.network.lm_head.weight
    head[5] = 100 * head.abs().max()
    decoder = SpecDiff(drafter="d", gamma=4, steps=2, gen_length=8, temperature=1.0)
    requests = [Request(f"s{n}", (1, 2), decoder) for n in range(50)]
    for result in decoded(SpeculativeEngine(model, drafter, 16), requests).values():
        assert 5 not in result.output_ids


@pytest.mark.parametrize(
    ("kind", "given", "words"),
    [
        (Speculative, {"gamma": 0}, "gamma must be a whole number >= 1, got 0"),
        (Speculative, {"drafter": ""}, "drafter must name a model"),
        (SpecDiff, {"steps": 0}, "steps must be a whole number >= 1, got 0"),
        (SpecDiff, {"steps": 17}, "steps must be at most gamma"),
        (SpecDiff, {"order": "left"}, "order must be confidence or random, got 'left'"),
        (SpecDiff, {"temperature": -1.0}, "temperature"),
    ],
)
def test_bad_settings_are_refused(
    kind: type[Speculative], given: dict[str, object], words: str
) -> None:
    with pytest.raises(DecoderError, match=words):
        kind(**{"drafter": "d", **given})


def test_models_that_do_not_fit_are_refused() -> None:
    model, drafter = causal_model(5, seed=0), diffusion_model(5, seed=1)
    with pytest.raises(DecoderError, match="vocabularies have 5 and 9"):
        check_pair(model, causal_model(9, seed=2))
    with pytest.raises(DecoderError, match=r"end texts with tokens \[4\] and \[3\]"):
        check_pair(model, causal_model(5, seed=2, stop=3))
    with pytest.raises(DecoderError, match="slots"):
        SpeculativeEngine(model, drafter, 0)
    specdiff, speculative = SpecDiff(drafter="d"), Speculative(drafter="d")
    engine = SpeculativeEngine(model, drafter, 1)
    for request, words in [
        (Request("s", (), specdiff), "empty"),
        (Request("s", (5,), specdiff), "outside"),
        (Request("s", (1,) * 70, specdiff), "128"),
        (Request("s", (1,), speculative), "speculative needs a causal model as drafter"),
        (Request("s", (1,), Autoregressive()), "no speculative recipe"),
    ]:
        with pytest.raises(DecoderError, match=words):
            engine.submit(request)
    assert engine.load == 0
    with pytest.raises(DecoderError, match="specdiff needs a bidirectional diffusion model"):
        SpeculativeEngine(model, model, 1).submit(Request("s", (1,), specdiff))
    with pytest.raises(DecoderError, match="specdiff needs a causal model"):
        SpeculativeEngine(drafter, drafter, 1).submit(Request("s", (1,), specdiff))
    inside = causal_model(6, seed=3)
    with pytest.raises(DecoderError, match="drafter's mask token"):
        SpeculativeEngine(inside, drafter, 1).submit(Request("s", (1, 5), specdiff))
