"""MMLU against lm-eval's own generative tasks."""

import random
import time

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evaluators import DataError, Sample, mmlu
from evaluators.store import BUNDLED

ANY_TEXT = st.text(st.characters(exclude_categories=()))
SAMPLES = mmlu.load()
SUBJECTS = sorted({sample.category for sample in SAMPLES})


@pytest.fixture(scope="module")
def subject_harness(harness):
    tables = {split: pq.read_table(BUNDLED / f"mmlu_{split}.parquet") for split in ("test", "dev")}

    def build(subject: str):
        own = {
            split: table.filter(pc.equal(table["subject"], subject))
            for split, table in tables.items()
        }
        return harness(f"mmlu/generative/mmlu_{subject}.yaml", own)

    return build


@pytest.fixture(scope="module")
def anatomy(subject_harness):
    return subject_harness("anatomy")


def test_samples_are_the_official_ones() -> None:
    assert len(SAMPLES) == 14042
    assert len(SUBJECTS) == 57
    assert len({sample.sample_id for sample in SAMPLES}) == 14042
    first = SAMPLES[0]
    assert (first.sample_id, first.target) == ("abstract_algebra/0", "B")
    assert [sample.category for sample in SAMPLES] == sorted(s.category for s in SAMPLES)


def test_choices_that_look_missing_are_kept() -> None:
    choices = [choice for sample in SAMPLES for choice in sample.fields["choices"]]
    assert choices.count("None") >= 3
    assert all(choices)


def test_categories_hold_each_subject_once() -> None:
    listed = [subject for subjects in mmlu.CATEGORIES.values() for subject in subjects]
    assert sorted(listed) == SUBJECTS


@pytest.mark.parametrize("num_fewshot", [0, 5])
def test_prompts_of_every_subject_equal_lm_eval(
    subject_harness, harness_prompts, num_fewshot
) -> None:
    for subject in SUBJECTS:
        task = subject_harness(subject)
        theirs = harness_prompts(task, num_fewshot, limit=2)
        own = [sample for sample in SAMPLES if sample.category == subject][:2]
        assert [prompt.text for prompt in mmlu.prompts(own, num_fewshot)] == theirs


@pytest.mark.parametrize(("subject", "num_fewshot"), [("anatomy", 5), ("world_religions", 1)])
def test_prompts_of_whole_subjects_equal_lm_eval(
    subject_harness, harness_prompts, subject, num_fewshot
) -> None:
    task = subject_harness(subject)
    own = [sample for sample in SAMPLES if sample.category == subject]
    texts = [prompt.text for prompt in mmlu.prompts(own, num_fewshot)]
    assert texts == harness_prompts(task, num_fewshot)


def test_stop_strings_and_categories_equal_lm_eval(harness, anatomy) -> None:
    from lm_eval.tasks import _yaml_loader

    assert list(mmlu.UNTIL) == anatomy.config.generation_kwargs["until"]
    folder = _yaml_loader.Path(_yaml_loader.__file__).parent / "mmlu/generative"
    for category, subjects in mmlu.CATEGORIES.items():
        for subject in subjects:
            config = _yaml_loader.load_yaml(folder / f"mmlu_{subject}.yaml", resolve_func=False)
            assert config["tag"] == f"mmlu_{category}_generative"


OUTPUTS = [
    "", " ", "A", "a", " A", "A ", "A.", "(A)", "(a)", "A)", "\tA\t", "\nA", "A\nB", "A\r\nB",
    "\rA", "A B", "B", "AB", "A,", "A!?", "-A-", "' A'", "A .", "Answer: A", "The answer is A",
    "A\x00", "A\x00.", "\x00A", "A.\x00", "A\u2028", "\u00a0A", "\x1cA\x1f", "Ａ", "[MASK]A",
    "A\ud800", "A\x85", "«A»", "_A_", "1", "A\x0b\x0c", "\ufeffA", "ᴬ", "İ",
]  # fmt: skip


@pytest.mark.parametrize("output", OUTPUTS)
def test_scores_equal_lm_eval(anatomy, harness_score, output) -> None:
    own = [sample for sample in SAMPLES if sample.category == "anatomy"][:8]
    for index, sample in enumerate(own):
        theirs = harness_score(anatomy, anatomy.eval_docs[index], output)
        ours = mmlu.score(sample, output)
        assert ours.metrics["exact_match"] == theirs["get_response"]
        assert ours.correct == bool(theirs["get_response"])


def test_scores_equal_lm_eval_on_random_outputs(anatomy, harness_score) -> None:
    source = random.Random(0)
    pieces = ["A", "a", "C", " ", "\n", ".", "(", ")", "\x00", "\t", "The answer is ", "é"]
    sample, doc = next(
        (sample, anatomy.eval_docs[int(sample.sample_id.split("/")[1])])
        for sample in SAMPLES
        if sample.category == "anatomy" and sample.target == "A"
    )
    right = 0
    for _ in range(1000):
        output = "".join(source.choices(pieces, k=source.randrange(1, 6)))
        theirs = harness_score(anatomy, doc, output)["get_response"]
        ours = mmlu.score(sample, output).metrics["exact_match"]
        assert ours == theirs, output
        right += int(ours)
    assert right > 50  # or the outputs say nothing about what passes


@pytest.mark.parametrize(
    ("output", "letter"),
    [
        (" C", "C"),
        ("C.", "C"),
        ("c", "C"),
        ("(C)", "C"),
        ("C) the kidney", "C"),
        ("**C**", "C"),
        ("The answer is C", "C"),
        ("The correct answer is (C).", "C"),
        ("Answer: C", "C"),
        ("A", "A"),
        ("A man walks", None),
        ("The answer is A man", None),
        ("The answer is Cold", None),
        ("Certainly", None),
        ("E", None),
        ("", None),
        ("\nC", None),
        ("[MASK]", None),
    ],
)
def test_letter(output, letter) -> None:
    sample = Sample("anatomy/0", "C", "anatomy")
    result = mmlu.score(sample, output)
    assert result.answer == letter
    assert result.metrics["letter"] == float(letter == "C")


@given(ANY_TEXT)
@example("18 A\x00 \ud800x\udfff")
def test_any_text_has_a_score_and_a_letter_where_it_is_exact(text) -> None:
    for target in "ABCD":
        result = mmlu.score(Sample("x/0", target, "x"), text)
        assert result.metrics["letter"] >= result.metrics["exact_match"]


@pytest.mark.parametrize("output", ["A" * 10**6, " " * 10**6 + "A", "answer is " * 10**5])
def test_a_megabyte_is_scored_in_linear_time(output) -> None:
    begin = time.process_time()
    mmlu.score(SAMPLES[0], output)
    assert time.process_time() - begin < 1.0


def test_aggregate_is_micro_macro_and_by_category() -> None:
    outputs = {
        "anatomy": ["A", "A", "B", "B"],
        "virology": ["A"],
        "astronomy": ["(B)", "answer: A"],
    }
    scores = [
        mmlu.score(Sample("x", "A", subject), output)
        for subject, written in outputs.items()
        for output in written
    ]
    aggregates = mmlu.aggregate(scores)
    assert aggregates == pytest.approx(
        {"micro": 3 / 7, "macro": (0.5 + 1 + 0) / 3, "stem": 2 / 6, "other": 1.0, "letter": 4 / 7}
    )
    assert mmlu.aggregate([]) == {}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('"choices": ["a", "b", "c"], "answer": 1', "got 3 choices and 1"),
        ('"choices": ["a", "b", "c", "d"], "answer": 4', "got 4 choices and 4"),
        ('"choices": "abcd", "answer": 1', "line 1: choices must be a list, got 'abcd'"),
        ('"choices": ["a", "b", "c", "d"], "answer": "B"', "columns must be"),
    ],
)
def test_malformed_questions_are_refused(tmp_path, row, message) -> None:
    line = f'{{"subject": "s", "question": "q", {row}}}\n'
    (tmp_path / "mmlu_test.jsonl").write_text(line)
    with pytest.raises(DataError, match=message):
        mmlu.load(tmp_path)


def test_a_subject_without_examples_is_refused(tmp_path) -> None:
    row = '{"subject": "anatomy", "question": "q", "choices": ["a","b","c","d"], "answer": 0}\n'
    (tmp_path / "mmlu_dev.jsonl").write_text(row)
    assert len(mmlu.prompts(SAMPLES[100:101], 1, tmp_path)) == 1
    with pytest.raises(DataError, match="'virology', got 0"):
        mmlu.prompts([sample for sample in SAMPLES if sample.category == "virology"], 1, tmp_path)
    with pytest.raises(ValueError, match="0 to 5, got 6"):
        mmlu.prompts(SAMPLES, 6)
