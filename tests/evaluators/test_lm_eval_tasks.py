"""lm-eval's tasks as ours, over local files."""

import json
from pathlib import Path

import pytest

from evaluators import DataError, Sample

FILTERS = """
filter_list:
  - name: strict
    filter: [{function: regex, regex_pattern: "#### (-?[0-9]+)"}, {function: take_first}]
  - name: last
    filter:
      - {function: regex, group_select: -1, regex_pattern: "-?[0-9]+"}
      - {function: take_first}
"""
OUTPUTS = ["#### 2", "it is 2", "2 or 3", "", "none", "#### 3 no, 2", "\x00", "٢", "[MASK]" * 20]


@pytest.fixture
def task_file(offline, tmp_path):
    """Writes a task and its data, and returns the YAML's path."""

    def write(name: str = "sums", extra: str = "", folder: Path = tmp_path) -> str:
        folder.mkdir(exist_ok=True)
        for split, first in (("train", 100), ("test", 0)):
            rows = [{"q": f"{n} + {n}", "a": str(2 * n)} for n in range(first, first + 12)]
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / f"{split}.jsonl").write_text(lines)
        path = folder / f"{name}.yaml"
        path.write_text(
            f"""task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{train: {folder}/train.jsonl, test: {folder}/test.jsonl}}}}
training_split: train
test_split: test
output_type: generate_until
doc_to_text: "Q: {{{{q}}}}\\nA:"
doc_to_target: "{{{{a}}}}"
generation_kwargs: {{until: ["Q:", ""], max_gen_toks: 8}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
{extra}"""
        )
        return str(path)

    return write


@pytest.fixture
def wrap(offline):
    from evaluators.lm_eval.tasks import wrap

    return wrap


def harness(path: str):
    from lm_eval.tasks import TaskManager

    (task,) = TaskManager(include_defaults=False).load(path)["tasks"].values()
    return task


def test_documents_and_prompts_are_lm_evals(wrap, task_file, harness_prompts) -> None:
    path = task_file()
    task = wrap(path)
    samples = task.load()
    assert task.name == f"lm_eval:{path}" and task.has_answer
    assert [(s.sample_id, s.target) for s in samples[:2]] == [("0", "0"), ("1", "2")]
    assert samples[1].fields == {"q": "1 + 1", "a": "2"}
    for num_fewshot in (0, 3):
        theirs = harness_prompts(harness(path), num_fewshot)
        ours = task.prompts(samples, num_fewshot)
        assert [prompt.text for prompt in ours] == theirs
        assert {(prompt.until, prompt.prefix) for prompt in ours} == {(("Q:",), "")}
        picked = [samples[7], samples[2]]
        assert task.prompts(picked, num_fewshot) == [ours[7], ours[2]]
    assert task.prompts([], 3) == []


def test_an_opened_answer_is_the_prefix(wrap, task_file) -> None:
    task = wrap(task_file(extra='gen_prefix: "The answer is"'))
    [prompt] = task.prompts(task.load()[:1], 1)
    assert prompt.prefix == "The answer is" and prompt.text.endswith("A: The answer is")


def test_scores_are_lm_evals(wrap, task_file, harness_score) -> None:
    path = task_file(extra=FILTERS)
    task, reference = wrap(path), harness(path)
    sample = task.load()[1]
    scores = []
    for output in OUTPUTS:
        theirs = harness_score(reference, dict(sample.fields), output)
        scores.append(task.score(sample, output))
        renamed = {f"exact_match,{name}": value for name, value in theirs.items()}
        assert scores[-1].metrics == renamed, output
        assert scores[-1].correct == (theirs["strict"] == 1.0)
    assert [score.answer for score in scores[:3]] == ["2", None, None]
    assert task.aggregate(scores) == {
        "exact_match,strict": pytest.approx(1 / 9),
        "exact_match,last": pytest.approx(3 / 9),
    }
    assert task.aggregate([]) == {}


def test_the_version_follows_the_task_and_not_the_place(wrap, task_file, tmp_path) -> None:
    versions = [
        wrap(task_file(folder=tmp_path / folder, extra=extra)).version
        for folder, extra in (("a", ""), ("b", ""), ("c", FILTERS))
    ]
    assert versions[0] == versions[1] != versions[2]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("unsafe_code: true", "it runs what a model writes"),
        ("repeats: 4", "it wants 4 outputs a document"),
        ("output_type: loglikelihood", "its output type is loglikelihood"),
        ("doc_to_text: '{{'", "lm-eval cannot build it"),
    ],
)
def test_what_is_not_one_text_a_document_is_refused(wrap, task_file, extra, message) -> None:
    path = task_file()
    key = extra.partition(":")[0]
    kept = [line for line in Path(path).read_text().splitlines() if not line.startswith(key)]
    Path(path).write_text("\n".join([*kept, extra]))
    with pytest.raises(DataError, match=message):
        wrap(path)


def test_other_mistakes_are_named(wrap, task_file, tmp_path) -> None:
    with pytest.raises(DataError, match="no such file"):
        wrap(str(tmp_path / "nothing.yaml"))
    task = wrap(task_file(extra="num_fewshot: 0"))
    with pytest.raises(ValueError, match="must be 0 to 0, got 1"):
        task.prompts(task.load(), 1)
    with pytest.raises(DataError, match="leave --data out"):
        task.load(tmp_path)


def test_a_metric_of_a_whole_corpus_is_an_error_of_the_sample(wrap, task_file) -> None:
    path = task_file("corpus")
    text = Path(path).read_text().replace("metric: exact_match, aggregation: mean", "metric: ter")
    Path(path).write_text(text.replace(", higher_is_better: true", ""))
    task = wrap(path)
    assert not task.has_answer
    with pytest.raises(ValueError, match="no metric is a number of one document"):
        task.score(Sample("0", "2", None, {"q": "1 + 1", "a": "2"}), "2")


def test_a_task_of_lm_eval_is_found_by_its_prefix(task_file, wrap):
    from evaluators import get_task

    path = task_file()
    assert get_task(f"lm_eval:{path}") is wrap(path)
    with pytest.raises(DataError, match="nowhere"):
        get_task("lm_eval:nowhere.yaml")
