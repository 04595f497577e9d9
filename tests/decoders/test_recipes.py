"""What a recipe promises beyond the recorded runs: other rules, early ends, refusals."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from decoders import DecoderError, Model, Request, Result, make_decoder, make_engine
from decoders.likelihood import masked_likelihood
from decoders.proposal import Proposer
from decoders.schedule import Row, Seen
from tests import conformance
from tests.decoders.decoding import decoded

MODELS = conformance.loader(Path(__file__).parent / "models")
PROMPT = (5, 17, 3, 88, 42, 9, 120)


def decode(
    model: Model, recipe: str, partner: Any = None, prompt: tuple[int, ...] = PROMPT, **given: Any
) -> Result:
    decoder = make_decoder(recipe, {"gen_length": 16, **given})
    engine = make_engine(model, decoder, 1, partner)
    return decoded(engine, [Request("s", prompt, decoder, trace=True)])["s"]


def logits_of(model: Model, tokens: list[int]) -> np.ndarray:
    bias = torch.zeros(1, 1, 1, len(tokens))
    with torch.inference_mode():
        return model.head(model.hidden(torch.tensor([tokens]), bias))[0].double().numpy()


def softmax(logits: np.ndarray) -> np.ndarray:
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def plainly(model: Model, rule: str, threshold: float, block: int) -> tuple[list[int], int]:
    """dInfer's rules as loops over positions, one full forward a step."""
    tokens, forwards = [*PROMPT, *[199] * 16], 0
    for start in range(len(PROMPT), len(tokens), block):
        places = range(start, start + block)
        credit = np.zeros((len(tokens), 200))
        first = True
        while masks := [p for p in places if tokens[p] == 199]:
            logits, forwards = logits_of(model, tokens), forwards + 1
            if rule == "credit":
                credit *= 1 if first else 0.8
                for p in masks:
                    best = softmax(logits[p])
                    credit[p, best.argmax()] += best.max() ** 0.2
                logits = logits + 0.7 * np.log(credit + 1)
            first = False
            choice, sure = logits.argmax(-1), softmax(logits).max(-1)
            top = max(sure[p] for p in masks)
            if rule == "credit":
                taken = [p for p in masks if sure[p] >= min(threshold, top - 1e-5)]
            else:
                runs: list[list[int]] = []
                for p in masks:
                    if runs and runs[-1][-1] == p - 1:
                        runs[-1].append(p)
                    else:
                        runs.append([p])
                leads = {max(run, key=lambda p: sure[p]) for run in runs}
                taken = [
                    p
                    for p in masks
                    if sure[p] > threshold or (p in leads and sure[p] > 0.2) or sure[p] == top
                ]
            for p in taken:
                tokens[p] = int(choice[p])
    return tokens[len(PROMPT) :], forwards


@pytest.mark.parametrize("rule", ["hierarchy", "credit"])
@pytest.mark.parametrize("name", ["llada_a", "llada_b"])
def test_the_rules_of_dinfer_equal_a_plain_loop(rule: str, name: str) -> None:
    result = decode(
        MODELS(name),
        "fast-dllm",
        rule=rule,
        cache="none",
        threshold=0.6,
        low_threshold=0.2,
        block_length=8,
    )
    expected, forwards = plainly(MODELS(name), rule, 0.6, 8)
    assert list(result.output_ids) == expected
    assert result.nfe == forwards
    assert result.nfe < 16, "some steps must commit more than one token"


@pytest.mark.parametrize("region", ["masked", "last", "offset"])
def test_prophet_commits_all_that_is_left_at_once(region: str) -> None:
    model = MODELS("llada_b")
    gaps = {"gap_early": 1e9, "gap_mid": 0.5, "gap_late": 0.5}
    result = decode(model, "prophet", steps=16, region=region, answer_offset=3, **gaps)
    plain = decode(model, "llada", steps=16)
    trace, step = result.trace, result.early_commit_step
    assert trace is not None and plain.trace is not None and step is not None
    assert 0.33 * 16 <= step < 16
    assert result.nfe == step
    assert result.early_commit_gap is not None and result.early_commit_gap >= 0.5
    assert trace.masked_left[-1] == 0 and trace.masked_left[-2] > 1
    assert result.output_ids == tuple(plain.trace.tokens[step - 1]), "that step's best tokens"
    assert (trace.committed[:-1] == plain.trace.committed[: step - 1]).all()

    never = decode(model, "prophet", steps=16, region=region, gap_mid=1e9, gap_late=1e9)
    assert never.early_commit_step is None
    assert never.early_commit_gap is not None
    assert never.output_ids == plain.output_ids


def test_prophets_constraints_may_be_texts() -> None:
    words = {" the": [11, 12], " answer": [13]}
    decoder = make_decoder(
        "prophet",
        {"gen_length": 16, "region": "constraints", "constraints": "4:the|6: answer"},
    ).resolved(lambda text: words[text])
    assert decoder.given == {4: 11, 5: 12, 6: 13}
    engine = make_engine(MODELS("llada_a"), decoder, 1)
    result = decoded(engine, [Request("s", PROMPT, decoder, trace=True)])["s"]
    assert result.output_ids[4:7] == (11, 12, 13)
    assert result.commit_steps[4:7] == (0, 0, 0), "given, not decoded"


@pytest.mark.parametrize(
    ("recipe", "given"),
    [
        ("fast-dllm", {"block_length": 4, "threshold": 0.3, "cache": "none"}),
        ("fast-dllm", {"block_length": 4, "threshold": 0.3, "cache": "dual"}),
        ("llada2", {"threshold": 0.3}),
    ],
)
def test_an_early_stop_cuts_and_saves(recipe: str, given: dict[str, Any]) -> None:
    model = MODELS("llada_a")
    if recipe == "llada2":
        model = replace(model, visibility="block-causal", block=4)
    model = replace(model, stop_ids=frozenset())
    whole = decode(model, recipe, **given)
    stopping = replace(model, stop_ids=frozenset({whole.output_ids[2]}))
    stopped = decode(stopping, recipe, early_stop=True, **given)
    end = whole.output_ids.index(whole.output_ids[2]) + 1
    assert stopped.output_ids == whole.output_ids[:end]
    assert stopped.nfe < whole.nfe
    assert stopped.trace is not None and stopped.trace.tokens.shape[1] == end


def test_freecache_stops_at_eos() -> None:
    """The last token of the first block ends the row once that block is written, if one EOS is
    enough; it alone is no two."""
    model = replace(MODELS("dream_b"), stop_ids=frozenset())
    given = {"steps": 8, "block_length": 4}
    whole = decode(model, "freecache", **given)
    token = whole.output_ids[3]
    assert token != whole.output_ids[2]
    stopping = replace(model, stop_ids=frozenset({token}))
    stopped = decode(stopping, "freecache", early_stop=True, **given)
    assert stopped.output_ids == whole.output_ids[: whole.output_ids.index(token) + 1]
    assert stopped.nfe <= 2
    patient = decode(stopping, "freecache", early_stop=True, early_stop_consecutive=2, **given)
    assert patient.nfe > stopped.nfe


def test_a_block_with_its_causal_step_ends_at_a_stop_token() -> None:
    """The reference misses a stop token that the causal step writes; we do not."""
    model = replace(MODELS("fdv2_a"), visibility="block-causal", block=8, stop_ids=frozenset())
    whole = decode(model, "fast-dllm-v2", sub_block=4)
    edge = 16 - len(PROMPT)  # the first token of the third block
    stopping = replace(model, stop_ids=frozenset({whole.output_ids[edge]}))
    stopped = decode(stopping, "fast-dllm-v2", sub_block=4)
    end = whole.output_ids.index(whole.output_ids[edge]) + 1
    assert stopped.output_ids == whole.output_ids[:end]


def test_a_prompt_of_exactly_one_block_is_read() -> None:
    model = replace(MODELS("fdv2_a"), visibility="block-causal", block=8)
    outputs = {
        decode(model, "fast-dllm-v2", sub_block=4, prompt=tuple(range(first, first + 8))).output_ids
        for first in (3, 40, 90)
    }
    assert len(outputs) == 3


def test_joint_draws_count_full_and_small_passes() -> None:
    from tests.decoders.test_neutrality import joint

    model = MODELS("llada_a")
    one = decode(model, "joint", joint(), sampler="j", tokens_per_pass=1, temperature=1.0)
    assert (one.nfe, one.nfe_draft) == (16, 0)
    four = decode(model, "joint", joint(), sampler="j", tokens_per_pass=4, temperature=1.0)
    assert four.nfe == 4
    assert four.nfe_draft == 16 - 4
    assert four.draft_token_forwards == four.nfe_draft * (len(PROMPT) + 16)
    marginal = decode(
        model, "joint", joint(), sampler="j", tokens_per_pass=4, temperature=1.0, marginal=True
    )
    assert marginal.nfe_draft == 0
    assert marginal.output_ids != four.output_ids
    assert 199 not in four.output_ids + marginal.output_ids
    assert four.trace is not None
    assert (four.trace.committed.sum(0) == 1).all()


def test_a_cached_pass_sees_what_a_full_pass_saw() -> None:
    """With one block over the whole canvas both caches feed all that changes: no approximation of
    the block itself, so only the prompt's keys are stale; with none stale the tokens are equal."""
    model = MODELS("llada_a")
    given = {"rule": "threshold", "threshold": 0.5, "block_length": 16}
    prefix = decode(model, "fast-dllm", cache="prefix", **given)
    dual = decode(model, "fast-dllm", cache="dual", **given)
    assert prefix.output_ids == dual.output_ids
    assert prefix.token_forwards == dual.token_forwards


@pytest.mark.parametrize(
    ("recipe", "given", "words"),
    [
        ("llada", {"gen_length": 30, "block_length": 8}, "multiple of block_length"),
        ("llada", {"block_length": 8, "steps": 3}, "multiple of the 2 blocks"),
        ("llada", {"cfg_scale": -1.0}, "cfg_scale must lie in"),
        ("dream", {"alg": "best"}, "origin, maskgit_plus, topk_margin or entropy"),
        ("dream", {"eps": 0.0}, "eps must lie in"),
        ("dream", {"top_p": 1.5}, "top_p must lie in"),
        ("fast-dllm", {"cache": "all"}, "none, prefix or dual"),
        ("fast-dllm", {"threshold": 2.0}, "threshold must lie in"),
        ("fast-dllm", {"gen_length": 24, "block_length": 16}, "multiple of block_length"),
        ("freecache", {"block_length": 4, "steps": 4}, "two or more steps a block"),
        ("freecache", {"alg": "origin"}, "position_weighted"),
        ("prophet", {"region": "constraints"}, "needs constraints"),
        ("prophet", {"constraints": "99:7"}, "outside the canvas"),
        ("prophet", {"constraints": "the answer"}, "is not POSITION:TEXT"),
        ("prophet", {"region": "offset", "answer_offset": 16}, "below gen_length"),
        ("joint", {}, "sampler must name a model"),
        ("joint", {"sampler": "j", "tokens_per_pass": 0}, "tokens_per_pass must be a whole"),
        ("llada2.1", {"max_post_steps": -1}, "max_post_steps must be a whole number >= 0"),
        ("fast-dllm-v2", {"sub_block": 0}, "sub_block must be a whole number"),
        ("fast-dllm-v2", {"block_length": True}, "block_length must be int"),
    ],
)
def test_settings_that_cannot_run_are_refused(
    recipe: str, given: dict[str, Any], words: str
) -> None:
    with pytest.raises(DecoderError, match=words):
        make_decoder(recipe, {"gen_length": 16, **given})


def test_models_that_do_not_fit_are_refused() -> None:
    masked = MODELS("llada_a")
    with pytest.raises(DecoderError, match="needs a block-causal model; llada_a is bidirectional"):
        decode(masked, "fast-dllm-v2")
    with pytest.raises(DecoderError, match="needs a bidirectional model"):
        decode(replace(masked, visibility="block-causal", block=8), "llada")
    with pytest.raises(DecoderError, match="block_length must be the model's 8, got 4"):
        decode(replace(masked, visibility="block-causal", block=8), "llada2", block_length=4)
    with pytest.raises(DecoderError, match="guided needs its guider"):
        decode(masked, "guided", guider="g")


def test_likelihood_of_one_token_is_exact() -> None:
    """A single answer token is always masked, so the estimate is its cross entropy."""
    model = MODELS("llada_a")
    tokens = [*PROMPT, 199]
    expected = math.log(softmax(logits_of(model, tokens))[-1, 33])
    for mc_num, batch in ((1, 1), (8, 4)):
        value, forwards = masked_likelihood(
            model, PROMPT, [33], mc_num, batch, torch.Generator().manual_seed(0)
        )
        assert value == pytest.approx(expected, rel=1e-5)
        assert forwards == mc_num // batch
    blank = math.log(softmax(logits_of(model, [199] * 8))[-1, 33])
    guided, _ = masked_likelihood(
        model, PROMPT, [33], 1, 1, torch.Generator().manual_seed(0), cfg_scale=0.5
    )
    assert guided != pytest.approx(expected)
    assert math.isfinite(blank)


def test_likelihood_spreads_its_masks_evenly() -> None:
    """Its variance over seeds is below that of independent mask counts, and its mean is finite."""
    model, answer = MODELS("llada_b"), [4, 9, 100, 7, 8, 77, 31, 2]
    values = [
        masked_likelihood(model, PROMPT, answer, 8, 8, torch.Generator().manual_seed(seed))[0]
        for seed in range(12)
    ]
    single = [
        masked_likelihood(model, PROMPT, answer, 8, 1, torch.Generator().manual_seed(seed))[0]
        for seed in range(12)
    ]
    assert np.var(values) < np.var(single)
    with pytest.raises(DecoderError, match="multiple of the batch"):
        masked_likelihood(model, PROMPT, answer, 5, 2, torch.Generator())
    with pytest.raises(DecoderError, match="at least one token"):
        masked_likelihood(model, PROMPT, [], 1, 1, torch.Generator())


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_fixed_quotas_are_asked_after_once_a_block(cache: str) -> None:
    decoder = make_decoder("fast-dllm", {"cache": cache, "rule": "fixed", "steps": 16})
    assert decoder.gen_length == 64 and decoder.block == 32
    schedule = decoder.schedule(Row(prompt=5, length=69, shift=0, block=32))
    seen = Seen(0, 4, 0, False, -1, 0, False, 0.0)
    asked = [next(schedule)]
    with pytest.raises(StopIteration):
        while True:
            asked.append(schedule.send(seen))
    assert [ask.blind for ask in asked] == ([True] * 7 + [False]) * 2
    assert sum(ask.amount for ask in asked) == 64


@pytest.mark.parametrize(
    ("name", "recipe", "given"),
    [
        ("llada_a", "llada", {"steps": 8}),
        ("llada_a", "fast-dllm", {"block_length": 8, "threshold": 0.3}),
        ("llada_a", "fast-dllm", {"block_length": 8, "rule": "fixed", "steps": 6}),
        ("dream_a", "dream", {"steps": 8, "alg": "entropy"}),
        ("dream_a", "fast-dllm", {"block_length": 8, "threshold": 0.3}),
    ],
)
def test_logits_of_masks_alone_change_nothing(
    name: str, recipe: str, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = decode(MODELS(name), recipe, **given)
    monkeypatch.setattr(Proposer, "_masks_do", lambda *_: False)
    wanted = decode(MODELS(name), recipe, **given)
    assert found.output_ids == wanted.output_ids and found.nfe == wanted.nfe
    assert found.commit_steps == wanted.commit_steps
    assert found.trace is not None and wanted.trace is not None
    assert np.allclose(found.trace.confidence, wanted.trace.confidence, atol=1e-6, equal_nan=True)
