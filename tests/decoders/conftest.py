"""Tiny random models: enough to hold an engine to what it must emit."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from decoders import Model

HERE = Path(__file__).parent


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


def masked_model(network: LlamaForCausalLM, name: str = "masked") -> Model:
    """The conformance models' ids: mask 199, EOS 198, end of turn 197, 200 in all."""
    return Model(
        name=name,
        digest=name,
        family="llada",
        visibility="bidirectional",
        network=network.eval().requires_grad_(False),
        mask_id=199,
        eos_id=198,
        eot_id=197,
        stop_ids=frozenset({197, 198}),
        vocabulary=200,
        max_length=512,
    )


@pytest.fixture(scope="session")
def masked_models() -> dict[str, Model]:
    found = {}
    for name in ("llada_a", "llada_b"):
        network = LlamaForCausalLM.from_pretrained(HERE / "models" / name)
        found[name] = masked_model(network, name)
    return found


@pytest.fixture(scope="session")
def masked(masked_models: dict[str, Model]) -> Model:
    return masked_models["llada_a"]


@pytest.fixture(scope="session")
def causal() -> Model:
    """A random Llama with grouped heads, whose greedy text ends early now and then."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=60,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.3,
        attn_implementation="sdpa",
    )
    return Model(
        name="causal",
        digest="causal",
        family="llama",
        visibility="causal",
        network=LlamaForCausalLM(config).eval().requires_grad_(False),
        mask_id=None,
        eos_id=7,
        eot_id=None,
        stop_ids=frozenset({7}),
        vocabulary=60,
        max_length=256,
    )
