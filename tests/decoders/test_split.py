"""What each rank holds of a network."""

from typing import Any

import pytest
import torch

from decoders import find_checkpoint, load_model
from decoders.models import whole_on_each
from decoders.models.families import reading
from decoders.models.shapes import random_model
from decoders.models.split import Split
from decoders.models.stated import Shape, find_shape

GROUPED: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 100,
    "max_position_embeddings": 64,
    "attention_bias": True,
    "tie_word_embeddings": False,
    "eos_token_id": 7,
}


def shape(**changed: Any) -> Shape:
    return Shape("grouped", find_shape("shape:llama-tiny").folder, "", {**GROUPED, **changed})


@pytest.mark.parametrize("ranks", [2, 4])
def test_the_parts_make_the_whole(ranks: int) -> None:
    """Rows of q, k, v, gate and up; columns of o and down. With fewer key heads than ranks, those
    that share a head each have it."""
    whole = random_model(shape()).network.state_dict()
    parts = [random_model(shape(), split=Split(n, ranks)).network for n in range(ranks)]
    for name, tensor in whole.items():
        held = [part.state_dict()[name] for part in parts]
        if "proj" not in name:
            assert all(torch.equal(one, tensor) for one in held), name
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            assert torch.equal(torch.cat(held, 1), tensor), name
        elif name.endswith("o_proj.bias"):
            assert torch.equal(sum(held, torch.zeros(())), tensor), name
        else:
            shared = ranks // 2 if "k_proj" in name or "v_proj" in name else 1
            assert torch.equal(torch.cat(held[::shared]), tensor), name
            assert all(torch.equal(held[n], held[n - n % shared]) for n in range(ranks)), name
    config = parts[0].config
    assert (config.num_attention_heads, config.num_key_value_heads) == (4 // ranks, 1)


def test_a_bias_of_a_sum_is_added_once() -> None:
    network = reading(shape()).build(GROUPED)
    whole = torch.ones(64)
    name = "model.layers.1.self_attn.o_proj.bias"
    first, second = (Split(n, 2).cut(reading(shape()).build(GROUPED))[name] for n in (0, 1))
    assert torch.equal(first(whole), whole)
    assert not second(whole).any()
    assert network.model.layers[1].self_attn.o_proj.bias.shape == (64,)


def test_a_rank_reads_its_part_of_the_files_alone() -> None:
    checkpoint = find_checkpoint("tiny-mdlm")
    whole = load_model(checkpoint)
    first, second = (load_model(checkpoint, split=Split(n, 2)) for n in (0, 1))
    names = [name for name in whole.network.state_dict() if "_proj" in name]
    for name in names:
        held = [model.network.state_dict()[name] for model in (first, second)]
        axis = 1 if "o_proj" in name or "down_proj" in name else 0
        assert torch.equal(torch.cat(held, axis), whole.network.state_dict()[name])
    layers = sum(whole.network.state_dict()[name].numel() for name in names)
    assert whole.parameters - first.parameters == whole.parameters - second.parameters
    assert whole.parameters - first.parameters == layers // 2


@pytest.mark.parametrize(
    ("config", "ranks", "reason"),
    [
        ({}, 2, None),
        ({}, 3, "its 4 heads with 2 key heads do not divide by 3"),
        ({"intermediate_size": 98}, 4, "its intermediate size 98 does not divide by 4"),
        ({"model_type": "olmo2"}, 2, "its norms go over all heads at once"),
        ({"model_type": "phi3", "pad_token_id": 0}, 2, "its layers are not Llama's"),
        ({"model_type": "gpt2"}, 2, "its layers are not Llama's"),
    ],
)
def test_what_cannot_be_split_is_told_and_stays_whole(
    config: dict[str, Any], ranks: int, reason: str | None
) -> None:
    checkpoint = shape(**config)
    assert whole_on_each(checkpoint, ranks) == reason
    if reason is not None:
        whole, part = (random_model(checkpoint, split=s).parameters for s in (None, Split(1, 2)))
        assert ranks != 2 or part == whole
