"""The forward of a CPU against the stock module."""

import copy
import threading
from dataclasses import replace
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

from decoders import Decoder, Model, Request, make_decoder
from decoders.autoregressive import AutoregressiveEngine
from decoders.canvas import Canvas
from decoders.diffusion import DiffusionEngine
from decoders.likelihood.batched import Item, Likelihood
from decoders.models import rows
from decoders.models.forward import own_forward
from decoders.models.llada import Float32Rotary
from decoders.models.packed import Packed
from decoders.models.split import Summed
from decoders.threads import side_by_side
from tests.decoders.decoding import decoded

LENGTHS = (96, 40, 7, 64, 33)
BLOCK = 8


def model_of(kind: str, visibility: Any = "bidirectional") -> Model:
    sizes: dict[str, Any] = {
        "vocab_size": 200,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 6 if kind == "llada" else 2,
        "head_dim": 12,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
        "attn_implementation": "sdpa_rotated_in_float32" if kind == "llada" else "sdpa",
    }
    torch.manual_seed(0)
    network: Any
    if kind == "qwen2":
        network = Qwen2ForCausalLM(Qwen2Config(**sizes))
    elif kind == "qwen3":
        network = Qwen3ForCausalLM(Qwen3Config(**sizes))
    else:
        network = LlamaForCausalLM(LlamaConfig(**sizes))
    for name, weight in network.named_parameters():
        if weight.ndim == 1:
            torch.nn.init.normal_(weight, 0.0 if name.endswith("bias") else 1.0, 0.1)
    if kind == "llada":
        network.model.rotary_emb = Float32Rotary(network.model.rotary_emb)
    causal = visibility == "causal"
    return Model(
        name=kind,
        digest=kind,
        family="llada",
        visibility=visibility,
        network=network.eval().requires_grad_(False),
        mask_id=None if causal else 199,
        eos_id=198,
        eot_id=None,
        stop_ids=frozenset({198}),
        vocabulary=200,
        max_length=256,
        block=BLOCK if visibility == "block-causal" else None,
    )


def canvas_of(model: Model, lengths: tuple[int, ...]) -> Canvas:
    canvas = Canvas(model, len(lengths) + 1, fill=0)
    generator = torch.Generator().manual_seed(1)
    for slot, length in enumerate(lengths):
        canvas.place(slot, torch.randint(0, 190, (length,), generator=generator).tolist())
    return canvas


def without_own_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("canvas", "autoregressive", "likelihood.batched"):
        monkeypatch.setattr(f"decoders.{place}.own_forward", lambda _: None)


def near(found: Tensor, wanted: Tensor) -> bool:
    return float((found - wanted).abs().max()) < 1e-4 * float(wanted.abs().max())


@pytest.mark.parametrize("visibility", ["bidirectional", "causal", "block-causal"])
@pytest.mark.parametrize("kind", ["llada", "llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("slots", [1, 3, 5])
def test_every_pass_is_the_stock_modules(
    kind: str, visibility: str, slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(kind, visibility)
    lengths = LENGTHS[:slots]
    if visibility == "block-causal":  # whose rows are whole blocks
        lengths = tuple(-(-length // BLOCK) * BLOCK for length in lengths)
    ours = canvas_of(model, lengths)
    assert isinstance(ours.own, Packed)
    without_own_forward(monkeypatch)
    stock = canvas_of(model, lengths)
    assert stock.own is None
    everyone = list(range(slots))
    order = everyone[::-1]
    passes: list[tuple[Any, ...]] = [
        (everyone, [0] * slots, list(lengths)),
        (everyone, [0] * slots, list(lengths), True),
        (
            order,
            [lengths[n] // 2 // BLOCK * BLOCK for n in order],
            [lengths[n] for n in order],
            True,
        ),
        (order, [lengths[n] - 1 for n in order], [lengths[n] for n in order], True),
        ([0], [lengths[0] - 1], [lengths[0]], True),
    ]
    if visibility == "bidirectional":
        blanked = [0] * slots + [3] * slots
        passes.append((everyone * 2, [0] * 2 * slots, [*lengths] * 2, False, blanked))
    for one in passes:
        found, wanted = ours.feed(*one), stock.feed(*one)
        for n, (start, stop) in enumerate(zip(one[1], one[2], strict=True)):
            assert near(found[n, : stop - start], wanted[n, : stop - start])


def test_only_wanted_states_are_computed_to_the_end() -> None:
    model = model_of("qwen3")
    forward = own_forward(model)
    assert forward is not None
    tokens = torch.randint(0, 190, (3, 40), generator=torch.Generator().manual_seed(0))
    places, limits = (
        torch.arange(40).expand(3, -1),
        torch.tensor([40, 9, 23])[:, None].expand(-1, 40),
    )
    wanted = torch.tensor([[3, 39], [0, 8], [22, 22]])
    whole = forward(tokens, places, limits, fed_B=limits[:, 0])
    narrow = forward(tokens, places, limits, wanted_BW=wanted, fed_B=limits[:, 0])
    assert near(narrow, whole.gather(1, wanted[..., None].expand(-1, -1, whole.shape[2])))


def requests(decoder: Decoder, count: int = 7) -> list[Request]:
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(4, 60, (count,), generator=generator).tolist()
    prompts = [torch.randint(0, 190, (n,), generator=generator).tolist() for n in lengths]
    return [
        Request(sid=f"s{n}", prompt_ids=tuple(prompt), decoder=decoder, trace=n == 2)
        for n, prompt in enumerate(prompts)
    ]


DIFFUSION = {
    "llada": ("llada", {"steps": 16, "block_length": 16}),
    "guided by a masked prompt": ("llada", {"steps": 8, "block_length": 32, "cfg_scale": 1.0}),
    "sampled": ("llada", {"steps": 16, "block_length": 16, "temperature": 0.7}),
    "dual": ("fast-dllm", {"threshold": 0.2, "block_length": 16}),
    "prefix": ("fast-dllm", {"cache": "prefix", "rule": "fixed", "steps": 16, "block_length": 16}),
    "shifted": ("dream", {"steps": 16}),
    "block-causal": ("llada2", {"threshold": 0.2}),
}


@pytest.mark.parametrize("name", DIFFUSION)
def test_tokens_are_those_of_the_stock_module_with_any_slots_and_threads(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of("qwen3", "block-causal" if name == "block-causal" else "bidirectional")
    model = replace(
        model, shift=int(name == "shifted"), family="dream" if name == "shifted" else "llada"
    )
    recipe, settings = DIFFUSION[name]
    wanted = requests(make_decoder(recipe, {"gen_length": 32, **settings}))
    ours = [decoded(DiffusionEngine(model, slots), wanted) for slots in (1, 5)]
    monkeypatch.setattr(rows, "LEAST", 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    ours.append(decoded(DiffusionEngine(model, 5), wanted))
    torch.set_num_threads(threads)
    without_own_forward(monkeypatch)
    stock = decoded(DiffusionEngine(model, 3), wanted)
    for found in ours:
        for sid, result in stock.items():
            assert found[sid].output_ids == result.output_ids
            assert found[sid].nfe == result.nfe


def test_autoregressive_tokens_and_likelihoods_are_the_stock_modules(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = model_of("qwen2", "causal")
    wanted = requests(make_decoder("ar", {"gen_length": 24}))
    ours = [decoded(AutoregressiveEngine(model, slots), wanted) for slots in (1, 4)]
    items = [Item(one.sid, one.prompt_ids, (5, 6, 7)) for one in wanted]
    values = Likelihood(model).score(items)
    without_own_forward(monkeypatch)
    stock = decoded(AutoregressiveEngine(model, 3), wanted)
    for found in ours:
        assert {s: r.output_ids for s, r in found.items()} == {
            s: r.output_ids for s, r in stock.items()
        }
    for one, other in zip(values, Likelihood(model).score(items), strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)


def test_other_networks_stay_with_the_stock_module() -> None:
    model = model_of("llama")
    weights = [weight.data_ptr() for weight in model.network.parameters()]
    assert own_forward(model) is own_forward(model)
    assert [weight.data_ptr() for weight in model.network.parameters()] == weights
    half = replace(model, network=copy.deepcopy(model.network).bfloat16())
    split = replace(model, network=copy.deepcopy(model.network))
    split.network.model.layers[0].mlp.down_proj = Summed(80, 48, bias=False)
    gelu = replace(model, network=copy.deepcopy(model.network))
    gelu.network.config.hidden_act = "gelu"
    assert [own_forward(other) for other in (half, split, gelu)] == [None] * 3


def test_rows_are_parted_where_threads_have_about_as_much_to_do() -> None:
    assert rows.parted([130] * 8, 2) == ([slice(n, n + 2) for n in range(0, 8, 2)], True)
    assert rows.parted([30] * 3, 2) == ([slice(0, 3)], False)
    assert rows.parted([500, 20, 20], 2) == ([slice(0, 1), slice(1, 3)], False)
    parts, is_even = rows.parted([100, 90, 120, 80, 300, 20], 3)
    assert is_even and [row for part in parts for row in range(6)[part]] == list(range(6))


def test_threads_compute_alone_and_leave_torchs_own_as_they_were() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    both = threading.Barrier(2, timeout=30)

    def look(part: int) -> tuple[int, int, bool]:
        both.wait()
        return part, torch.get_num_threads(), torch.is_inference_mode_enabled()

    with torch.inference_mode():
        assert side_by_side(look, [0, 1]) == [(0, 1, True), (1, 1, True)]
    assert torch.get_num_threads() == 2
    with pytest.raises(ZeroDivisionError):
        side_by_side(lambda part: 1 // part, [1, 0])
    begun = []
    thread = threading.Thread(target=lambda: begun.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    torch.set_num_threads(threads)
    assert begun == [2]
