"""The passes of a GPU, whose shapes no neighbour changes, walked on a CPU with the kernels' work
done by torch: everything about them but the kernels and the graphs. The tokens are the CPU's own.
"""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from decoders import Decoder, Model, Request, Result, find_checkpoint, load_model, make_decoder
from decoders.autoregressive import AutoregressiveEngine
from decoders.diffusion import DiffusionEngine
from decoders.likelihood.batched import Item, Likelihood
from decoders.models import forward
from decoders.models.fused import Fused
from tests.decoders import plain_kernels
from tests.decoders.decoding import decoded


@pytest.fixture(autouse=True)
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    plain_kernels.install(monkeypatch)


def fixed(model: Model) -> Model:
    """The same model with the forward of a GPU."""
    network = copy.deepcopy(model.network)
    forward._known[network] = Fused(network)
    return replace(model, network=network)


def requests(decoder: Decoder, count: int) -> list[Request]:
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(4, 60, (count,), generator=generator).tolist()
    return [
        Request(
            f"sample-{n}",
            tuple(torch.randint(5, 3000, (length,), generator=generator).tolist()),
            decoder,
        )
        for n, length in enumerate(lengths)
    ]


def seen(results: dict[str, Result]) -> dict[str, Any]:
    return {sid: (r.output_ids, r.nfe, r.token_forwards) for sid, r in results.items()}


SETTINGS: dict[str, dict[str, Any]] = {
    "llada": {"steps": 8, "block_length": 16},
    "llada-cfg": {"steps": 4, "cfg_scale": 1.0},
    "llada-sampled": {"steps": 8, "temperature": 0.7},
    "prophet": {"steps": 16},
    "dream-entropy": {"steps": 8, "alg": "entropy"},
    "dream-sampled": {"steps": 8, "temperature": 0.5, "top_p": 0.9},
    "fast-dllm-dual": {"cache": "dual", "rule": "fixed", "steps": 16, "block_length": 16},
    "fast-dllm-prefix": {"cache": "prefix", "threshold": 0.6, "block_length": 16},
    "fast-dllm-factor": {"cache": "dual", "rule": "factor", "block_length": 8},
    "freecache": {"steps": 8, "block_length": 16},
}


@pytest.fixture(scope="module")
def mdlm() -> Model:
    return load_model(find_checkpoint("tiny-mdlm"))


@pytest.mark.parametrize("fused_head", [False, True])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_diffusion_model_writes_what_it_writes_on_a_cpu(
    name: str, fused_head: bool, mdlm: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = name.split("-")[0] if not name.startswith("fast") else "fast-dllm"
    decoder = make_decoder(recipe, {"gen_length": 32, **SETTINGS[name]})
    wanted = requests(decoder, 4)
    engine = DiffusionEngine(fixed(mdlm), 3, fused_head=fused_head)
    assert engine._canvas.is_fixed
    # Nor does a GPU pick masks before the head.
    monkeypatch.setattr(engine._passes._propose, "_masks_do", lambda *_: False)
    assert seen(decoded(engine, wanted)) == seen(decoded(DiffusionEngine(mdlm, 3), wanted))


def test_rows_of_several_recipes_and_traced_ones_share_slots(mdlm: Model) -> None:
    decoders = [
        make_decoder(name, {"gen_length": 32, "steps": 8}) for name in ("llada", "dream", "prophet")
    ]
    wanted = [
        replace(one, sid=f"{n}-{one.sid}", trace=n == 1)
        for n, decoder in enumerate(decoders)
        for one in requests(decoder, 2)
    ]
    found, plain = (decoded(DiffusionEngine(model, 4), wanted) for model in (fixed(mdlm), mdlm))
    assert seen(found) == seen(plain)
    for sid in ("1-sample-0", "1-sample-1"):
        ours, theirs = found[sid].trace, plain[sid].trace
        assert ours is not None and theirs is not None
        assert (ours.tokens == theirs.tokens).all() and (ours.committed == theirs.committed).all()
        assert abs(ours.entropy - theirs.entropy).max() < 1e-3


@pytest.mark.parametrize("recipe", ["fast-dllm-v2", "llada2"])
def test_a_block_causal_model_too(recipe: str) -> None:
    model = load_model(find_checkpoint("tiny-bd"))
    wanted = requests(make_decoder(recipe, {"gen_length": 32}), 4)
    found, plain = (decoded(DiffusionEngine(m, 3), wanted) for m in (fixed(model), model))
    assert seen(found) == seen(plain)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_causal_model_too(temperature: float) -> None:
    model = load_model(find_checkpoint("tiny-ar"))
    wanted = requests(make_decoder("ar", {"gen_length": 24, "temperature": temperature}), 6)
    found, plain = (decoded(AutoregressiveEngine(m, 3), wanted) for m in (fixed(model), model))
    assert seen(found) == seen(plain)


@pytest.mark.parametrize("name", ["tiny-ar", "tiny-mdlm"])
def test_likelihoods_too(name: str) -> None:
    model = load_model(find_checkpoint(name))
    items = [
        Item(one.sid, one.prompt_ids, one.prompt_ids[:3])
        for one in requests(make_decoder("ar", {"gen_length": 8}), 5)
    ]
    found, plain = (
        Likelihood(m, 128).score(items, mc_num=4, batch=2) for m in (fixed(model), model)
    )
    for ours, theirs in zip(found, plain, strict=True):
        assert ours.error is None and theirs.error is None
        assert ours.logprob == pytest.approx(theirs.logprob, rel=1e-4)
