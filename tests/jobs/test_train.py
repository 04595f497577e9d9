"""`python -m jobs.train` on a small made-up data folder, on the CPU."""

import json
import lzma
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from decoders import find_checkpoint, load_model
from decoders.joint import load_sampler
from decoders.models.llada import stock_name
from jobs.train import data as training_data
from jobs.train import joint_score
from jobs.train.__main__ import main
from jobs.train.batches import Mixer, pack
from jobs.train.config import Shape, TrainConfig, TrainError, with_settings
from jobs.train.corpus import CORPUS_FILE, HELD_OUT_FILE, KINDS, Corpus
from jobs.train.joint import JointTask, Written, base_model
from jobs.train.model import build_model, hidden_states, llama_config
from jobs.train.optim import make_optimizers
from jobs.train.publish import block_config
from jobs.train.synthetic import drill
from jobs.train.tasks import OBJECTIVES
from jobs.train.tokenizer import EOS_ID, MASK, MASK_ID, load_tokenizer

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
    "joint_rows": 16,
    "joint_length": 96,
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


@pytest.fixture(scope="module")
def base(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A masked-diffusion checkpoint of the tiny shape, after one step."""
    out = tmp_path_factory.mktemp("base")
    assert run("mdlm", corpus, out, "--steps", "1", validations=0) == 0
    return out / "model"


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
        tokens_1N, positions_1N = batch.inputs[None], batch.positions[None]
        ours = hidden_states(model, tokens_1N, positions_1N, batch.attention)[0]
        ends = batch.attention["boundaries"]
        for a, b in pairwise(ends[:6].tolist()):
            mask = torch.zeros(1, 1, b - a, b - a)
            if recipe == "ar":
                mask = torch.full_like(mask, float("-inf")).triu(1)
            row = stock.model(input_ids=batch.inputs[None, a:b], attention_mask=mask)
            torch.testing.assert_close(ours[a:b], row.last_hidden_state[0])


@pytest.mark.parametrize("recipe", ["mdlm", "ar", "bd", "joint"])
def test_resumed_run_has_the_same_losses(
    recipe: str, corpus: Path, base: Path, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    length = ["--steps", "6", *(["--base", str(base)] if recipe == "joint" else [])]
    assert run(recipe, corpus, whole, *length, validations=0) == 0
    assert run(recipe, corpus, parts, *length, "--pause", "3", validations=0) == 0
    assert not (parts / "model").exists()
    assert run(recipe, corpus, parts, *length, "--resume", validations=0) == 0
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


def test_block_diffusion_checkpoint_has_the_published_layout(
    corpus: Path, base: Path, tmp_path: Path
) -> None:
    """Stock Qwen2 loads it; with zero biases it is the Llama that was trained."""
    assert run("bd", corpus, tmp_path, "--steps", "1", "--init", str(base)) == 0
    folder = tmp_path / "model"
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "Fast_dLLM_Qwen" and config["bd_size"] == 16
    assert config["architectures"] == ["Fast_dLLM_QwenForCausalLM"]
    assert (config["mask_token_id"], config["eos_token_id"]) == (MASK_ID, EOS_ID)
    tensors = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    biases = [tensor for name, tensor in tensors.items() if name.endswith(".bias")]
    assert len(biases) == 3 * TINY.layers and not any(bias.any() for bias in biases)
    qwen = Qwen2Config(**{key: config[key] for key in config if key != "model_type"})
    stock = Qwen2ForCausalLM(qwen)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    stock.load_state_dict(tensors)
    llama = LlamaForCausalLM(llama_config(TINY))
    llama.load_state_dict({k: v for k, v in tensors.items() if not k.endswith(".bias")})
    tokens = torch.arange(2, 34)[None]
    with torch.no_grad():
        torch.testing.assert_close(stock(tokens).logits, llama(tokens).logits)


def test_block_diffusion_begins_with_the_weights_it_is_given(
    corpus: Path, base: Path, tmp_path: Path
) -> None:
    given = {stock_name(k): v for k, v in load_file(base / "model.safetensors").items()}
    more = ["--steps", "1", "--init", str(base)]
    assert run("bd", corpus, tmp_path, *more, lr=1e-9, validations=0) == 0
    made = load_file(tmp_path / "model" / "model.safetensors")
    assert all(torch.equal(made[name], given[name]) for name in given if name)


def test_joint_sampler_learns_and_is_loaded_again(corpus: Path, base: Path, tmp_path: Path) -> None:
    settings = {"lr": 1e-2, "validation_problems": 8}
    more = ["--steps", "30", "--base", str(base)]
    assert run("joint", corpus, tmp_path, *more, unroll=3, log_every=10, **settings) == 0
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows[3]["loss"] < 0.9 * rows[0]["loss"]
    score = rows[-1]["apart"]
    assert score["rows"] == 8
    one = score["random, 1 written, kl"]
    gain = one["stale"][0] - one["sampler"][0]
    assert one["stale - sampler"][0] == pytest.approx(gain, abs=2e-5)
    sampler = load_sampler(tmp_path / "model", load_model(find_checkpoint(str(base))))
    assert not any(parameter.requires_grad for parameter in sampler.parameters())
    more = ["--steps", "1", "--base", str(base), "--init", str(tmp_path / "model")]
    assert run("joint", corpus, tmp_path / "on", *more, lr=1e-9, validations=0) == 0
    one, other = (
        load_file(out / "model" / "model.safetensors") for out in (tmp_path, tmp_path / "on")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_bundled_joint_sampler_is_nearer_than_stale_distributions(
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = ["--sampler", "tiny-joint", "--base", "tiny-mdlm", "--text", "news", "--rows", "24"]
    assert joint_score.main([*argv, "--device", "cpu"]) == 0
    score = json.loads(capsys.readouterr().out)
    for written in (1, 2, 3):
        one = score[f"random, {written} written, kl"]
        assert one["stale - sampler"][1] > 0


@pytest.mark.parametrize("sampler", ["tiny-ar", "nowhere"])
def test_score_without_a_sampler_is_one_line(
    sampler: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert joint_score.main(["--sampler", sampler, "--base", "tiny-mdlm"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and sampler in error


def test_bundled_block_diffusion_model_is_the_published_layout(root: Path) -> None:
    folder = root / "decoders" / "bundled" / "tiny-bd"
    config = json.loads((folder / "config.json").read_text())
    assert config == block_config(Shape(), 16)
    model = Qwen2ForCausalLM(Qwen2Config(**{k: v for k, v in config.items() if k != "model_type"}))
    tensors = load_file(folder / "model.safetensors")
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert missing == ["lm_head.weight"] and not unexpected


def test_joint_sampler_is_trained_on_canvases_that_decoding_meets(corpus: Path, base: Path) -> None:
    """Masks only in responses and only at candidates that count; a write fills one of them."""
    config = with_settings(TrainConfig(), [f.removeprefix("--set=") for f in flags(joint_rows=32)])
    cpu = torch.device("cpu")
    tokens = Corpus.load(corpus / CORPUS_FILE)
    task = JointTask(config, base_model(str(base), cpu), tokens, load_tokenizer(corpus), [], cpu)
    task.noise.manual_seed(0)
    canvas = task.canvas(0)
    masked_BL = canvas.tokens_BL == MASK_ID
    assert not (masked_BL & ~canvas.real_BL).any() and (masked_BL.sum(1) > 0).any()
    assert torch.equal(masked_BL.gather(1, canvas.at_BK), canvas.masked_BK)
    assert torch.equal(canvas.tokens_BL[~masked_BL], canvas.truth_BL[~masked_BL])
    enough_B = masked_BL.sum(1) >= config.candidates
    assert canvas.masked_BK[enough_B].all()
    before = Written(canvas.tokens_BL, canvas.masked_BK)
    logits = torch.randn(*canvas.at_BK.shape, TINY.vocab_size)
    after = task.write(canvas, before, logits)
    changed_BL = after.tokens_BL != before.tokens_BL
    assert torch.equal(changed_BL.sum(1), canvas.masked_BK.any(1).long())
    assert (before.tokens_BL[changed_BL] == MASK_ID).all()
    assert (after.tokens_BL[changed_BL] != MASK_ID).all()
    left = after.tokens_BL.gather(1, canvas.at_BK) == MASK_ID
    assert torch.equal(left, after.masked_BK)


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
        (["--set", "bd_size=12"], "power of two"),
        (["--recipe", "joint"], "takes --base"),
        (["--base", "tiny-mdlm"], "takes --base"),
        (["--recipe", "joint", "--base", "tiny-ar"], "no masked-diffusion model"),
        (["--recipe", "joint", "--base", "tiny-mdlm"], "tiny-mdlm has 3072"),
        (["--recipe", "corpus", "--init", "tiny-ar"], "not for corpus"),
        (["--recipe", "joint", "--base", "BASE", "--init", "BASE"], "is no joint sampler"),
        (["--recipe", "bd", "--init", "tiny-ra"], "--init tiny-ra"),
        (["--recipe", "bd", "--init", "tiny-ar"], "--init tiny-ar does not fit"),
        (["--steps", "0"], "must be positive"),
        (["--device", "abacus"], "cannot be used"),
        (["--resume"], "cannot resume"),
        (["--set", "vocab_size=500"], "--set vocab_size=400"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    more: list[str],
    says: str,
    corpus: Path,
    base: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    capsys.readouterr()
    argv = ["--recipe", "ar", "--data", str(corpus), "--out", str(tmp_path), *flags()]
    argv += [str(base) if word == "BASE" else word for word in more]
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and says in error


def test_missing_data_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--recipe", "tokenizer", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(argv) == 2
    assert "gsm8k_train_eqonly.txt" in capsys.readouterr().err
