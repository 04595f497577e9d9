"""`python -m jobs.train` on a small made-up data folder, on the CPU."""

import json
import lzma
import random
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedTokenizerFast

from decoders.models.llada import stock_name
from jobs.train import data as training_data
from jobs.train.__main__ import main
from jobs.train.batches import Mixer, pack
from jobs.train.config import Shape, TrainConfig, TrainError, with_settings
from jobs.train.corpus import CORPUS_FILE, HELD_OUT_FILE, KINDS, Corpus
from jobs.train.model import build_model, hidden_states, llama_config
from jobs.train.objectives import OBJECTIVES
from jobs.train.optim import make_optimizers
from jobs.train.synthetic import drill
from jobs.train.tokenizer import EOS_ID, MASK, MASK_ID

TINY = Shape(vocab_size=400, hidden_size=16, layers=2, heads=2, intermediate_size=32)
TINY_SETTINGS = {
    "vocab_size": 400,
    "hidden_size": 16,
    "layers": 2,
    "heads": 2,
    "intermediate_size": 32,
    "corpus_scale": 0.0005,
    "batch_tokens": 2048,
    "log_every": 1,
    "warmup_steps": 2,
    "validations": 1,
    "validation_problems": 1,
}


def flags(**changes: object) -> list[str]:
    return [f"--set={key}={value}" for key, value in {**TINY_SETTINGS, **changes}.items()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with all seven files: 30 templates, each with four sets of numbers."""
    folder = tmp_path_factory.mktemp("data")
    rng = random.Random(0)
    rows = []
    for template in range(30):
        for _ in range(4):
            made = drill(rng)
            question = f"Story {template}: {made.question}"
            rows.append(
                {"id": template, "question": question, "steps": made.steps, "answer": made.answer}
            )
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    originals = [drill(rng) for _ in range(20)]
    eqonly = "".join(f"{p.question}||{' '.join(p.steps)} #### {p.answer}\n" for p in originals)
    prose = "It was a bright day, and nobody had counted the oranges.\n\nThey did so at noon.\n"
    code = "import math\n\n\ndef area(r: float) -> float:\n    return math.pi * r**2\n"
    texts = {
        "perturbed": lines,
        "eqonly": eqonly,
        "valid": "".join(eqonly.splitlines(keepends=True)[:5]),
        "code": f"{code}<|endoftext|>\n{code * 3}",
        "prose": f"{prose * 2}<|endoftext|>\n{prose}",
        "books": prose * 20,
        "news": "The market rose , he said .\n" * 5,
    }
    for name, text in texts.items():
        path, raw = folder / training_data.FILES[name], text.encode()
        path.write_bytes(lzma.compress(raw) if path.suffix == ".xz" else raw)
    return folder


@pytest.fixture(scope="module")
def corpus(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("corpus")
    argv = ["--recipe", "corpus", "--data", str(folder), "--out", str(out)]
    assert main(argv + flags()) == 0
    return out


@pytest.fixture(scope="module")
def bundled_tokenizer(root: Path) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(root / "decoders" / "bundled" / "tiny-mdlm")


def run(recipe: str, corpus: Path, out: Path, *more: str, **changes: object) -> int:
    argv = ["--recipe", recipe, "--data", str(corpus), "--out", str(out), "--device", "cpu"]
    return main([*argv, *more, *flags(**changes)])


def losses(out: Path) -> list[float]:
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(codec="utf-8"), max_size=60))
def test_tokenizer_loses_nothing(bundled_tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert bundled_tokenizer.decode(bundled_tokenizer(text)["input_ids"]) == text


def test_tokenizer_splits_digits_and_adds_nothing(
    bundled_tokenizer: PreTrainedTokenizerFast,
) -> None:
    assert len(bundled_tokenizer) == Shape().vocab_size
    assert len(bundled_tokenizer("1234567")["input_ids"]) == 7
    merged = [t for t in bundled_tokenizer.get_vocab() if sum(c.isdigit() for c in t) > 1]
    assert merged == []
    assert bundled_tokenizer("")["input_ids"] == []


def test_special_text_is_visible_to_the_caller(bundled_tokenizer: PreTrainedTokenizerFast) -> None:
    assert bundled_tokenizer.eos_token_id == bundled_tokenizer.pad_token_id == EOS_ID
    assert bundled_tokenizer.mask_token_id == MASK_ID
    assert MASK_ID in bundled_tokenizer(f"a {MASK} b")["input_ids"]


def test_held_out_problems_are_not_trained_on(folder: Path) -> None:
    chosen = training_data.held_out(folder)
    trained = {problem.question for problem in training_data.training_problems(folder)}
    assert len(chosen) == len({problem.template for problem in chosen}) == 30
    assert not trained & {problem.question for problem in chosen}
    valid = {problem.question for problem in training_data.originals(folder, "valid")}
    assert trained and not trained & valid


def test_held_out_file_is_the_same_again(folder: Path, corpus: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.parquet"
    assert main(["--recipe", "heldout", "--data", str(folder), "--out", str(again)]) == 0
    assert pq.read_table(again).equals(pq.read_table(corpus / HELD_OUT_FILE), check_metadata=True)


def test_bundled_held_out_file_holds_500_templates(root: Path) -> None:
    path = root / "evaluators" / "data" / "gsm8k_resampled.parquet"
    problems = training_data.read_held_out(path)
    assert len(problems) == len({problem.template for problem in problems}) == 500


def test_drills_are_exact() -> None:
    rng = random.Random(3)
    for _ in range(300):
        made = drill(rng)
        for step in made.steps:
            left, _, right = step.strip("<>").partition("=")
            assert eval(left, {"__builtins__": {}}) == pytest.approx(float(right))
        assert made.steps[-1].endswith(f"={made.answer}>>")


@pytest.mark.parametrize("recipe", ["mdlm", "ar"])
def test_packed_rows_see_only_themselves(recipe: str, corpus: Path) -> None:
    """A packed forward equals the stock model's forward of each row under a 4D mask."""
    config = TrainConfig(shape=TINY, batch_tokens=2048)
    tokens = Corpus.load(corpus / CORPUS_FILE)
    objective = OBJECTIVES[recipe](config)
    mixer = Mixer(tokens, objective.layout, config.batch_tokens, seed=0)
    flat = torch.from_numpy(tokens.tokens.astype(np.int16))
    packed = pack(mixer.rows(0), flat, config.batch_tokens, mixer.max_rows)
    batch = objective.batch(packed, torch.Generator().manual_seed(0), len(KINDS))
    assert MASK_ID not in batch.targets[batch.weights > 0]
    model = build_model(TINY, seed=1)
    stock = LlamaForCausalLM(llama_config(TINY))
    stock.load_state_dict(model.state_dict())
    with torch.no_grad():
        ours = hidden_states(
            model, batch.inputs, batch.positions, batch.boundaries, objective.causal
        )
        for a, b in zip(batch.boundaries[:5], batch.boundaries[1:6], strict=True):
            mask = torch.zeros(1, 1, b - a, b - a)
            if objective.causal:
                mask = torch.full_like(mask, float("-inf")).triu(1)
            row = stock.model(input_ids=batch.inputs[None, a:b], attention_mask=mask)
            torch.testing.assert_close(ours[a:b], row.last_hidden_state[0])


@pytest.mark.parametrize("recipe", ["mdlm", "ar"])
def test_resumed_run_has_the_same_losses(recipe: str, corpus: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(recipe, corpus, whole, "--steps", "6", validations=0) == 0
    assert run(recipe, corpus, parts, "--steps", "6", "--pause", "3", validations=0) == 0
    assert not (parts / "model").exists()
    assert run(recipe, corpus, parts, "--steps", "6", "--resume", validations=0) == 0
    assert len(losses(whole)) == 6
    assert losses(parts) == losses(whole)
    one, other = (load_file(out / "model" / "model.safetensors") for out in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_diffusion_checkpoint_has_the_published_layout(corpus: Path, tmp_path: Path) -> None:
    assert run("mdlm", corpus, tmp_path, "--steps", "1", optimizer="adamw", validations=0) == 0
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["model_type"] == "llada" and config["weight_tying"] is True
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    stock = LlamaForCausalLM(llama_config(TINY))
    assert {stock_name(name) for name in tensors} == {name for name, _ in stock.named_parameters()}
    assert "model.transformer.ff_out.weight" not in tensors
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}


def test_autoregressive_checkpoint_is_an_ordinary_folder(corpus: Path, tmp_path: Path) -> None:
    assert run("ar", corpus, tmp_path, "--steps", "2", lr=1e-2) == 0
    assert losses(tmp_path)[0] == pytest.approx(np.log(TINY.vocab_size), rel=0.05)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    assert type(model) is LlamaForCausalLM
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert "lm_head.weight" not in load_file(tmp_path / "model" / "model.safetensors")


def test_matrices_go_to_muon_and_the_rest_to_adamw() -> None:
    model = build_model(TINY, seed=0)
    muon, adamw = make_optimizers(model, TrainConfig())
    names = {id(p): name for name, p in model.named_parameters()}
    held = [
        {names[id(p)] for group in optimizer.param_groups for p in group["params"]}
        for optimizer in (muon, adamw)
    ]
    assert held[0] | held[1] == set(names.values())
    assert not held[0] & held[1]
    assert all("proj" in name for name in held[0])
    assert all("norm" in name or "embed" in name for name in held[1])


def test_settings_name_the_nearest_key() -> None:
    with pytest.raises(TrainError, match="did you mean hidden_size"):
        with_settings(TrainConfig(), ["hiden_size=3"])


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--data", "nowhere"], "is not a folder"),
        (["--set", "lr=fast"], "wants float"),
        (["--set", "optimizer=sgd"], "must be one of"),
        (["--set", "heads=5"], "multiple of heads"),
        (["--steps", "0"], "must be positive"),
        (["--device", "abacus"], "cannot be used"),
        (["--resume"], "cannot resume"),
        (["--set", "vocab_size=500"], "--set vocab_size=400"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    more: list[str], says: str, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--recipe", "ar", "--data", str(corpus), "--out", str(tmp_path), *flags(), *more]
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and says in error


def test_missing_data_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--recipe", "tokenizer", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(argv) == 2
    assert "gsm8k_train_eqonly.txt" in capsys.readouterr().err
