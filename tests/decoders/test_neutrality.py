"""A sample's tokens do not depend on its neighbours, its slot, the order or the slot count:
for every recipe, over random prompts, lengths, settings and temperatures."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings

from decoders import RECIPES, Model, Request, Result, make_decoder, make_engine
from decoders.joint import build_sampler, sampler_config
from tests import conformance
from tests.decoders.decoding import decoded

MODELS = conformance.loader(Path(__file__).parent / "models")
GEN = 16

PROMPT = st.lists(st.integers(0, 195), min_size=1, max_size=40)
TEMPERATURE = st.sampled_from([0.0, 0.0, 0.7, 1.0])


def llada() -> Model:
    return MODELS("llada_a")


def dream() -> Model:
    return MODELS("dream_a")


def causal() -> Model:
    return replace(MODELS("fdv2_a"), visibility="causal", shift=0, mask_id=None)


def blocks() -> Model:
    return replace(MODELS("fdv2_a"), visibility="block-causal", block=8)


@functools.cache
def joint() -> Any:
    base = llada()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        sampler = build_sampler(sampler_config(base, heads=4, intermediate_size=128), base)
    torch.nn.init.ones_(sampler.norm_out.weight)  # so that its states differ from the model's
    return sampler.eval().requires_grad_(False)


@dataclass(frozen=True)
class Kind:
    """A recipe on models, with the settings that are drawn for each sample."""

    recipe: str
    model: Callable[[], Model]
    partner: Callable[[], Any] | None = None
    settings: Any = None


def drawn(**fields: Any) -> Any:
    fixed = {"gen_length": st.just(GEN), "temperature": TEMPERATURE}
    return st.fixed_dictionaries(fixed | fields)


STEPS = st.sampled_from([2, 4, 8, 16])
BLOCK = st.sampled_from([8, 16])
KINDS = [
    Kind(
        "llada",
        llada,
        settings=drawn(
            steps=STEPS,
            block_length=BLOCK,
            remasking=st.sampled_from(["low_confidence", "random"]),
            cfg_scale=st.sampled_from([0.0, 0.0, 1.5]),
        ),
    ),
    Kind(
        "prophet",
        llada,
        settings=drawn(
            steps=STEPS,
            block_length=BLOCK,
            region=st.sampled_from(["masked", "last"]),
            gap_early=st.sampled_from([0.2, 2.0]),
            gap_mid=st.just(0.2),
        ),
    ),
    Kind(
        "dream",
        dream,
        settings=drawn(
            steps=STEPS,
            alg=st.sampled_from(["origin", "maskgit_plus", "topk_margin", "entropy"]),
            alg_temp=st.sampled_from([None, None, 0.3]),
            top_p=st.sampled_from([None, 0.9]),
        ),
    ),
    *(
        Kind(
            "fast-dllm",
            model,
            settings=drawn(
                cache=st.sampled_from(["none", "prefix", "dual"]),
                rule=st.sampled_from(rules),
                steps=st.sampled_from([4, 8]),
                block_length=st.just(8),
                threshold=st.sampled_from([0.3, 0.9]),
            ),
        )
        for model, rules in (
            (llada, ["threshold", "factor", "fixed", "hierarchy", "credit"]),
            (dream, ["threshold", "fixed"]),
        )
    ),
    Kind(
        "freecache",
        dream,
        settings=drawn(steps=st.sampled_from([4, 8]), block_length=st.just(8)),
    ),
    Kind(
        "fast-dllm-v2",
        blocks,
        settings=drawn(
            sub_block=st.sampled_from([2, 4]),
            block_cache=st.booleans(),
            threshold=st.sampled_from([0.3, 0.9]),
        ),
    ),
    Kind("llada2", blocks, settings=drawn(steps=STEPS, threshold=st.sampled_from([0.3, 0.9]))),
    Kind(
        "llada2.1",
        blocks,
        settings=drawn(
            threshold=st.sampled_from([0.3, 0.9]), edit_threshold=st.sampled_from([0.3, 0.9])
        ),
    ),
    Kind(
        "joint",
        llada,
        joint,
        drawn(
            sampler=st.just("j"),
            tokens_per_pass=st.integers(1, 5),
            marginal=st.booleans(),
        ),
    ),
    Kind("guided", dream, causal, drawn(temperature=st.just(0.0), guider=st.just("g"))),
    Kind(
        "specdiff",
        causal,
        llada,
        drawn(drafter=st.just("d"), gamma=st.integers(1, 6), steps=st.integers(1, 3)),
    ),
    Kind("speculative", causal, causal, drawn(drafter=st.just("d"), gamma=st.integers(1, 5))),
    Kind("ar", causal, settings=drawn()),
]
ELSEWHERE = {
    "remote": "its tokens are the server's",
    "likelihood": "it writes nothing; tests/decoders/test_likelihood_choices.py",
    "diffusion-gemma": "one sample at a time; tests/decoders/test_gemma_recipe.py",
}


def test_every_recipe_is_held_to_it() -> None:
    assert {kind.recipe for kind in KINDS} | set(ELSEWHERE) == set(RECIPES)


def decode(kind: Kind, requests: list[Request], slots: int) -> dict[str, Result]:
    partner = kind.partner() if kind.partner else None
    return decoded(make_engine(kind.model(), requests[0].decoder, slots, partner), requests)


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: f"{k.recipe}-{k.model.__name__}")
@settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    phases=(Phase.generate,),
    suppress_health_check=[HealthCheck.data_too_large, HealthCheck.too_slow],
)
@given(data=st.data())
def test_a_sample_does_not_feel_its_neighbours(kind: Kind, data: st.DataObject) -> None:
    requests = [
        Request(
            f"s{n}",
            tuple(data.draw(PROMPT)),
            make_decoder(kind.recipe, data.draw(kind.settings)),
            trace=kind.recipe not in ("ar", "specdiff", "speculative") and data.draw(st.booleans()),
        )
        for n in range(data.draw(st.integers(2, 5)))
    ]
    alone: dict[str, Result] = {}
    for request in requests:
        alone |= decode(kind, [request], 1)
    together = decode(kind, data.draw(st.permutations(requests)), data.draw(st.integers(2, 5)))

    for request in requests:
        one, many = alone[request.sid], together[request.sid]
        assert many.output_ids == one.output_ids
        assert (many.nfe, many.nfe_block, many.nfe_ar, many.nfe_draft) == (
            one.nfe,
            one.nfe_block,
            one.nfe_ar,
            one.nfe_draft,
        )
        assert many.token_forwards == one.token_forwards
        assert many.commit_steps == one.commit_steps
        if one.trace is not None and many.trace is not None:
            assert (many.trace.committed == one.trace.committed).all()
            assert len(one.trace.tokens) == one.nfe
