"""Every family of stock modules: read as published, held to the published mathematics."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from torch.nn import functional as F
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, DynamicCache, PreTrainedTokenizerFast

from decoders.models import (
    DIFFUSION_FAMILIES,
    Model,
    ModelError,
    block_of,
    check,
    family_of,
    find_checkpoint,
    generation_of,
    load_model,
    load_tokenizer,
    visibility_of,
)
from decoders.models.base import attention_bias
from decoders.models.causal import FAMILIES as CAUSAL

HERE = Path(__file__).parent
VOCABULARY = 200
ROPE = {"rope_theta": 10000.0, "rope_scaling": None}
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "eos_token_id": 198,
    "bos_token_id": None,
    "pad_token_id": 196,
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "Dream": {
        "architectures": ["DreamModel"],
        "auto_map": {"AutoModel": "modeling_dream.DreamModel"},
        "mask_token_id": 199,
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "max_window_layers": 28,
        "sliding_window": None,
        "use_mrope": False,
        "use_sliding_window": False,
        "tie_word_embeddings": False,
        **ROPE,
    },
    "Fast_dLLM_Qwen": {
        "architectures": ["Fast_dLLM_QwenForCausalLM"],
        "bd_size": 32,
        "hidden_act": "silu",
        "layer_types": ["full_attention", "full_attention"],
        "sliding_window": None,
        "use_sliding_window": False,
        "tie_word_embeddings": False,
        **ROPE,
    },
    "sdar": {
        "architectures": ["SDARForCausalLM"],
        "attention_bias": False,
        "head_dim": 24,
        "hidden_act": "silu",
        "mask_token_id": 199,
        "use_sliding_window": False,
        "tie_word_embeddings": False,
        **ROPE,
    },
}


def write_tokenizer(folder: Path, size: int = VOCABULARY, named: dict[int, str] | None = None):
    words = {(named or {}).get(i, f"w{i}"): i for i in range(size)}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, "w0")))
    tokenizer.save_pretrained(folder)


def write(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        folder / "model.safetensors",
    )
    write_tokenizer(folder, named={197: "<|im_end|>", 199: "|<MASK>|"})
    return folder


def qwen_tensors(config: dict[str, Any], normed: bool) -> dict[str, Tensor]:
    """Seeded weights under Qwen2's names, or Qwen3's."""
    draw = torch.Generator().manual_seed(5)
    width, mlp = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim", width // config["num_attention_heads"])
    rows = {"q": config["num_attention_heads"], "k": config["num_key_value_heads"]}
    rows["v"] = rows["k"]
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCABULARY, width),
        "model.norm.weight": (width,),
    }
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (VOCABULARY, width)
    for layer in range(2):
        root = f"model.layers.{layer}."
        for name, count in rows.items():
            shapes[f"{root}self_attn.{name}_proj.weight"] = (count * head, width)
            if normed and name != "v":
                shapes[f"{root}self_attn.{name}_norm.weight"] = (head,)
            if not normed:
                shapes[f"{root}self_attn.{name}_proj.bias"] = (count * head,)
        shapes[f"{root}self_attn.o_proj.weight"] = (width, rows["q"] * head)
        shapes[f"{root}mlp.gate_proj.weight"] = shapes[f"{root}mlp.up_proj.weight"] = (mlp, width)
        shapes[f"{root}mlp.down_proj.weight"] = (width, mlp)
        shapes[f"{root}input_layernorm.weight"] = (width,)
        shapes[f"{root}post_attention_layernorm.weight"] = (width,)
    return {
        name: torch.randn(shape, generator=draw) * 0.1 + (1.0 if "norm" in name else 0.0)
        for name, shape in shapes.items()
    }


def plain_qwen(
    config: dict[str, Any], weights: dict[str, Tensor], tokens_L: Tensor, seen_LL: Tensor
) -> Tensor:
    """Logits [L, V] by the equations of Qwen2 and Qwen3, one head at a time, in float64."""
    w = {name: tensor.double() for name, tensor in weights.items()}
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    size = config.get("head_dim", config["hidden_size"] // heads)
    pairs = torch.arange(size // 2, dtype=torch.float64)
    angles = torch.arange(len(tokens_L))[:, None] * config["rope_theta"] ** (-2 * pairs / size)
    turn = torch.polar(torch.ones_like(angles), angles)

    def normed(x: Tensor, name: str) -> Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + config["rms_norm_eps"]).sqrt() * w[name]

    def project(x: Tensor, name: str, head: int) -> Tensor:
        rows = slice(head * size, (head + 1) * size)
        bias = w.get(f"{name}_proj.bias")
        y = x @ w[f"{name}_proj.weight"][rows].T + (0 if bias is None else bias[rows])
        if name.endswith(".v"):
            return y
        if f"{name}_norm.weight" in w:
            y = normed(y, f"{name}_norm.weight")
        turned = torch.complex(*y.chunk(2, -1)) * turn
        return torch.cat((turned.real, turned.imag), -1)

    x = w["model.embed_tokens.weight"][tokens_L]
    for layer in range(config["num_hidden_layers"]):
        root = f"model.layers.{layer}."
        read, mixed = normed(x, f"{root}input_layernorm.weight"), []
        for head in range(heads):
            query = project(read, f"{root}self_attn.q", head)
            key, value = (
                project(read, f"{root}self_attn.{part}", head * groups // heads) for part in "kv"
            )
            scores = (query @ key.T / size**0.5).masked_fill(~seen_LL, -torch.inf)
            mixed.append(scores.softmax(-1) @ value)
        x = x + torch.cat(mixed, -1) @ w[f"{root}self_attn.o_proj.weight"].T
        read = normed(x, f"{root}post_attention_layernorm.weight")
        gate = F.silu(read @ w[f"{root}mlp.gate_proj.weight"].T)
        up = read @ w[f"{root}mlp.up_proj.weight"].T
        x = x + (gate * up) @ w[f"{root}mlp.down_proj.weight"].T
    return (
        normed(x, "model.norm.weight") @ w.get("lm_head.weight", w["model.embed_tokens.weight"]).T
    )


def logits(model: Model, tokens_SL: Tensor, seen: Tensor) -> Tensor:
    with torch.inference_mode():
        return model.head(model.hidden(tokens_SL, attention_bias(seen, model.dtype)))


def block_causal(length: int, block: int) -> Tensor:
    blocks = torch.arange(length) // block
    return blocks[:, None] >= blocks


@pytest.mark.parametrize(
    ("name", "kind", "family", "visibility", "block"),
    [
        ("dream_a", "Dream", "dream", "bidirectional", None),
        ("dream_b", "Dream", "dream", "bidirectional", None),
        ("fdv2_a", "Fast_dLLM_Qwen", "fast_dllm_v2", "block-causal", 32),
    ],
)
@pytest.mark.parametrize(
    ("dtype", "record", "most"), [("float32", "f32", 1e-4), ("bfloat16", "bf16", 1e-2)]
)
def test_qwen2_families_reproduce_the_authors_logits(
    name: str, kind: str, family: str, visibility: str, block: int | None,
    dtype: str, record: str, most: float, tmp_path: Path,
) -> None:  # fmt: skip
    """Recorded from the authors' modules, with every position seen."""
    stock = json.loads((HERE / "models" / name / "config.json").read_text())
    config = PUBLISHED[kind] | {key: stock[key] for key in (*SIZES, "rope_theta")}
    weights = load_file(HERE / "models" / name / "model.safetensors")
    checkpoint = find_checkpoint(str(write(tmp_path, config | {"model_type": kind}, weights)))
    assert (family_of(checkpoint), visibility_of(checkpoint)) == (family, visibility)
    assert (generation_of(checkpoint), block_of(checkpoint)) == ("diffusion", block)
    assert family in DIFFUSION_FAMILIES
    model = load_model(checkpoint, dtype=dtype)
    assert (model.shift, model.visibility, model.block) == (1, visibility, block)
    assert (model.mask_id, model.eos_id, model.eot_id) == (199, 198, 197)
    assert model.stop_ids == {197, 198}
    probe = load_file(HERE / "models" / name / "probe.safetensors")
    tokens = probe["input_ids"]
    found = logits(model, tokens, torch.ones(tokens.shape, dtype=torch.bool))
    assert (found.float() - probe[f"logits_full_{record}"].float()).abs().max() < most
    causal = logits(model, tokens, torch.ones(2, 20, 20, dtype=torch.bool).tril())
    assert (causal.float() - probe[f"logits_full_{record}"].float()).abs().max() > 0.5


@pytest.mark.parametrize(
    ("kind", "change", "block", "shift"),
    [
        ("sdar", {}, 4, 0),
        ("sdar", {"block_size": 8, "rope_theta": 1e6}, 8, 0),
        ("Fast_dLLM_Qwen", {"bd_size": 8, "tie_word_embeddings": True}, 8, 1),
        ("Dream", {"rope_theta": 1e6, "rms_norm_eps": 1e-2}, None, 1),
    ],
)
def test_the_forward_is_that_of_the_equations(
    kind: str, change: dict[str, Any], block: int | None, shift: int, tmp_path: Path
) -> None:
    config = SIZES | PUBLISHED[kind] | {"model_type": kind} | change
    weights = qwen_tensors(config, normed=kind == "sdar")
    model = load_model(find_checkpoint(str(write(tmp_path, config, weights))))
    assert (model.block, model.shift, model.max_length) == (block, shift, 256)
    tokens = torch.randint(0, VOCABULARY, (2, 19), generator=torch.Generator().manual_seed(1))
    seen = block_causal(19, block or 19)
    found = logits(model, tokens, seen[None])
    for row in range(2):
        expected = plain_qwen(config, weights, tokens[row], seen)
        assert (found[row] - expected).abs().max() < 1e-4


def test_any_checkpoint_can_be_read_block_causally() -> None:
    model = load_model(find_checkpoint("tiny-mdlm"))
    blocked = dataclasses.replace(model, visibility="block-causal", block=8)
    assert (blocked.shift, blocked.block, blocked.mask_id) == (0, 8, model.mask_id)
    tokens = torch.arange(2, 26)[None]
    changed = tokens.clone()
    changed[0, 20] += 1
    first, second = (
        blocked.hidden(t, attention_bias(block_causal(24, 8)[None], blocked.dtype))
        for t in (tokens, changed)
    )
    assert torch.equal(first[0, :16], second[0, :16])
    assert not torch.equal(first[0, 16:18], second[0, 16:18])


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("Dream", {"hidden_act": "gelu"}, "Dream config: hidden_act must be 'silu', got 'gelu'"),
        ("Dream", {"use_sliding_window": True}, "use_sliding_window must be False"),
        ("Dream", {"use_mrope": True}, "use_mrope must be False"),
        ("Dream", {"rope_scaling": {"type": "yarn"}}, "rope_scaling must be None"),
        ("Dream", {"rope_theta": None}, "rope_theta is missing"),
        ("Dream", {"architectures": ["DreamForCausalLM"]}, "architectures must be .'DreamModel'"),
        ("Dream", {"mask_token_id": None}, "config.json has no mask_token_id"),
        ("Dream", {"mask_token_id": 200}, "mask_token_id must be below 200, got 200"),
        ("Dream", {"rms_norm_eps": "absent"}, "rms_norm_eps is missing"),
        ("Fast_dLLM_Qwen", {"bd_size": None}, "config.json has no bd_size"),
        ("Fast_dLLM_Qwen", {"bd_size": 0}, "bd_size must be a positive number, got 0"),
        ("Fast_dLLM_Qwen", {"layer_types": ["sliding_attention"]}, "layer_types must be full"),
        ("Fast_dLLM_Qwen", {"quantization_config": {}}, "quantization_config must be None"),
        ("sdar", {"rope_parameters": {"rope_type": "yarn"}}, "rope_type must be 'default'"),
        ("sdar", {"attention_bias": True}, r"self_attn\.q_proj\.bias is missing"),
        ("sdar", {"head_dim": 16}, r"q_proj\.weight has shape \[96, 64\]"),
    ],
)  # fmt: skip
def test_configs_of_other_mathematics_are_refused(
    kind: str, change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    published = SIZES | PUBLISHED[kind] | {"model_type": kind}
    weights = qwen_tensors(published, normed=kind == "sdar")
    config = {k: v for k, v in (published | change).items() if v != "absent"}
    with pytest.raises(ModelError, match=words):
        check(find_checkpoint(str(write(tmp_path, config, weights))))


@pytest.mark.parametrize("kind", PUBLISHED)
@pytest.mark.parametrize(
    ("change", "words"),
    [("drop", "is missing"), ("extra", "is not expected"), ("cut", "is cut short")],
)
def test_damaged_files_are_refused(kind: str, change: str, words: str, tmp_path: Path) -> None:
    config = SIZES | PUBLISHED[kind] | {"model_type": kind}
    weights = qwen_tensors(config, normed=kind == "sdar")
    check(find_checkpoint(str(write(tmp_path, config, weights))))
    name = "model.layers.1.self_attn.k_proj.weight"
    if change == "drop":
        del weights[name]
    if change == "extra":
        weights[name := "model.layers.2.self_attn.k_proj.weight"] = torch.zeros(1)
    write(tmp_path, config, weights)
    if change == "cut":
        path = tmp_path / (name := "model.safetensors")
        path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ModelError, match=f"{name} {words}"):
        check(find_checkpoint(str(tmp_path)))


def test_a_mask_that_nothing_names_is_refused(tmp_path: Path) -> None:
    config = SIZES | PUBLISHED["Fast_dLLM_Qwen"] | {"model_type": "Fast_dLLM_Qwen"}
    write(tmp_path, config, qwen_tensors(config, normed=False))
    write_tokenizer(tmp_path)
    with pytest.raises(ModelError, match=r"no mask_token_id and its tokenizer no \|<MASK>\|"):
        load_model(find_checkpoint(str(tmp_path)))


def test_a_qwen_tokenizer_is_read_from_its_parts(tmp_path: Path) -> None:
    """Dream's repository has vocab.json and merges.txt, and a tokenizer class of its own."""
    config = SIZES | PUBLISHED["Dream"] | {"model_type": "Dream"}
    write(tmp_path, config, qwen_tensors(config, normed=False))
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"no tokenizer\.json; save its fast tokenizer there"):
        load_tokenizer(find_checkpoint(str(tmp_path)))
    vocabulary = {"a": 0, "b": 1, "ab": 2, "Ġ": 3, "Ġab": 4, "<|endoftext|>": 5}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\nĠ ab\n")
    stated = {"tokenizer_class": "DreamTokenizer", "auto_map": {"AutoTokenizer": ["x.Y", None]}}
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps(
            stated | {"added_tokens_decoder": {"9": {"content": "<|mask|>", "special": True}}}
        )
    )
    tokenizer = load_tokenizer(find_checkpoint(str(tmp_path)))
    ids = tokenizer.encode("ab ab<|mask|>", add_special_tokens=False)
    assert ids[:2] == [2, 4]
    assert tokenizer.decode(ids) == "ab ab<|mask|>"


CAUSAL_SIZES = {key: value for key, value in SIZES.items() if key != "rms_norm_eps"}
CHANGES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "mistral": {"sliding_window": None},
}


def causal_checkpoint(kind: str, folder: Path, change: dict[str, Any] | None = None) -> Any:
    """A seeded network of transformers, saved as it saves; GPT-2 as OpenAI published it."""
    config = CONFIG_MAPPING[kind](**CAUSAL_SIZES | CHANGES.get(kind, {}))
    torch.manual_seed(3)
    network = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for tensor in network.parameters():
        tensor.data += 0.05 * torch.randn_like(tensor)
    network.save_pretrained(folder)
    path = folder / "model.safetensors"
    tensors = {k.removeprefix("transformer."): v for k, v in load_file(path).items()}
    if kind == "gpt2":
        tensors["h.0.attn.bias"] = torch.ones(1, 1, 256, 256).tril()
    save_file(tensors, path)
    stated = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(stated | (change or {})))
    write_tokenizer(folder)
    return network


@pytest.mark.parametrize("kind", CAUSAL)
def test_causal_families_equal_transformers(kind: str, tmp_path: Path) -> None:
    """With the causal mask given, and step by step over cached keys and values."""
    network = causal_checkpoint(kind, tmp_path)
    checkpoint = find_checkpoint(str(tmp_path))
    assert generation_of(checkpoint) == "autoregressive"
    assert family_of(checkpoint) == kind
    assert kind not in DIFFUSION_FAMILIES
    model = load_model(checkpoint)
    assert (model.visibility, model.mask_id, model.block) == ("causal", None, None)
    assert (model.vocabulary, model.max_length) == (VOCABULARY, 256)
    assert not [n for n, b in model.network.named_buffers() if b.is_meta]
    tokens = torch.randint(0, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        expected = network(input_ids=tokens).logits
    seen = torch.ones(2, 9, 9, dtype=torch.bool).tril()
    found = logits(model, tokens, seen)
    assert (found - expected).abs().max() < 1e-4
    assert expected.std() > 0.05

    cache, steps = DynamicCache(), []
    with torch.inference_mode():
        for start, end in ((0, 6), (6, 8), (8, 9)):
            places = torch.arange(start, end).expand(2, -1)
            bias = attention_bias(seen[:, start:end, :end], model.dtype)
            steps.append(model.cached_hidden(tokens[:, start:end], places, bias, cache))
        assert (model.head(torch.cat(steps, 1)) - expected).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("mistral", {"sliding_window": 128}, "mistral config: sliding_window must be null"),
        ("phi3", {"sliding_window": 128}, "sliding_window must be null, got 128"),
        ("qwen2", {"use_sliding_window": True}, "use_sliding_window must be False, got True"),
        ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types must be"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
         "rope_type must not depend on the length, got 'dynamic'"),
        ("llama", {"attention_chunk_size": 64}, "attention_chunk_size must be None"),
        ("llama", {"quantization_config": {"quant_method": "fp8"}}, "quantization_config must be"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "must be False, got True"),
        ("gpt2", {"model_type": "gpt_neo"}, "'gpt_neo' is not supported"),
        ("llama", {"hidden_size": 63}, "llama config: "),
    ],
)  # fmt: skip
def test_attention_that_is_not_plain_causal_is_refused(
    kind: str, change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    causal_checkpoint(kind, tmp_path, change)
    with pytest.raises(ModelError, match=words):
        check(find_checkpoint(str(tmp_path)))


def test_a_window_as_wide_as_the_context_is_none(tmp_path: Path) -> None:
    causal_checkpoint("mistral", tmp_path, {"sliding_window": 256})
    check(find_checkpoint(str(tmp_path)))
