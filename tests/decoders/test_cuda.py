"""The GPU path against the plain one. Everything here needs a GPU and Triton:

python -m pytest -q tests/decoders/test_cuda.py
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from decoders import Decoder, Model, Request, Result, make_decoder
from decoders.autoregressive import AutoregressiveEngine
from decoders.diffusion import DiffusionEngine
from decoders.engine import make_engine
from decoders.likelihood.batched import Item, Likelihood
from decoders.models.base import attention_bias
from decoders.models.forward import Store, own_forward
from decoders.models.fused import Fused
from decoders.models.llada import Float32Rotary
from tests.decoders.decoding import decoded

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or find_spec("triton") is None,
    reason="needs a GPU and Triton",
)

SIZES: dict[str, Any] = {
    "vocab_size": 200,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 1024,
    "initializer_range": 0.2,
    "attn_implementation": "sdpa",
}


def off(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def network(kind: str, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    if kind == "qwen2":
        built: Any = Qwen2ForCausalLM(Qwen2Config(**SIZES))
    elif kind == "qwen3":
        built = Qwen3ForCausalLM(Qwen3Config(**SIZES))
    else:
        attention = "sdpa_rotated_in_float32" if kind == "llada" else "sdpa"
        built = LlamaForCausalLM(LlamaConfig(**{**SIZES, "attn_implementation": attention}))
    for name, weight in built.named_parameters():
        if weight.ndim == 1:
            torch.nn.init.normal_(weight, 0.0 if name.endswith("bias") else 1.0, 0.1)
    built = built.to("cuda", dtype).eval().requires_grad_(False)
    built.model.rotary_emb = type(built.model.rotary_emb)(built.config).to("cuda")
    if kind == "llada":
        built.model.rotary_emb = Float32Rotary(built.model.rotary_emb)
    return built


def model_of(kind: str, dtype: torch.dtype = torch.float32, **changes: Any) -> Model:
    causal = kind == "causal"
    model = Model(
        name=kind,
        digest=kind,
        family="llada",
        visibility="causal" if causal else "bidirectional",
        network=network(kind, dtype),
        mask_id=None if causal else 199,
        eos_id=198,
        eot_id=None if causal else 197,
        stop_ids=frozenset({198}),
        vocabulary=200,
        max_length=1024,
    )
    return replace(model, **changes)


def on_cpu(model: Model) -> Model:
    return replace(model, network=copy.deepcopy(model.network).to("cpu"))


def requests(decoders: Sequence[Decoder], trace: bool = False) -> list[Request]:
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(4, 90, (len(decoders),), generator=generator).tolist()
    return [
        Request(
            sid=f"sample-{n}",
            prompt_ids=tuple(torch.randint(0, 190, (length,), generator=generator).tolist()),
            decoder=decoder,
            trace=trace,
        )
        for n, (length, decoder) in enumerate(zip(lengths, decoders, strict=True))
    ]


def same(found: dict[str, Result], wanted: dict[str, Result]) -> None:
    assert found.keys() == wanted.keys()
    for sid, result in wanted.items():
        assert found[sid].output_ids == result.output_ids
        assert found[sid].nfe == result.nfe
        assert found[sid].commit_steps == result.commit_steps


@pytest.mark.parametrize(
    ("rows", "queries", "heads", "key_heads", "places", "size"),
    [
        (3, 32, 4, 4, 300, 64),
        (5, 300, 4, 2, 300, 32),
        (2, 1, 8, 2, 1024, 128),
        (1, 1, 6, 1, 90, 16),
    ],
)
def test_attention_equals_sdpa(
    rows: int, queries: int, heads: int, key_heads: int, places: int, size: int
) -> None:
    from decoders.kernels.attention import attend

    torch.manual_seed(1)
    for dtype, limit in ((torch.float32, 1e-3), (torch.bfloat16, 1e-2)):
        q = torch.randn(rows, queries, heads, size, device="cuda").to(dtype)
        k = torch.randn(rows + 2, key_heads, places, size, device="cuda").to(dtype)
        v = torch.randn_like(k)
        slots = torch.randperm(rows + 2, device="cuda")[:rows]
        limits = torch.randint(1, places + 1, (rows, queries), device="cuda", dtype=torch.int32)
        limits[0] = places // 2
        found = attend(q, k, v, slots, limits, size**-0.5)
        seen = torch.arange(places, device="cuda") < limits[:, None, :, None]
        wanted = torch.nn.functional.scaled_dot_product_attention(
            q.double().transpose(1, 2),
            k[slots].double().repeat_interleave(heads // key_heads, 1),
            v[slots].double().repeat_interleave(heads // key_heads, 1),
            seen,
        ).transpose(1, 2)
        assert off(found, wanted) < (1e-5 if dtype == torch.float32 else limit)
        limits[-1] = 0
        assert not attend(q, k, v, slots, limits, size**-0.5)[-1].any()


@pytest.mark.parametrize("kind", ["llama", "llada", "qwen2", "qwen3"])
def test_the_fused_forward_equals_the_stock_module(kind: str) -> None:
    tokens = torch.randint(0, 200, (3, 96), device="cuda")
    places = torch.arange(96, device="cuda")
    limits = torch.tensor([96, 50, 7], device="cuda")[:, None].expand(-1, 96)
    seen = places < limits[:, :1]
    for dtype in (torch.float32, torch.bfloat16):
        model = model_of(kind, dtype)
        truth = replace(model, network=copy.deepcopy(model.network).double())
        exact = truth.hidden(tokens, attention_bias(seen, torch.float64))
        stock = model.hidden(tokens, attention_bias(seen, dtype))
        found = Fused(model.network)(tokens, places.expand(3, -1), limits)
        for row, length in enumerate((96, 50, 7)):
            part = (row, slice(length))
            allowed = 1.5 * off(stock[part], exact[part]) + 1e-6
            assert off(found[part], exact[part]) < allowed
        # The joined weights are the module's own.
        assert off(model.hidden(tokens, attention_bias(seen, dtype)), stock) == 0


def test_a_cached_pass_sees_what_a_whole_one_saw() -> None:
    model = model_of("llada")
    forward, store = Fused(model.network), Store(4)
    store.widen(256, forward)
    tokens = torch.randint(0, 200, (2, 100), device="cuda")
    places = torch.arange(100, device="cuda").expand(2, -1)
    limits = torch.full((2, 100), 100, device="cuda")
    slots = torch.tensor([3, 1], device="cuda")
    whole = forward(tokens, places, limits)
    assert off(forward(tokens, places, limits, store, slots, places), whole) < 1e-6
    part = slice(40, 72)
    wanted = torch.tensor([[3, 9], [0, 31]], device="cuda")
    rows = (tokens[:, part], places[:, part], limits[:, part], store, slots, places[:, part])
    assert off(forward(*rows), whole[:, part]) < 1e-5
    narrow = forward(*rows, wanted_BW=wanted)
    assert off(narrow, whole[:, part][torch.arange(2)[:, None], wanted.cpu()]) < 1e-5


def test_peaks_equal_torch() -> None:
    from decoders.kernels.head import peaks

    for dtype in (torch.float32, torch.bfloat16):
        logits = (torch.randn(5, 7, 126_464, device="cuda") * 3).to(dtype)
        logits[0, 0, [5, 99_000]] = 40.0
        logits[..., 77] = -torch.inf
        p = logits.double().softmax(-1)
        best = logits.float().topk(2, dim=-1).values
        found = peaks(logits, entropy=True)
        assert found.token[0, 0] == 5
        assert torch.equal(found.token, logits.argmax(-1))
        assert torch.equal(found.top, best[..., 0]) and torch.equal(found.second, best[..., 1])
        assert off(found.probability, p.amax(-1)) < 1e-6
        assert off(-found.negentropy, -torch.xlogy(p, p).sum(-1)) < 1e-5


def diffusion(name: str, **settings: Any) -> Decoder:
    return make_decoder(name, {"gen_length": 64, **settings})


RECIPES = {
    "llada": diffusion("llada", steps=32, block_length=32),
    "llada-cfg": diffusion("llada", steps=16, block_length=32, cfg_scale=1.0),
    "llada-sampled": diffusion("llada", steps=16, block_length=16, temperature=0.7),
    "prophet": diffusion("prophet", steps=32, gap_early=1.5, gap_mid=1.0, gap_late=0.5),
    "dual": diffusion("fast-dllm", cache="dual", rule="fixed", steps=32, block_length=32),
    "prefix": diffusion("fast-dllm", cache="prefix", threshold=0.5, block_length=16),
    "factor": diffusion("fast-dllm", cache="dual", rule="factor", factor=2.0, block_length=16),
    "credit": diffusion("fast-dllm", cache="dual", rule="credit", threshold=0.4),
}


@pytest.mark.parametrize("name", RECIPES)
def test_graphs_the_fused_head_and_neighbours_change_no_token(name: str) -> None:
    wanted = requests([RECIPES[name]] * 9)
    for dtype in (torch.float32, torch.bfloat16):
        model = model_of("llada", dtype)
        assert isinstance(own_forward(model), Fused)
        eager = decoded(DiffusionEngine(model, 4, graphs=False), wanted)
        same(decoded(DiffusionEngine(model, 4), wanted), eager)
        same(decoded(DiffusionEngine(model, 4, fused_head=False), wanted), eager)
        for request in wanted[::3]:
            alone = decoded(DiffusionEngine(model, 4), [request])
            same(alone, {request.sid: eager[request.sid]})
        if dtype == torch.float32:
            same(eager, decoded(DiffusionEngine(on_cpu(model), 4), wanted))


@pytest.mark.parametrize("kind", ["dream", "llada2", "fast-dllm-v2", "freecache"])
def test_other_families_equal_the_cpu(kind: str) -> None:
    changes: dict[str, Any] = {"shift": 1}
    settings: dict[str, Any] = {"steps": 16}
    if kind in ("llada2", "fast-dllm-v2"):
        changes = {"visibility": "block-causal", "block": 32, "shift": int(kind != "llada2")}
        settings = {}
    if kind == "freecache":
        settings = {"steps": 16, "block_length": 16}
    model = model_of("qwen3" if kind == "llada2" else "qwen2", **changes)
    wanted = requests([diffusion(kind, **settings)] * 6)
    found = decoded(DiffusionEngine(model, 3), wanted)
    same(found, decoded(DiffusionEngine(on_cpu(model), 3), wanted))


def test_a_trace_changes_no_token_and_sees_what_the_cpu_sees() -> None:
    model = model_of("llada")
    plain = requests([RECIPES["dual"]] * 5)
    traced = decoded(DiffusionEngine(model, 3), [replace(one, trace=True) for one in plain])
    same(
        {s: replace(r, commit_steps=()) for s, r in traced.items()},
        {s: r for s, r in decoded(DiffusionEngine(model, 3), plain).items()},
    )
    wanted = decoded(DiffusionEngine(on_cpu(model), 3), [replace(one, trace=True) for one in plain])
    for sid, result in traced.items():
        trace, other = result.trace, wanted[sid].trace
        assert trace is not None and other is not None
        assert (trace.committed == other.committed).all() and (trace.tokens == other.tokens).all()
        assert abs(trace.entropy - other.entropy).max() < 1e-3
        assert result.commit_steps == wanted[sid].commit_steps


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_autoregressive_steps_equal_the_cpu(temperature: float) -> None:
    decoder = make_decoder("ar", {"gen_length": 40, "temperature": temperature})
    wanted = requests([decoder] * 9)
    for dtype in (torch.float32, torch.bfloat16):
        model = model_of("causal", dtype, stop_ids=frozenset(range(180, 184)))
        eager = decoded(AutoregressiveEngine(model, 4, graphs=False), wanted)
        same(decoded(AutoregressiveEngine(model, 4), wanted), eager)
        same(
            decoded(AutoregressiveEngine(model, 4), wanted[2:3]),
            {wanted[2].sid: eager[wanted[2].sid]},
        )
        if dtype == torch.float32:
            same(eager, decoded(AutoregressiveEngine(on_cpu(model), 4), wanted))


def test_speculation_equals_the_cpu() -> None:
    target = model_of("causal")
    drafter = model_of("causal")
    decoder = make_decoder("speculative", {"gen_length": 30, "gamma": 3, "drafter": "drafter"})
    wanted = requests([decoder] * 4)
    found = decoded(make_engine(target, decoder, 2, drafter), wanted)
    same(found, decoded(make_engine(on_cpu(target), decoder, 2, on_cpu(drafter)), wanted))


@pytest.mark.parametrize("kind", ["llada", "causal"])
def test_likelihoods_equal_the_cpu(kind: str) -> None:
    model = model_of(kind)
    items = [
        Item(f"item-{n}", one.prompt_ids, tuple(range(n % 3 + 1)))
        for n, one in enumerate(requests([RECIPES["llada"]] * 8))
    ]
    found = Likelihood(model, positions=256).score(items, mc_num=4, batch=2)
    wanted = Likelihood(on_cpu(model)).score(items, mc_num=4, batch=2)
    for one, other in zip(found, wanted, strict=True):
        assert one.error is None and other.error is None
        assert abs(one.logprob - other.logprob) < 1e-3 * max(1.0, abs(other.logprob))
