"""DiffusionGemma: loaded by transformers' own class, refused where that is missing."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from decoders.models import (
    DIFFUSION_FAMILIES,
    ModelError,
    block_of,
    check,
    family_of,
    find_checkpoint,
    generation_of,
    load_model,
)

TEXT = {
    "vocab_size": 60,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "global_head_dim": 16,
    "max_position_embeddings": 256,
    "sliding_window": 32,
    "layer_types": ["sliding_attention", "full_attention"],
    "num_experts": 4,
    "top_k_experts": 2,
    "moe_intermediate_size": 32,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
}


def published(folder: Path) -> Any:
    """A seeded network, saved as the published one is."""
    kinds = pytest.importorskip("transformers.models.diffusion_gemma")
    if not hasattr(kinds, "DiffusionGemmaForBlockDiffusion"):
        pytest.skip("this transformers has no DiffusionGemma")
    config = kinds.DiffusionGemmaConfig(text_config=TEXT, vision_config=VISION, canvas_length=8)
    torch.manual_seed(0)
    network = kinds.DiffusionGemmaForBlockDiffusion(config).eval()
    network.save_pretrained(folder)
    words = {f"w{i}": i for i in range(60)}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, "w0")))
    tokenizer.save_pretrained(folder)
    return network


def test_loads_and_generates_as_transformers_does(tmp_path: Path) -> None:
    network = published(tmp_path)
    checkpoint = find_checkpoint(str(tmp_path))
    check(checkpoint)
    assert (family_of(checkpoint), generation_of(checkpoint)) == ("diffusion_gemma", "diffusion")
    assert "diffusion_gemma" not in DIFFUSION_FAMILIES
    assert block_of(checkpoint) == 8
    model = load_model(checkpoint)
    assert (model.mask_id, model.visibility, model.block) == (None, "block-causal", 8)
    assert (model.vocabulary, model.max_length, model.eos_id) == (60, 256, 1)
    prompt = torch.randint(2, 60, (2, 5), generator=torch.Generator().manual_seed(3))
    written = []
    for each in (network, model.network):
        torch.manual_seed(4)
        output = each.generate(prompt, max_new_tokens=16, max_denoising_steps=3)
        written.append(output.sequences)
    assert torch.equal(*written)
    assert written[0].shape == (2, 21)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("drop", "model.decoder.norm.weight is missing"),
        ("extra", "model.more is not expected"),
        ("shape", "model.decoder.norm.weight has another shape"),
    ],
)
def test_damaged_files_are_refused(change: str, words: str, tmp_path: Path) -> None:
    published(tmp_path)
    path, name = tmp_path / "model.safetensors", "model.decoder.norm.weight"
    tensors = load_file(path)
    if change == "drop":
        del tensors[name]
    else:
        tensors[name if change == "shape" else "model.more"] = torch.ones(3)
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(ModelError, match=words):
        load_model(find_checkpoint(str(tmp_path)))


def test_a_transformers_without_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "diffusion_gemma"}')
    without = type(sys)("transformers")
    monkeypatch.setitem(sys.modules, "transformers", without)
    with pytest.raises(ModelError, match="needs a transformers that has it: pip install -U"):
        check(find_checkpoint(str(tmp_path)))
