"""From tokens to rows: where a text ends, what counts, how the answer went."""

import numpy as np
import pytest

from cluster.cells import Cell, ModelSpec
from cluster.rows import Detokenizer, Place, result_rows
from decoders import Result, Trace, find_checkpoint, load_model, load_tokenizer, make_decoder
from evaluators import LogLikelihood


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(find_checkpoint("tiny-mdlm"))


@pytest.fixture(scope="module")
def detokenizer(tokenizer) -> Detokenizer:
    return Detokenizer(tokenizer, load_model(find_checkpoint("tiny-mdlm")))


def encode(tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def test_text_ends_at_eos_or_a_stop_string(tokenizer, detokenizer: Detokenizer) -> None:
    eos = tokenizer.eos_token_id
    ids = encode(tokenizer, " <<1+1=2>> #### 2")
    assert detokenizer.text([*ids, eos, *ids], ()) == " <<1+1=2>> #### 2"
    assert detokenizer.count([*ids, eos, *ids], ()) == len(ids)
    long = [*ids, *encode(tokenizer, "\nQuestion: more")]
    assert detokenizer.text(long, ("Question:",)) == " <<1+1=2>> #### 2\n"
    kept = detokenizer.count(long, ("Question:",))
    assert tokenizer.decode(long[:kept]).startswith(" <<1+1=2>> #### 2\n")
    assert kept <= len(ids) + 2
    assert detokenizer.count([eos, *ids], ()) == 0
    assert detokenizer.count([], ()) == 0
    complete = detokenizer.completes(("Question:",))
    assert complete(long)
    assert not complete(ids)


def make_cell(task: str) -> Cell:
    return Cell(
        model=ModelSpec("tiny-mdlm", "tiny-mdlm", "d", "float32", 2),
        decoder=make_decoder("llada", {"gen_length": 16, "steps": 4}),
        task=task,
        task_version="1",
        num_fewshot=0,
        chat=False,
        mode="throughput",
        seed=0,
        scorer=None,
    )


def manifest_row(target: str, until: tuple[str, ...]) -> dict[str, object]:
    return {
        "sid": "s",
        "sample_id": "7",
        "category": None,
        "target": target,
        "fields": '{"prefix": "He said", "answer": "9+9 #### 18"}',
        "prompt": "p",
        "prompt_sha256": "h",
        "until": list(until),
        "prompt_ids": (1, 2, 3),
    }


def test_a_trace_gives_the_answer_at_every_step(tokenizer, detokenizer: Detokenizer) -> None:
    texts = [" #### 5", " #### 18", " #### 3", " #### 18"]
    eos = tokenizer.eos_token_id
    canvases = [(encode(tokenizer, text) + [eos] * 16)[:16] for text in texts]
    committed = np.zeros((4, 16), dtype=bool)
    for step in range(4):
        committed[step, step * 4 : step * 4 + 4] = True
    trace = Trace(
        committed=committed,
        tokens=np.array(canvases, dtype=np.int32),
        confidence=np.where(committed, 0.5, np.nan).astype(np.float32),
        top2_gap=np.ones(4, np.float32),
        entropy=np.ones(4, np.float32),
        elapsed_s=np.arange(1.0, 5.0),
    )
    result = Result("s", tuple(canvases[-1]), 4, 76, 0.4, 0.5, trace=trace)
    row = manifest_row("18", ("Question:",))
    place = Place("run", "w", "cpu")
    sample, steps = result_rows(row, make_cell("gsm8k"), place, result, detokenizer, None)
    assert sample["status"] == "ok"
    assert sample["correct"] == 1
    assert sample["answer"] == "18"
    assert sample["generated_tokens"] == canvases[-1].index(eos)
    assert sample["tokens_per_forward"] == sample["generated_tokens"] / 4
    assert sample["first_correct_step"] == 2
    assert sample["converged_step"] == 4
    assert sample["last_change_step"] == 4
    assert sample["oscillated"] is False
    assert [s["answer"] for s in steps] == ["5", "18", "3", "18"]
    assert [s["correct"] for s in steps] == [0, 1, 0, 1]
    assert [s["masked_left"] for s in steps] == [12, 8, 4, 0]
    assert steps[1]["committed"] == [4, 5, 6, 7]
    assert steps[1]["tokens"] == canvases[1][4:8]


def test_programs_are_not_executed(tokenizer, detokenizer: Detokenizer) -> None:
    ids = encode(tokenizer, "    return 1\n")
    result = Result("s", tuple(ids), 4, 76, 0.4, 0.5)
    row = {**manifest_row("", ()), "fields": '{"entry_point": "f", "test": "", "prompt": ""}'}
    row["prompt"] = "def f():\n"
    sample, steps = result_rows(
        row, make_cell("humaneval"), Place("run", "w", "cpu"), result, detokenizer, None
    )
    assert sample["status"] == "not_executed"
    assert sample["correct"] is None
    assert steps == []


def test_a_scorer_that_fails_is_an_error_of_the_row(tokenizer, detokenizer: Detokenizer) -> None:
    result = Result("s", tuple(encode(tokenizer, " that it rains")), 4, 76, 0.4, 0.5)
    row, place = manifest_row("", ("\n",)), Place("run", "w", "cpu")
    with pytest.raises(ValueError, match="finite"):
        result_rows(
            row,
            make_cell("lm1b"),
            place,
            result,
            detokenizer,
            lambda prefix, text: LogLikelihood(float("nan"), 3),
        )
