"""Several outputs for each problem: rows of their own, intervals of the problems, pass@k."""

import io
import json
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from evaluators.humaneval import pass_at_k
from jobs import evaluate, running
from jobs.config import load_config
from reports.cells import cell_table, records
from reports.load import load
from reports.speed import speedups
from reports.statistics import wilson
from reports.tables import cell_rows
from reports.terminal import summary

CONFIG = """
name: repeats
models: {tiny-mdlm: {slots: 8}, tiny-ar: {}}
tasks: {gsm8k-resampled: {limit: 4, repeats: 3}}
decoders:
  - {recipe: llada, models: [tiny-mdlm], settings: {gen_length: 32, steps: 8, temperature: 1.0}}
  - {recipe: ar, models: [tiny-ar], settings: {gen_length: 32}}
"""


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:
    folder = tmp_path_factory.mktemp("repeats")
    (folder / "config.yaml").write_text(CONFIG)
    assert evaluate.main(["--config", f"{folder}/config.yaml", "--out", f"{folder}/run"]) == 0
    return folder / "run"


def test_each_repeat_is_a_row_with_noise_of_its_own(out: Path) -> None:
    samples = pd.read_parquet(out / "samples")
    assert len(samples) == samples.sid.nunique() == 2 * 4 * 3
    outputs: dict[str, list[int]] = {"llada": [], "ar": []}
    for (decoder, _), rows in samples.groupby(["decoder", "sample_id"]):
        assert sorted(rows["repeat"]) == [0, 1, 2]
        outputs[decoder].append(len({tuple(ids) for ids in rows["output_ids"]}))
    assert outputs["ar"] == [1, 1, 1, 1], "greedy decoding repeats itself"
    assert max(outputs["llada"]) == 3


def test_the_n_of_every_number_is_that_of_the_samples(out: Path) -> None:
    run = load(out)
    cells = cell_table(run)
    greedy = next(cell for cell in records(cells) if cell["is_ar"])
    assert (greedy["scored"], greedy["verdicts"], greedy["repeats"]) == (4, 12, 3)
    plain = wilson(greedy["right"] // 3, 4)
    ends = (greedy["accuracy_low"], greedy["accuracy_high"])
    assert ends == pytest.approx((plain.low, plain.high)), "equal outputs are no larger n"
    (compared,) = speedups(run, cells).values()
    assert compared.samples.n == 4
    screen = Console(width=200, file=io.StringIO())
    screen.print(summary(run))
    assert isinstance(screen.file, io.StringIO) and "4x3" in screen.file.getvalue()


def test_pass_at_k_has_an_interval_over_the_problems(out: Path, tmp_path: Path) -> None:
    run = load(out)
    llada = run.samples["decoder"] == "llada"
    right = [[1, 0, 0], [1, 1, 1], [0, 0, 0], [0, 1, 1]]
    of_problem = run.samples["sample_id"].astype("category").cat.codes
    run.samples["correct"] = [
        right[problem][int(repeat)]
        for problem, repeat in zip(of_problem, run.samples["repeat"], strict=True)
    ]
    for metrics in run.cells["metrics"]:
        metrics |= {"pass@1": 0.5, "pass@2": 0.667}
    cells = cell_table(run)
    cell = next(cell for cell in records(cells) if not cell["is_ar"])
    expected = [pass_at_k(3, c, 2) for c in (1, 3, 0, 2)]
    assert cell["pass_at"] == pytest.approx(sum(expected) / 4)
    assert 0 <= cell["pass_at_low"] < cell["pass_at"] < cell["pass_at_high"] <= 1
    assert llada.sum() == 12 and cell["pass_k"] == 2
    quality = cell_rows(cells, {})[0][4]
    assert "pass@2 67%" in quality.spread


def test_more_repeats_are_another_run_and_keep_the_first_ones(out: Path) -> None:
    folder = out.parent
    config = json.loads((out / "run.json").read_text())["config"]
    assert config["tasks"]["gsm8k-resampled"]["repeats"] == 3
    arguments = ["--config", f"{folder}/config.yaml", "--out", str(out)]
    more = "tasks.gsm8k-resampled.repeats=5"
    with pytest.raises(running.UserError, match="repeats: 3 there, 5 now"):
        evaluate.main([*arguments, "--set", more])
    few, many = (
        running.Plan(load_config(folder / "config.yaml", [f"{more[:-1]}{n}"])).manifest()
        for n in (1, 5)
    )
    assert set(few["sid"].to_pylist()) < set(many["sid"].to_pylist())
    assert many.num_rows == 5 * few.num_rows
