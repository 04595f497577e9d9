"""Every recorded run of the authors' code, token for token, and the command that checks them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from decoders import Model
from tests import conformance

HERE = Path(__file__).parent
CASES = conformance.cases(HERE / "goldens")
EXCLUDED = {"fd2.single.p13.stop_on_boundary", "fd2.single.p8.equals_block", "guided.topk150.vb4"}


@pytest.fixture(scope="module")
def models() -> Callable[[str], Model]:
    return conformance.loader(HERE / "models")


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_emits_what_the_authors_code_emits(path: Path, models: Callable[[str], Model]) -> None:
    case = json.loads(path.read_text())
    differences = conformance.check(case, models)
    if path.stem in EXCLUDED:
        assert case["excluded"]
        assert differences, "where the reference is at fault, we differ from it"
    else:
        assert differences == []


def test_all_recorded_cases_are_here() -> None:
    assert len(CASES) == 81
    assert {path.stem for path in CASES if "excluded" in path.read_text()} == EXCLUDED


def test_the_command_tells_what_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "llada.lowconf.g32.b8.s4.json"
    (tmp_path / name).write_text((HERE / "goldens" / name).read_text())
    case = json.loads((HERE / "goldens" / "prophet.never.json").read_text())
    case["output_ids"][0][-1] += 1
    case["steps"][3]["committed"] = []
    case["nfe"] += 1
    (tmp_path / "wrong.json").write_text(json.dumps(case))
    arguments = ["--cases", str(tmp_path), "--models", str(HERE / "models")]
    assert conformance.main(arguments) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "1 passed, 1 failed"
    assert [line.split(":")[1].strip() for line in lines[:-1]] == [
        "tokens of row 0",
        "forwards",
        "commits of step 4",
    ]
    assert conformance.main(["--cases", str(tmp_path / "none")]) == 2


def test_a_recording_that_was_wrong_is_known_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "fd1dream.dual.entropy.s32.b8.json"
    case = json.loads((HERE / "goldens" / name).read_text())
    for step, (place, token) in {19: (28, 55), 20: (30, 3), 21: (25, 16), 22: (26, 157)}.items():
        case["steps"][step]["committed"] = [[0, place, token]]
    del case["note"], case["replaces_steps"]
    (tmp_path / name).write_text(json.dumps(case))
    arguments = ["--cases", str(tmp_path), "--models", str(HERE / "models")]
    assert conformance.main(arguments) == 0
    assert "run again, it writes 30, 25, 26, 28" in capsys.readouterr().out
    case["steps"][5]["committed"] = []
    (tmp_path / name).write_text(json.dumps(case))
    assert conformance.main(arguments) == 1, "no other recording is touched"
