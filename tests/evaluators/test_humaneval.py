"""HumanEval: official prompts, and static facts about programs that nothing runs."""

import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evaluators import cut, humaneval

ANY_TEXT = st.text(st.characters(exclude_categories=()))
SAMPLES = humaneval.load()
FIRST = SAMPLES[0]


def test_samples_are_the_official_ones() -> None:
    assert [sample.sample_id for sample in SAMPLES] == [f"HumanEval/{i}" for i in range(164)]
    assert [prompt.text for prompt in humaneval.prompts(SAMPLES)] == [
        sample.fields["prompt"] for sample in SAMPLES
    ]
    with pytest.raises(ValueError, match="must be 0, got 1"):
        humaneval.prompts(SAMPLES, 1)


def test_stop_strings_equal_lm_eval(offline) -> None:
    import lm_eval
    from lm_eval.tasks._yaml_loader import load_yaml

    yaml = Path(lm_eval.__file__).parent / "tasks/humaneval/humaneval.yaml"
    config = load_yaml(yaml, resolve_func=False)
    assert config["generation_kwargs"]["until"] == list(humaneval.UNTIL)
    assert config["doc_to_text"] == "{{prompt}}"


def test_canonical_solutions_parse_and_nothing_is_executed() -> None:
    for sample in SAMPLES:
        solution = cut(sample.fields["canonical_solution"], humaneval.UNTIL)
        result = humaneval.score(sample, solution)
        assert result.metrics == {"parses": 1.0, "has_body": 1.0}
        assert (result.correct, result.score, result.answer) == (None, None, None)
        assert result.executed is False


def test_an_empty_output_parses_but_has_no_body() -> None:
    for output in ("", "\n", "[MASK][MASK]"):  # at the margin, a mask is an expression
        assert humaneval.score(FIRST, output).metrics == {"parses": 1.0, "has_body": 0.0}


def test_code_with_effects_is_not_run(tmp_path) -> None:
    target = tmp_path / "written"
    body = f"    return 1\nopen({str(target)!r}, 'w').write('x')\nraise SystemExit(3)\n"
    assert humaneval.score(FIRST, body).metrics == {"parses": 1.0, "has_body": 1.0}
    assert not target.exists()


def test_a_later_empty_definition_counts() -> None:
    again = "    return True\n\ndef has_close_elements(numbers, threshold):\n    '''Nothing.'''\n"
    assert humaneval.score(FIRST, again).metrics == {"parses": 1.0, "has_body": 0.0}


@pytest.mark.parametrize(
    "output",
    [
        "    return (",
        "    return '\x00'\n",
        "    return '\ud800'\n",
        "<|mdm_mask|>",
        "  return 1\n      return 2\n",
        "    return " + "-" * 32_000 + "1",
        "    return " + "(" * 10_000,
        "    return x" + ".a" * 14_000,
        "    return x" + "()" * 14_000,
        "    return " + "+".join("1" * 14_000),
        "    return " + "not " * 7_000 + "x",
        "    return " + "9" * 20_000,
        "    return 1\n" * 100_000,
        "#" * 1_000_000,
    ],
    ids=lambda output: f"{output[:16]!r}x{len(output)}",
)
def test_hostile_programs_do_not_parse_and_never_raise(output) -> None:
    begin = time.process_time()
    result = humaneval.score(FIRST, output)
    assert result.metrics == {"parses": 0.0, "has_body": 0.0}
    assert time.process_time() - begin < 1.0


@pytest.mark.filterwarnings("error")
def test_warnings_of_the_parser_stay_silent() -> None:
    assert humaneval.score(FIRST, "    return '\\d' is 1\n").metrics["parses"] == 1.0


@given(ANY_TEXT)
@example("18 A\x00 \ud800x\udfff")
def test_any_text_has_a_score(text) -> None:
    metrics = humaneval.score(FIRST, text).metrics
    assert metrics["parses"] >= metrics["has_body"]


def test_aggregate() -> None:
    scores = [humaneval.score(FIRST, text) for text in ("    return 1\n", "", "    (", "    [")]
    assert humaneval.aggregate(scores) == {"parses": 0.5, "has_body": 0.25}
    assert humaneval.aggregate([]) == {}
