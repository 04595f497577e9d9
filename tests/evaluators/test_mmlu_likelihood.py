"""MMLU by likelihood against lm-eval's own default tasks."""

import math
import random

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from evaluators import Sample, mmlu_likelihood
from evaluators.choices import ChoicePrompt, likeliest, margin
from evaluators.mmlu import CATEGORIES
from evaluators.store import BUNDLED

SAMPLES = mmlu_likelihood.load()
SUBJECTS = sorted({sample.category for sample in SAMPLES})


@pytest.fixture(scope="module")
def subject_harness(harness):
    tables = {split: pq.read_table(BUNDLED / f"mmlu_{split}.parquet") for split in ("test", "dev")}

    def build(subject: str, num_fewshot: int = 0):
        own = {
            split: table.filter(pc.equal(table["subject"], subject))
            for split, table in tables.items()
        }
        return harness(f"mmlu/default/mmlu_{subject}.yaml", own, num_fewshot)

    return build


@pytest.fixture(scope="module")
def anatomy(subject_harness):
    return subject_harness("anatomy")


def requests(task, num_fewshot: int, limit: int) -> list[tuple[str, str]]:
    """What lm-eval asks a model: a context and a continuation for each choice."""
    task.set_config("num_fewshot", num_fewshot)
    task.set_fewshot_seed(1234)
    task.build_all_requests(limit=limit)
    return [instance.args for instance in task.instances]


def ours(samples: list[Sample], num_fewshot: int) -> list[tuple[str, str]]:
    listed = mmlu_likelihood.prompts(samples, num_fewshot)
    return [(prompt.text, choice) for prompt in listed for choice in prompt.choices]


def test_requests_of_every_subject_equal_lm_eval(subject_harness) -> None:
    for subject in SUBJECTS:
        own = [sample for sample in SAMPLES if sample.category == subject][:1]
        assert ours(own, 5) == requests(subject_harness(subject), 5, limit=1)


@pytest.mark.parametrize("num_fewshot", [0, 3])
def test_requests_equal_lm_eval(anatomy, num_fewshot) -> None:
    own = [sample for sample in SAMPLES if sample.category == "anatomy"][:20]
    assert ours(own, num_fewshot) == requests(anatomy, num_fewshot, limit=20)


def test_judgements_equal_lm_eval(anatomy) -> None:
    source = random.Random(0)
    own = [sample for sample in SAMPLES if sample.category == "anatomy"]
    right = 0
    for index in range(200):
        sample, doc = own[index % len(own)], anatomy.eval_docs[index % len(own)]
        # Few values, so that some are tied.
        logprobs = [-source.randrange(1, 6) / 4 for _ in range(4)]
        theirs = anatomy.process_results(doc, [(value, False) for value in logprobs])
        score = mmlu_likelihood.judge(sample, logprobs)
        assert score.metrics["acc"] == theirs["acc"] == float(score.correct)
        right += score.correct
    assert 20 < right < 100


def test_aggregates_equal_lm_eval() -> None:
    from lm_eval.api.metrics import aggregate_subtask_metrics

    counts = {"anatomy": (3, 4), "virology": (1, 1), "astronomy": (0, 2)}
    scores = [
        mmlu_likelihood.judge(Sample("x", "A", subject), [0.0 if n < right else -2.0, -1, -1, -1])
        for subject, (right, size) in counts.items()
        for n in range(size)
    ]
    shares = [right / size for right, size in counts.values()]
    sizes = [size for _, size in counts.values()]
    aggregates = mmlu_likelihood.aggregate(scores)
    assert aggregates["micro"] == aggregate_subtask_metrics(shares, sizes, weight_by_size=True)
    assert aggregates["macro"] == aggregate_subtask_metrics(shares, sizes, weight_by_size=False)
    assert aggregates["stem"] == aggregate_subtask_metrics([0.75, 0.0], [4, 2])
    assert aggregates["other"] == 1.0
    assert set(aggregates) == {"micro", "macro", "stem", "other"}
    assert mmlu_likelihood.aggregate([]) == {}


def test_groups_are_those_of_lm_eval(offline) -> None:
    from lm_eval.tasks import _yaml_loader

    folder = _yaml_loader.Path(_yaml_loader.__file__).parent / "mmlu/default"
    for name in ("_mmlu", *(f"_mmlu_{category}" for category in CATEGORIES)):
        group = _yaml_loader.load_yaml(folder / f"{name}.yaml", resolve_func=False)
        assert group["aggregate_metric_list"] == [{"metric": "acc", "weight_by_size": True}]
    for category, subjects in CATEGORIES.items():
        for subject in subjects:
            config = _yaml_loader.load_yaml(folder / f"mmlu_{subject}.yaml", resolve_func=False)
            assert config["tag"] == f"mmlu_{category}_tasks"
            assert str(config["metadata"]["version"]) == "1.0"


def test_a_judgement_tells_the_values() -> None:
    score = mmlu_likelihood.judge(Sample("x", "C", "anatomy"), [-3.0, -2.5, -1.0, -4.0])
    assert (score.answer, score.correct, score.score) == ("C", True, 1.0)
    assert score.category == "anatomy"
    assert score.metrics == {
        "acc": 1.0,
        "logprob_a": -3.0,
        "logprob_b": -2.5,
        "logprob_c": -1.0,
        "logprob_d": -4.0,
        "margin": 1.5,
    }


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_never_choice_a(place, value) -> None:
    logprobs = [-1.0, -1.0, -1.0, -1.0]
    logprobs[place] = value
    with pytest.raises(ValueError, match="finite numbers"):
        mmlu_likelihood.judge(SAMPLES[0], logprobs)


@pytest.mark.parametrize("logprobs", [[], [-1.0], [-1.0] * 5])
def test_another_number_of_values_is_refused(logprobs) -> None:
    with pytest.raises(ValueError, match=f"must be 4 log-likelihoods, got {len(logprobs)}"):
        mmlu_likelihood.judge(SAMPLES[0], logprobs)


@pytest.mark.parametrize(
    ("output", "letter"),
    [
        ("C", "C"),
        (" C", "C"),
        (" C\nmore", "C"),
        ("c", None),
        ("C.", None),
        ("", None),
        ("E", None),
    ],
)
def test_a_choice_that_was_taken_is_scored(output, letter) -> None:
    score = mmlu_likelihood.score(Sample("x", "C", "anatomy"), output)
    assert score.answer == letter
    assert score.correct is (letter == "C") is bool(score.metrics["acc"])


def test_ties_go_to_the_first() -> None:
    assert likeliest([-2.0, -1.0, -1.0], 3) == 1
    assert margin([-2.0, -1.0, -1.0]) == 0.0


def test_few_shot_beyond_the_dev_split_is_refused() -> None:
    with pytest.raises(ValueError, match="mmlu-likelihood: num_fewshot must be 0 to 5, got 6"):
        mmlu_likelihood.prompts(SAMPLES[:1], 6)
    (prompt,) = mmlu_likelihood.prompts(SAMPLES[:1], 5)
    assert isinstance(prompt, ChoicePrompt)
    assert prompt.choices == (" A", " B", " C", " D") and prompt.until == ()
