"""SEDD and MDLM: the module against its published equations, written out once more."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import DynamicCache, PreTrainedTokenizerFast

from decoders import DecoderError
from decoders.models import (
    DIFFUSION_FAMILIES,
    Model,
    ModelError,
    check,
    family_of,
    find_checkpoint,
    load_model,
    load_tokenizer,
)
from decoders.models.base import attention_bias

WIDTH, HEADS, COND, ROWS, LENGTH = 64, 4, 32, 41, 128
CONFIGS: dict[str, dict[str, Any]] = {
    "sedd": {
        "ngpus": 8,
        "tokens": ROWS - 1,
        "graph": {"type": "absorb", "file": "data", "report_all": False},
        "noise": {"type": "loglinear", "sigma_min": 1e-4, "sigma_max": 20},
        "sampling": {"predictor": "euler", "steps": 128, "noise_removal": True},
        "model": {
            "name": "small",
            "type": "ddit",
            "hidden_size": WIDTH,
            "cond_dim": COND,
            "length": LENGTH,
            "n_blocks": 2,
            "n_heads": HEADS,
            "scale_by_sigma": True,
            "dropout": 0.1,
        },
    },
    "mdlm": {
        "architectures": ["MDLM"],
        "auto_map": {"AutoModelForMaskedLM": "modeling_mdlm.MDLM"},
        "model_type": "mdlm",
        "hidden_dim": WIDTH,
        "cond_dim": COND,
        "model_length": LENGTH,
        "n_blocks": 2,
        "n_heads": HEADS,
        "vocab_size": ROWS,
        "dropout": 0.1,
        "time_conditioning": False,
        "return_dict": False,
    },
}
PREFIX = {"sedd": "", "mdlm": "backbone."}


def published(kind: str) -> dict[str, Tensor]:
    """Seeded weights under the published names, none of them zero."""
    draw = torch.Generator().manual_seed(11)
    shapes: dict[str, tuple[int, ...]] = {
        "vocab_embed.embedding": (ROWS, WIDTH),
        "sigma_map.mlp.0.weight": (COND, 256),
        "sigma_map.mlp.0.bias": (COND,),
        "sigma_map.mlp.2.weight": (COND, COND),
        "sigma_map.mlp.2.bias": (COND,),
        "output_layer.norm_final.weight": (WIDTH,),
        "output_layer.linear.weight": (ROWS, WIDTH),
        "output_layer.linear.bias": (ROWS,),
        "output_layer.adaLN_modulation.weight": (2 * WIDTH, COND),
        "output_layer.adaLN_modulation.bias": (2 * WIDTH,),
    }
    for block in range(2):
        shapes |= {
            f"blocks.{block}.{name}": shape
            for name, shape in {
                "norm1.weight": (WIDTH,),
                "attn_qkv.weight": (3 * WIDTH, WIDTH),
                "attn_out.weight": (WIDTH, WIDTH),
                "norm2.weight": (WIDTH,),
                "mlp.0.weight": (4 * WIDTH, WIDTH),
                "mlp.0.bias": (4 * WIDTH,),
                "mlp.2.weight": (WIDTH, 4 * WIDTH),
                "mlp.2.bias": (WIDTH,),
                "adaLN_modulation.weight": (6 * WIDTH, COND),
                "adaLN_modulation.bias": (6 * WIDTH,),
            }.items()
        }
    found = {
        name: torch.randn(shape, generator=draw) * 0.2 + (1.0 if "norm" in name else 0.0)
        for name, shape in shapes.items()
    }
    size = WIDTH // HEADS
    found["rotary_emb.inv_freq"] = 10000.0 ** -(torch.arange(0, size, 2) / size)
    return {PREFIX[kind] + name: tensor for name, tensor in found.items()}


def write(
    folder: Path, kind: str, config: dict[str, Any] | None = None, drop: tuple[str, ...] = ()
) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config or CONFIGS[kind]))
    kept = {k: v for k, v in published(kind).items() if not k.endswith(drop or ("\0",))}
    save_file(kept, folder / "model.safetensors")
    words = {f"w{i}": i for i in range(ROWS - 2)} | {"<|endoftext|>": ROWS - 2}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, "w0")))
    tokenizer.save_pretrained(folder)
    return folder


def load(folder: Path, kind: str, **how: str) -> Model:
    return load_model(find_checkpoint(str(write(folder, kind))), **how)


def log_scores(kind: str, tokens_L: Tensor, sigma: float, seen_LL: Tensor) -> Tensor:
    """The published network's raw output [L, V] by its equations, head by head, in float64."""
    w = {k.removeprefix(PREFIX[kind]): v.double() for k, v in published(kind).items()}

    def affine(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)

    def normed(x: Tensor, name: str) -> Tensor:
        x = x - x.mean(-1, keepdim=True)
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * w[f"{name}.weight"]

    def silu(x: Tensor) -> Tensor:
        return x / (1 + (-x).exp())

    def gelu(x: Tensor) -> Tensor:
        return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    rates = [sigma * math.exp(-math.log(10000) * i / 128) for i in range(128)]
    waves = torch.tensor([math.cos(r) for r in rates] + [math.sin(r) for r in rates]).double()
    cond = silu(affine(silu(affine(waves, "sigma_map.mlp.0")), "sigma_map.mlp.2"))
    size = WIDTH // HEADS
    angles = torch.arange(len(tokens_L))[:, None] * 10000.0 ** (
        -torch.arange(0, size, 2, dtype=torch.float64) / size
    )
    turn = torch.polar(torch.ones_like(angles), angles)

    def turned(x: Tensor) -> Tensor:
        y = torch.complex(x[:, : size // 2], x[:, size // 2 :]) * turn
        return torch.cat((y.real, y.imag), -1)

    x = w["vocab_embed.embedding"][tokens_L]
    for block in range(2):
        root = f"blocks.{block}."
        parts = affine(cond, f"{root}adaLN_modulation").view(6, WIDTH)
        fused = affine(normed(x, f"{root}norm1") * (1 + parts[1]) + parts[0], f"{root}attn_qkv")
        mixed = []
        for head in range(HEADS):
            q, k, v = (
                fused[:, n * WIDTH + head * size : n * WIDTH + (head + 1) * size] for n in range(3)
            )
            scores = turned(q) @ turned(k).T / size**0.5
            mixed.append(scores.masked_fill(~seen_LL, -torch.inf).softmax(-1) @ v)
        x = x + parts[2] * affine(torch.cat(mixed, -1), f"{root}attn_out")
        inner = gelu(affine(normed(x, f"{root}norm2") * (1 + parts[4]) + parts[3], f"{root}mlp.0"))
        x = x + parts[5] * affine(inner, f"{root}mlp.2")
    shift, scale = affine(cond, "output_layer.adaLN_modulation").view(2, WIDTH)
    x = normed(x, "output_layer.norm_final") * (1 + scale) + shift
    return affine(x, "output_layer.linear")


def forward(model: Model, tokens_SL: Tensor, seen: Tensor, time_S: Tensor | None) -> Tensor:
    with torch.inference_mode():
        return model.head(model.hidden(tokens_SL, attention_bias(seen, model.dtype), time_S))


def example() -> Tensor:
    tokens = torch.randint(0, ROWS - 1, (2, 13), generator=torch.Generator().manual_seed(4))
    tokens[:, 5:9] = ROWS - 1
    return tokens


@pytest.mark.parametrize("kind", ["sedd", "mdlm"])
def test_the_forward_is_that_of_the_equations(kind: str, tmp_path: Path) -> None:
    model = load(tmp_path, kind)
    assert (model.family, model.visibility, model.shift, model.block) == (
        kind,
        "bidirectional",
        0,
        None,
    )
    assert kind in DIFFUSION_FAMILIES
    assert (model.mask_id, model.eos_id, model.vocabulary) == (ROWS - 1, ROWS - 2, ROWS)
    assert (model.max_length, model.time_conditioned) == (LENGTH, kind == "sedd")
    tokens, time_S = example(), torch.tensor([1.0, 0.3])
    seen = torch.ones(2, 13, dtype=torch.bool)
    seen[1, 11:] = False
    found = forward(model, tokens, seen, time_S)
    assert (found[..., -1] == -torch.inf).all()
    for row, time in enumerate(time_S.tolist()):
        sigma = -math.log(1 - (1 - 1e-3) * time) if kind == "sedd" else 0.0
        expected = log_scores(kind, tokens[row], sigma, seen[row].expand(13, -1))
        # At time 1 the float32 noise level itself is off by 3e-5, as the published one is.
        assert (found[row] - expected)[:, :-1].abs().max() < 5e-4


def test_softmax_of_sedds_head_is_the_clean_distribution(tmp_path: Path) -> None:
    """The published score of a masked position, times expm1(sigma), is p(x0) up to its norm."""
    model, tokens = load(tmp_path, "sedd"), example()
    sigma = -math.log(1 - (1 - 1e-3) * 0.4)
    raw = log_scores("sedd", tokens[0], sigma, torch.ones(13, 13, dtype=torch.bool))[6]
    score = (raw - math.log(math.expm1(sigma)) - math.log(ROWS - 1))[:-1].exp()
    expected = score * math.expm1(sigma)
    found = forward(model, tokens[:1], torch.ones(1, 13, dtype=torch.bool), torch.tensor([0.4]))
    assert torch.allclose(found[0, 6].softmax(-1)[:-1].double(), expected / expected.sum(), 1e-4)


def test_only_a_time_conditioned_model_reads_the_time(tmp_path: Path) -> None:
    tokens, seen = example(), torch.ones(2, 13, dtype=torch.bool)
    half, whole = torch.full((2,), 0.5), torch.ones(2)
    masked = load(tmp_path / "mdlm", "mdlm")
    assert torch.equal(forward(masked, tokens, seen, None), forward(masked, tokens, seen, half))
    scored = load(tmp_path / "sedd", "sedd")
    assert not torch.equal(
        forward(scored, tokens, seen, whole), forward(scored, tokens, seen, half)
    )
    with pytest.raises(DecoderError, match="need the diffusion time"):
        forward(scored, tokens, seen, None)


@pytest.mark.parametrize("kind", ["sedd", "mdlm"])
def test_cached_passes_equal_a_whole_one(kind: str, tmp_path: Path) -> None:
    model, tokens, time = load(tmp_path, kind), example(), torch.tensor([0.7, 0.2])
    blocks = torch.arange(13) // 5
    seen = (blocks[:, None] >= blocks)[None]
    cache, states = DynamicCache(), []
    with torch.inference_mode():
        whole = model.hidden(tokens, attention_bias(seen, model.dtype), time)
        for start, end in ((0, 5), (5, 10), (10, 13)):
            places = torch.arange(start, end).expand(2, -1)
            bias = attention_bias(seen[:, start:end, :end], model.dtype)
            states.append(model.cached_hidden(tokens[:, start:end], places, bias, cache, time))
    assert torch.allclose(torch.cat(states, 1), whole, atol=1e-5)


def test_lower_precision_stays_near(tmp_path: Path) -> None:
    model, tokens = load(tmp_path, "sedd", dtype="bfloat16"), example()
    assert model.network.rotary_emb.inv_freq.dtype == torch.float32
    whole = load(tmp_path, "sedd")
    seen, time = torch.ones(2, 13, dtype=torch.bool), torch.full((2,), 0.5)
    found, expected = (forward(m, tokens, seen, time)[..., :-1].float() for m in (model, whole))
    assert (found - expected).abs().mean() < 0.05 * expected.abs().mean()


def test_frequencies_may_be_left_out(tmp_path: Path) -> None:
    checkpoint = find_checkpoint(str(write(tmp_path, "mdlm", drop=("inv_freq",))))
    assert family_of(checkpoint) == "mdlm"
    found = load_model(checkpoint).network.rotary_emb.inv_freq
    assert torch.allclose(found, published("mdlm")["backbone.rotary_emb.inv_freq"])


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("sedd", {"graph": {"type": "uniform"}}, r"graph\.type must be 'absorb', got 'uniform'"),
        ("sedd", {"noise": {"type": "geometric"}}, r"noise\.type must be 'loglinear'"),
        ("sedd", {"noise": None}, r"noise\.type must be 'loglinear', got None"),
        ("sedd", {"model": {"type": "dit"}}, r"model\.type must be 'ddit'"),
        ("sedd", {"model": {"hidden_size": WIDTH}}, "SEDD config: cond_dim is missing"),
        ("mdlm", {"time_conditioning": None, "n_heads": 5}, "cannot be split over n_heads = 5"),
        ("mdlm", {"vocab_size": 50}, r"backbone\.vocab_embed\.embedding has shape \[41, 64\]"),
        ("mdlm", {"hidden_dim": "absent"}, "MDLM config: hidden_dim is missing"),
    ],
)
def test_configs_of_other_mathematics_are_refused(
    kind: str, change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    config = {k: v for k, v in (CONFIGS[kind] | change).items() if v != "absent"}
    with pytest.raises(ModelError, match=words):
        check(find_checkpoint(str(write(tmp_path, kind, config))))


@pytest.mark.parametrize("kind", ["sedd", "mdlm"])
def test_damaged_files_are_refused_by_published_names(kind: str, tmp_path: Path) -> None:
    name = f"{PREFIX[kind]}blocks.1.attn_qkv.weight"
    write(tmp_path, kind, drop=("blocks.1.attn_qkv.weight",))
    with pytest.raises(ModelError, match=f"tensor {name} is missing"):
        check(find_checkpoint(str(tmp_path)))
    path = tmp_path / "model.safetensors"
    save_file(published(kind) | {"noise.empty": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match=r"tensor noise\.empty is not expected"):
        check(find_checkpoint(str(tmp_path)))
    write(tmp_path, kind)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ModelError, match="is cut short"):
        check(find_checkpoint(str(tmp_path)))
    assert load_file(write(tmp_path, kind) / "model.safetensors")[name].shape == (192, 64)


def test_without_a_tokenizer_the_way_to_gpt2s_is_told(tmp_path: Path) -> None:
    write(tmp_path, "sedd")
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"put GPT-2's there: .*openai-community/gpt2.*") as caught:
        load_tokenizer(find_checkpoint(str(tmp_path)))
    assert f".save_pretrained({str(tmp_path)!r})" in str(caught.value)
