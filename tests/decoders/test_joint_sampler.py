"""The joint sampler's module, and what `load_sampler` refuses."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from decoders import Model, ModelError
from decoders.joint import JointSampler, build_sampler, load_sampler, sampler_config
from decoders.models.base import attention_bias


def write(folder: Path, model: Model, **changes: object) -> JointSampler:
    """A sampler with random weights, saved as training saves it."""
    config = sampler_config(model, heads=2, intermediate_size=32) | changes
    torch.manual_seed(0)
    made = build_sampler(sampler_config(model, 2, 32), model)
    folder.mkdir(exist_ok=True)
    save_file(dict(made.named_parameters()), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return made


@torch.no_grad()
def test_states_follow_the_tokens_that_were_written(masked: Model, tmp_path: Path) -> None:
    write(tmp_path, masked)
    sampler = load_sampler(tmp_path, masked)
    tokens = torch.full((2, 12), 199)
    tokens[:, :4] = torch.tensor([5, 6, 7, 8])
    bias = attention_bias(torch.ones(2, 12, dtype=torch.bool), torch.float32)
    place = torch.arange(12)[None]
    hidden = masked.hidden(tokens, bias)
    before = sampler(tokens, hidden, bias, place)
    assert before.shape == hidden.shape and (before != hidden).any(-1).all()
    tokens[0, 9] = 42
    after = sampler(tokens, hidden, bias, place)
    assert (after[0] != before[0]).any(-1).all(), "every position sees what was written"
    assert torch.equal(after[1], before[1]), "rows do not see each other"


@torch.no_grad()
def test_padding_is_not_seen(masked: Model, tmp_path: Path) -> None:
    write(tmp_path, masked)
    sampler = load_sampler(tmp_path, masked)
    tokens = torch.randint(0, 190, (1, 12), generator=torch.Generator().manual_seed(0))
    hidden = torch.randn(1, 12, 64, generator=torch.Generator().manual_seed(1))
    seen = torch.arange(12)[None] < 9
    padded = sampler(tokens, hidden, attention_bias(seen, torch.float32), torch.arange(12)[None])
    alone = sampler(
        tokens[:, :9],
        hidden[:, :9],
        attention_bias(seen[:, :9], torch.float32),
        torch.arange(9)[None],
    )
    torch.testing.assert_close(padded[:, :9], alone)


@torch.no_grad()
def test_formula_by_hand(masked: Model, tmp_path: Path) -> None:
    made = write(tmp_path, masked)
    tokens, hidden = torch.tensor([[3, 4, 5]]), torch.randn(1, 3, 64)
    bias, place = torch.zeros(1, 1, 1, 3), torch.arange(3)[None]

    def norm(x: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        eps = masked.network.config.rms_norm_eps
        return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * gain

    weights = load_file(tmp_path / "model.safetensors")
    embedded = masked.network.get_input_embeddings()(tokens)
    both = torch.cat(
        [norm(embedded, weights["norm_embed.weight"]), norm(hidden, weights["norm_hidden.weight"])],
        dim=-1,
    )
    mixed = both @ weights["mix.weight"].T
    layered = made.layer(
        mixed,
        attention_mask=bias,
        position_ids=place,
        position_embeddings=made.rotary(mixed, place),
    )
    wanted = norm(layered, weights["norm_out.weight"]) + hidden
    torch.testing.assert_close(load_sampler(tmp_path, masked)(tokens, hidden, bias, place), wanted)


def test_only_its_own_weights_are_its_own(masked: Model, tmp_path: Path) -> None:
    write(tmp_path, masked)
    sampler = load_sampler(tmp_path, replace(masked))
    names = {name.partition(".")[0] for name in sampler.state_dict()}
    assert names == {"norm_embed", "norm_hidden", "mix", "layer", "norm_out"}
    assert not sampler.training and not any(p.requires_grad for p in sampler.parameters())


def test_half_precision_keeps_the_rotary_frequencies(masked: Model, tmp_path: Path) -> None:
    write(tmp_path, masked)
    exact = load_sampler(tmp_path, masked).rotary.inv_freq
    half = replace(masked, network=type(masked.network)(masked.network.config).bfloat16())
    sampler = load_sampler(tmp_path, half)
    assert {p.dtype for p in sampler.parameters()} == {torch.bfloat16}
    assert torch.equal(sampler.rotary.inv_freq, exact)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"base_digest": "0123456789abcdef"}, "was trained for llada_a"),
        ({"base": "other", "base_digest": None}, "was trained for other"),
        ({"model_type": "llama"}, "no joint sampler"),
        ({"vocab_size": 201}, "vocab_size is 201"),
        ({"hidden_size": 32}, "hidden_size is 32"),
        ({"intermediate_size": 48}, "has shape"),
    ],
)
def test_sampler_of_another_base_is_refused(
    changes: dict[str, object], says: str, masked: Model, tmp_path: Path
) -> None:
    write(tmp_path, masked, **changes)
    with pytest.raises(ModelError, match=says):
        load_sampler(tmp_path, masked)


def test_sampler_without_a_digest_goes_by_the_name(masked: Model, tmp_path: Path) -> None:
    write(tmp_path, masked, base_digest=None)
    load_sampler(tmp_path, masked)
    with pytest.raises(ModelError, match="use that model"):
        load_sampler(tmp_path, replace(masked, name="llada_b"))


def test_missing_key_is_named(masked: Model, tmp_path: Path) -> None:
    write(tmp_path, masked)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["rope_parameters"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="lacks rope_parameters"):
        load_sampler(tmp_path, masked)
