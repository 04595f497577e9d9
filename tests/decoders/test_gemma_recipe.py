"""Recipe diffusion-gemma: transformers' tokens, for each sample on its own, counted exactly."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from decoders import Model, find_checkpoint, load_model
from decoders.gemma import GemmaEngine
from decoders.noise import seed_of
from decoders.recipes.diffusion_gemma import DiffusionGemma
from decoders.recipes.llada import Llada
from decoders.types import DecoderError, Request, Result
from tests.decoders.decoding import decoded
from tests.decoders.test_diffusion_gemma import published

CANVAS = 8
RECIPE = DiffusionGemma(gen_length=20, steps=5)
PROMPTS = {"a": (5, 9, 3), "b": (7,), "c": (2, 30, 31, 32, 33, 58), "d": (5, 9, 3)}
EARLY = {"confidence_threshold": 10.0, "t_min": 0.001, "t_max": 0.002, "steps": 12}
"""A random network's entropy is high, and its likeliest tokens settle only when it is cold."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """No token ends a text, so that lengths are known."""
    folder: Path = tmp_path_factory.mktemp("gemma")
    published(folder)
    return replace(load_model(find_checkpoint(str(folder))), stop_ids=frozenset())


def run(model: Model, requests: Sequence[Request]) -> dict[str, Result]:
    engine = GemmaEngine(model, slots=2)
    found = decoded(engine, requests)
    assert engine.step() == []
    return found


def one(model: Model, recipe: DiffusionGemma, sid: str = "a", trace: bool = False) -> Result:
    return run(model, [Request(sid, PROMPTS[sid], recipe, trace)])[sid]


def direct(model: Model, sid: str, **settings: Any) -> list[int]:
    """What transformers writes after the prompt, at the sample's seed."""
    prompt = PROMPTS[sid]
    torch.manual_seed(seed_of(sid))
    output = model.network.generate(torch.tensor([prompt]), **settings)
    written: list[int] = output.sequences[0, len(prompt) :].tolist()
    return written


@pytest.mark.parametrize("sid", ["a", "b", "c"])
def test_tokens_are_those_of_transformers(model: Model, sid: str) -> None:
    whole = direct(model, sid, max_new_tokens=20, max_denoising_steps=5)
    assert len(whole) == 24
    for trace in (False, True):
        assert list(one(model, RECIPE, sid, trace).output_ids) == whole[:20]


def test_the_defaults_are_those_of_transformers(model: Model) -> None:
    recipe = DiffusionGemma(gen_length=CANVAS)
    assert list(one(model, recipe).output_ids) == direct(model, "a", max_new_tokens=CANVAS)


def test_settings_reach_transformers(model: Model) -> None:
    kinds = pytest.importorskip("transformers.models.diffusion_gemma")
    recipe = DiffusionGemma(
        gen_length=16, steps=4, t_min=0.05, t_max=0.1, entropy_bound=2.5, stability_threshold=2
    )
    theirs = direct(
        model,
        "a",
        max_new_tokens=16,
        max_denoising_steps=4,
        t_min=0.05,
        t_max=0.1,
        sampler_config=kinds.EntropyBoundSamplerConfig(entropy_bound=2.5),
        stability_threshold=2,
    )
    assert list(one(model, recipe).output_ids) == theirs
    assert theirs != list(one(model, DiffusionGemma(gen_length=16, steps=4)).output_ids)


def test_a_checkpoints_generation_config_changes_nothing(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = DiffusionGemma(gen_length=256, steps=1)
    longer = replace(model, max_length=512)
    expected = one(longer, recipe).output_ids
    assert len(expected) == 256
    kind = type(model.network.generation_config)
    monkeypatch.setattr(
        model.network,
        "generation_config",
        kind(
            max_length=30,
            max_denoising_steps=3,
            t_min=0.1,
            t_max=0.2,
            cache_implementation="static",
            return_dict_in_generate=False,
            eos_token_id=expected[0],
            pad_token_id=0,
        ),
    )
    assert one(longer, recipe).output_ids == expected


@pytest.mark.parametrize("order", ["abcd", "dcba", "c", "ad"])
def test_neighbours_and_order_change_nothing(model: Model, order: str) -> None:
    found = run(model, [Request(sid, PROMPTS[sid], RECIPE) for sid in order])
    assert {sid: result.output_ids for sid, result in found.items()} == {
        sid: one(model, RECIPE, sid).output_ids for sid in order
    }


def test_one_prompt_under_two_sids_is_drawn_twice(model: Model) -> None:
    assert one(model, RECIPE, "a").output_ids != one(model, RECIPE, "d").output_ids


def test_the_global_generator_is_left_alone(model: Model) -> None:
    before = torch.get_rng_state()
    one(model, RECIPE, trace=True)
    assert torch.equal(torch.get_rng_state(), before)


def test_forwards_are_counted_where_they_happen(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, int]] = []
    network = model.network.model
    for name, part, ids in (
        ("encoder", network.encoder, "input_ids"),
        ("decoder", network.decoder, "decoder_input_ids"),
    ):
        monkeypatch.setattr(part, "forward", _recorded(part.forward, calls, name, ids))
    result = one(model, RECIPE, "c")
    assert [width for name, width in calls if name == "encoder"] == [6, CANVAS, CANVAS]
    assert [width for name, width in calls if name == "decoder"] == [CANVAS] * 15
    assert (result.nfe, result.nfe_block, result.nfe_draft, result.nfe_ar) == (18, 15, 0, 0)
    assert result.token_forwards == sum(width for _, width in calls)
    assert 0 < result.decode_s <= result.latency_s
    assert (result.trace, result.commit_steps) == (None, ())
    assert not network.encoder._forward_pre_hooks and not network.decoder._forward_pre_hooks


def _recorded(
    forward: Callable[..., Any], calls: list[tuple[str, int]], name: str, ids: str
) -> Callable[..., Any]:
    def recording(**kwargs: Any) -> Any:
        calls.append((name, kwargs[ids].numel()))
        return forward(**kwargs)

    return recording


def test_a_stable_canvas_ends_early_unless_that_is_off(model: Model) -> None:
    early = one(model, replace(RECIPE, **EARLY))
    every = one(model, replace(RECIPE, **{**EARLY, "confidence_threshold": None}))
    assert early.nfe_block < every.nfe_block == 36
    one_step = replace(RECIPE, **{**EARLY, "stability_threshold": 0})
    assert one(model, one_step).nfe_block == 3


def test_the_output_ends_with_its_stop_token(model: Model) -> None:
    whole = one(model, RECIPE).output_ids
    stop = whole[10]
    end = whole.index(stop) + 1
    result = one(replace(model, stop_ids=frozenset({stop, 59})), RECIPE, trace=True)
    assert result.output_ids == whole[:end]
    assert result.nfe_block == 5 * -(-end // CANVAS)
    assert result.trace is not None
    assert result.trace.tokens.shape == (result.nfe_block, 20)
    assert len(result.commit_steps) == end


def test_a_trace_holds_every_draft(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = pytest.importorskip("transformers.models.diffusion_gemma")
    accepted: list[torch.Tensor] = []
    accept = kinds.EntropyBoundSampler.accept_canvas

    def recording(sampler: Any, current: Any, drawn: Any, logits: Any, step: Any) -> Any:
        canvas = accept(sampler, current, drawn, logits, step)
        accepted.append(sampler.accepted_token_mask[0])
        return canvas

    monkeypatch.setattr(kinds.EntropyBoundSampler, "accept_canvas", recording)
    recipe = replace(RECIPE, t_min=0.05, t_max=0.1, entropy_bound=1.0)
    result = one(model, recipe, trace=True)
    trace = result.trace
    assert trace is not None
    theirs = accepted[1::2]  # the engine's own look at a step comes first
    assert len(theirs) == len(trace.tokens) == result.nfe_block == 15
    unwritten = model.eos_id
    for n in range(15):
        low = n // 5 * CANVAS
        high = min(20, low + CANVAS)
        here = slice(low, high)
        assert (trace.tokens[n, high:] == unwritten).all()
        assert tuple(trace.tokens[n, :low]) == result.output_ids[:low]
        assert not trace.committed[n, :low].any() and not trace.committed[n, high:].any()
        if n % 5 == 0:
            assert trace.committed[n, here].all()
        else:
            changed = trace.tokens[n, here] != trace.tokens[n - 1, here]
            assert (trace.committed[n, here] == changed).all()
        kept = high - low if n % 5 == 4 else int(theirs[n][: high - low].sum())
        assert trace.masked_left[n] == 20 - low - kept
        assert np.isfinite(trace.confidence[n, here]).all()
        assert np.isnan(np.delete(trace.confidence[n], np.r_[here])).all()
        if n % 5 < 4:
            sure = trace.confidence[n, here]
            mine = theirs[n][: high - low].numpy()
            assert sure[mine].min(initial=0) >= sure[~mine].max(initial=-10)
    assert any(1 < int(mask.sum()) < CANVAS for mask in theirs)
    assert tuple(trace.tokens[-1]) == result.output_ids
    assert np.isfinite(trace.entropy).all() and (trace.top2_gap > 0).all()
    assert (np.diff(trace.elapsed_s) > 0).all()
    assert trace.elapsed_s[-1] <= result.decode_s + 1e-3, "two clocks"
    for place, last in enumerate(result.commit_steps):
        assert (trace.tokens[last - 1 :, place] == result.output_ids[place]).all()
        assert last % 5 == 1 or trace.tokens[last - 2, place] != result.output_ids[place]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"temperature": 0.5}, "temperature must be 0, as t_min and t_max"),
        ({"steps": 0}, "steps must be a whole number >= 1"),
        ({"stability_threshold": -1}, "stability_threshold must be a whole number >= 0"),
        ({"t_min": 0.8}, "t_min < t_max must hold, got 0.8 and 0.8"),
        ({"t_min": -0.1}, "0 <= t_min"),
        ({"t_max": float("inf")}, "t_min < t_max must hold"),
        ({"t_max": float("nan")}, "t_min < t_max must hold"),
        ({"entropy_bound": 0.0}, "entropy_bound must be > 0, got 0.0"),
        ({"confidence_threshold": 0.0}, "confidence_threshold must be > 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(DecoderError, match=f"diffusion-gemma: .*{words}"):
        DiffusionGemma(**settings)


@pytest.mark.parametrize(
    ("prompt", "length", "words"),
    [
        ((), 8, "the prompt is empty"),
        ((60,), 8, "outside the 60 of the model"),
        ((-1,), 8, "outside the 60 of the model"),
        (
            (5,) * 9,
            241,
            r"whole canvases take 9 \+ 248 = 257 positions, .* has 256",
        ),
    ],
)
def test_prompts_that_do_not_fit_are_refused(
    model: Model, prompt: tuple[int, ...], length: int, words: str
) -> None:
    engine = GemmaEngine(model, 1)
    with pytest.raises(DecoderError, match=words):
        engine.submit(Request("x", prompt, DiffusionGemma(gen_length=length)))
    assert engine.load == 0


def test_other_models_and_recipes_are_refused(model: Model, masked: Model) -> None:
    with pytest.raises(DecoderError, match="runs only DiffusionGemma; llada_a is llada"):
        GemmaEngine(masked, 1)
    with pytest.raises(DecoderError, match="slots must be at least 1"):
        GemmaEngine(model, 0)
    with pytest.raises(DecoderError, match="llada does not run on"):
        GemmaEngine(model, 1).submit(Request("x", (5,), Llada(gen_length=8, steps=8)))
