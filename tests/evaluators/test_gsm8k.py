"""GSM8K against lm-eval's own task: prompts byte by byte, scores output by output."""

import random
import time
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evaluators import DataError, Sample, gsm8k
from evaluators.store import BUNDLED

ANY_TEXT = st.text(st.characters(exclude_categories=()))
SAMPLES = gsm8k.load()
GOLD_18 = SAMPLES[0]
SPLITS = ("train", "test")

OUTPUTS = [
    "",
    " ",
    "18",
    " The answer is 18.",
    "#### 18",
    "####18",
    "#### 18\n\nThis took 3 steps",
    "#### $18",
    "#### 18.00",
    "#### 18.",
    "#### 1,8",
    "#### -18",
    "#### 17 #### 18",
    "#### 18 #### 17",
    "$18.00",
    "$18",
    "18.",
    "1 8",
    "18%",
    "18,",
    ".18",
    ",,,",
    "..",
    "$",
    "--18",
    "-18-",
    "3-18",
    "٣ and 18",
    "１８",
    "16 - 3 - 4 = <<16-3-4=9>>9\n9 * 2 = $<<9*2=18>>18\n#### 18",
    "no number here",
    "<|mdm_mask|><|mdm_mask|>18<|mdm_mask|>",
    "[MASK]" * 50,
    "18\x00",
    "#### 18\x00",
    "\x00\x00",
    "\ud800 18 \udfff",
    "#### \ud80018",
    "18\u2028",
    "1e5",
    "#### #### 18",
    "#### .",
    "#### ,",
    "18\n",
    "#### 18.\n",
]


def test_samples_are_the_official_ones() -> None:
    assert len(SAMPLES) == 1319
    assert [sample.sample_id for sample in SAMPLES] == [str(i) for i in range(1319)]
    assert (SAMPLES[0].target, SAMPLES[1].target, SAMPLES[2].target) == ("18", "3", "70000")
    assert SAMPLES[0].fields["question"].startswith("Janet")


@pytest.mark.parametrize(
    ("num_fewshot", "limit"), [(0, None), (1, 60), (3, 60), (5, None), (8, 60)]
)
def test_prompts_equal_lm_eval(gsm8k_harness, harness_prompts, num_fewshot, limit) -> None:
    theirs = harness_prompts(gsm8k_harness, num_fewshot, limit)
    ours = [prompt.text for prompt in gsm8k.prompts(SAMPLES[:limit], num_fewshot)]
    assert len(ours) == (limit or 1319)
    assert ours == theirs


def test_stop_strings_equal_lm_eval(gsm8k_harness) -> None:
    assert list(gsm8k.UNTIL) == gsm8k_harness.config.generation_kwargs["until"]
    assert gsm8k.prompts(SAMPLES[:1])[0].until == gsm8k.UNTIL


@pytest.fixture(scope="module")
def cot_harness(harness):
    tables = {split: pq.read_table(BUNDLED / f"gsm8k_{split}.parquet") for split in SPLITS}
    return harness("gsm8k/gsm8k-cot.yaml", tables)


@pytest.mark.parametrize(("num_fewshot", "limit"), [(0, 60), (1, 60), (8, 60)])
def test_cot_prompts_equal_lm_eval(cot_harness, harness_prompts, num_fewshot, limit) -> None:
    theirs = harness_prompts(cot_harness, num_fewshot, limit)
    ours = gsm8k.prompts_cot(SAMPLES[:limit], num_fewshot)
    assert [prompt.text for prompt in ours] == theirs
    assert list(ours[0].until) == cot_harness.config.generation_kwargs["until"]
    with pytest.raises(ValueError, match="0 to 8, got 9"):
        gsm8k.prompts_cot(SAMPLES, 9)


def test_lm_eval_without_its_examples_is_refused(tmp_path, monkeypatch) -> None:
    gsm8k.worked_examples.cache_clear()
    found = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(gsm8k, "find_spec", lambda name: found)
    with pytest.raises(DataError, match="has no examples"):
        gsm8k.prompts_cot(SAMPLES[:1], 1)
    monkeypatch.setattr(gsm8k, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install"):
        gsm8k.prompts_cot(SAMPLES[:1], 1)
    assert gsm8k.prompts_cot(SAMPLES[:1])[0].text.startswith("Q: Janet")


def test_prompts_do_not_depend_on_which_samples_are_asked() -> None:
    whole = gsm8k.prompts(SAMPLES, 5)
    picked = [1200, 7, 300]
    assert gsm8k.prompts([SAMPLES[i] for i in picked], 5) == [whole[i] for i in picked]
    assert gsm8k.prompts([], 5) == []


@pytest.mark.parametrize("num_fewshot", [-1, 9])
def test_shots_out_of_range_are_refused(num_fewshot) -> None:
    with pytest.raises(ValueError, match=rf"0 to 8, got {num_fewshot}"):
        gsm8k.prompts(SAMPLES, num_fewshot)


@pytest.fixture
def verdicts(gsm8k_harness, harness_score):
    """Both sides' scores of one output for the sample at a position."""

    def judge(index: int, output: str):
        theirs = harness_score(gsm8k_harness, gsm8k_harness.eval_docs[index], output)
        renamed = {"strict": theirs["strict-match"], "flexible": theirs["flexible-extract"]}
        return gsm8k.score(SAMPLES[index], output).metrics, renamed

    return judge


@pytest.mark.parametrize("output", OUTPUTS)
def test_scores_equal_lm_eval(verdicts, output) -> None:
    ours, theirs = verdicts(0, output)
    assert ours == theirs


@pytest.fixture
def cot_verdicts(cot_harness, harness_score):
    """As `verdicts`, of `gsm8k-cot`."""

    def judge(index: int, output: str):
        theirs = harness_score(cot_harness, cot_harness.eval_docs[index], output)
        renamed = {"strict": theirs["strict-match"], "flexible": theirs["flexible-extract"]}
        return gsm8k.score_cot(SAMPLES[index], output).metrics, renamed

    return judge


def test_cot_scores_equal_lm_eval(cot_verdicts) -> None:
    written = [output.replace("#### ", "The answer is ") for output in OUTPUTS]
    for output in [*OUTPUTS, *written, *(f"{output}\nSo." for output in written)]:
        ours, theirs = cot_verdicts(0, output)
        assert ours == theirs, output


def test_cot_scores_equal_lm_eval_on_random_outputs(cot_verdicts) -> None:
    source = random.Random(0)
    pieces = [
        "18",
        "The answer is ",
        "The answer is 18",
        "$",
        ",",
        ".",
        "-",
        " ",
        "\n",
        "3",
        "\x00",
    ]
    right = 0
    for _ in range(1000):
        output = "".join(source.choices(pieces, k=source.randrange(1, 9)))
        ours, theirs = cot_verdicts(source.choice([0, 3]), output)
        assert ours == theirs, output
        right += int(ours["strict"])
    assert right > 20


def test_scores_equal_lm_eval_on_random_outputs(verdicts) -> None:
    source = random.Random(0)
    pieces = ["18", "#### ", "####", "$", ",", ".", "-", " ", "\n", "3", "answer", "540", "\x00"]
    right = 0
    for _ in range(1000):
        output = "".join(source.choices(pieces, k=source.randrange(1, 9)))
        ours, theirs = verdicts(source.choice([0, 3]), output)
        assert ours == theirs, output
        right += int(sum(ours.values()))
    assert right > 50  # or the outputs say nothing about what passes


def test_reference_answers_are_right_by_lm_eval_and_by_us(verdicts) -> None:
    for index, sample in enumerate(SAMPLES):
        number = sample.fields["answer"].rpartition("#### ")[2]
        for output in (sample.fields["answer"], f"so it is ${number}."):
            ours, theirs = verdicts(index, output)
            assert ours == theirs, (index, output)
        assert gsm8k.score(sample, sample.fields["answer"]).correct


def test_the_two_filters_disagree_where_they_must() -> None:
    last_wins = gsm8k.score(GOLD_18, "#### 18\n\nThis took 3 steps")
    assert last_wins.metrics == {"strict": 1.0, "flexible": 0.0}
    assert (last_wins.correct, last_wins.score, last_wins.answer) == (False, 0.0, "3")
    no_format = gsm8k.score(GOLD_18, "It is 18.")
    assert no_format.metrics == {"strict": 0.0, "flexible": 1.0}
    assert (no_format.correct, no_format.score, no_format.answer) == (True, 1.0, "18")


def test_an_output_without_a_number_has_no_answer() -> None:
    empty = gsm8k.score(GOLD_18, "[MASK][MASK]")
    assert (empty.correct, empty.score, empty.answer) == (False, 0.0, None)


@given(ANY_TEXT)
@example("18 A\x00 \ud800x\udfff")
def test_any_text_has_a_score(text) -> None:
    result = gsm8k.score(GOLD_18, text)
    assert result.correct is (result.answer == "18")


@pytest.mark.parametrize(
    "output",
    [
        "7" * 1_000_000,
        "." * 1_000_000,
        "7." * 500_000,
        "-" * 1_000_000,
        "7 " * 500_000,
        "#### " * 200_000,
        "#" * 1_000_000,
        "[MASK]" * 170_000,
    ],
    ids=["digits", "dots", "mixed", "dashes", "numbers", "marks", "hashes", "masks"],
)
def test_a_megabyte_is_scored_in_linear_time(output) -> None:
    begin = time.process_time()
    assert gsm8k.score(GOLD_18, output).correct is False
    assert time.process_time() - begin < 1.0


def test_aggregate() -> None:
    scores = [gsm8k.score(GOLD_18, text) for text in ("#### 18", "18", "17", "")]
    assert gsm8k.aggregate(scores) == {"strict": 0.25, "flexible": 0.5}
    assert gsm8k.aggregate([]) == {}


def test_resampled() -> None:
    samples = gsm8k.load_resampled()
    prompts = gsm8k.prompts_resampled(samples)
    assert len(samples) == len(prompts) == 500
    for sample, prompt in zip(samples, prompts, strict=True):
        assert prompt.text == f"Question: {sample.fields['question']}\nAnswer:"
        written = f" {' '.join(sample.fields['steps'])} #### {sample.fields['answer']}"
        assert gsm8k.score(sample, written).metrics == {"strict": 1.0, "flexible": 1.0}
    with pytest.raises(ValueError, match="must be 0, got 5"):
        gsm8k.prompts_resampled(samples, 5)


def test_an_answer_without_a_mark_is_refused(tmp_path) -> None:
    (tmp_path / "gsm8k_test.jsonl").write_text('{"question": "q", "answer": "eighteen"}\n')
    with pytest.raises(DataError, match=r"row 0: .*'#### NUMBER', got 'eighteen'"):
        gsm8k.load(tmp_path)


def test_own_train_split_gives_the_shots(tmp_path) -> None:
    (tmp_path / "gsm8k_train.jsonl").write_text('{"question": "1+1?", "answer": "#### 2"}\n')
    sample = Sample("0", "4", None, {"question": "2+2?", "answer": "#### 4"})
    [prompt] = gsm8k.prompts([sample], 1, tmp_path)
    assert prompt.text == "Question: 1+1?\nAnswer: #### 2\n\nQuestion: 2+2?\nAnswer:"
    with pytest.raises(DataError, match="2 shots need as many rows, got 1"):
        gsm8k.prompts([sample], 2, tmp_path)
