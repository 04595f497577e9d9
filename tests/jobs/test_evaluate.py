"""The main job on real input: run, run again, resume, refuse."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from cluster import commit as commit_module
from cluster.lock import LockedError, locked
from cluster.store import Store
from jobs import compare, evaluate, running
from jobs.errors import run_main

SMALL = """
name: small
models: {tiny-mdlm: {slots: 3}, tiny-ar: {}}
tasks: {gsm8k-resampled: {limit: 6}, lm1b: {limit: 3}}
decoders:
  - recipe: llada
    models: [tiny-mdlm]
    settings: {gen_length: 32, steps: [2, 4], temperature: 0.5}
  - {recipe: ar, models: [tiny-ar], settings: {gen_length: 32}}
scorer: tiny-ar
"""

Run = Callable[..., int]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Run:
    config = tmp_path_factory.mktemp("config") / "small.yaml"
    config.write_text(SMALL)

    def call(out: Path | str, *more: str) -> int:
        return evaluate.main(["--config", str(config), "--out", str(out), *more])

    return call


@pytest.fixture(scope="module")
def whole(run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished run, and what its command printed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert run(out) == 0
    return out, printed.getvalue()


def outputs(out: Path) -> dict[tuple[object, ...], list[int]]:
    table = pq.read_table(out / "samples").to_pylist()
    return {(r["task"], r["sample_id"], r["model"], r["steps"]): r["output_ids"] for r in table}


def test_a_run_leaves_a_whole_directory(whole: tuple[Path, str]) -> None:
    out, printed = whole
    assert "27 rows" in printed
    assert printed.rstrip().endswith(f"report: {out / 'report.html'}")

    samples = pd.read_parquet(out / "samples")
    assert len(samples) == samples.sid.nunique() == 27
    assert set(samples.status) == {"ok"}
    means = samples.groupby(["task", "decoder", "steps"]).correct.mean()
    assert set(means["gsm8k-resampled"].index) == {("llada", 2), ("llada", 4), ("ar", 32)}
    assert means["gsm8k-resampled"].notna().all()
    diffusion = samples[samples.decoder == "llada"]
    assert (diffusion.nfe == diffusion.steps).all()
    length = diffusion.prompt_tokens + diffusion.gen_length
    assert (diffusion.token_forwards == diffusion.nfe * length).all()
    assert (samples.decode_s > 0).all()
    assert (samples.latency_s >= samples.decode_s).all()
    scored = samples[samples.task == "lm1b"]
    assert scored.correct.isna().all()
    assert scored.score.notna().any()
    steps = pd.read_parquet(out / "steps")
    assert steps.groupby("sid").size().to_dict() == diffusion.set_index("sid").nfe.to_dict()

    success = json.loads((out / "_SUCCESS.json").read_text())
    assert success["rows"] == 27
    listed = {entry["table"]: entry for entry in success["files"]}
    assert set(listed) == {"samples", "steps", "cells", "vocabulary"}
    facts = json.loads((out / "run.json").read_text())
    assert facts["config"]["name"] == "small"
    assert "torch" in facts["versions"]
    assert "<html" in (out / "report.html").read_text()
    left = {path.name for path in out.iterdir()}
    assert left == {
        "_SUCCESS.json",
        "run.json",
        "manifest.parquet",
        "report.html",
        "report.tables",
        "progress.json",
        "samples",
        "steps",
        "cells",
        "vocabulary",
    }


def test_the_same_command_again_starts_no_model(
    run: Run,
    whole: tuple[Path, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_model(*_: object, **__: object) -> None:
        raise AssertionError("a finished run must start no model")

    monkeypatch.setattr(running, "run", no_model)
    monkeypatch.setattr(running, "session", no_model)
    assert run(whole[0]) == 0
    assert "is finished: 27 rows, nothing to compute" in capsys.readouterr().out


def test_an_unfinished_run_computes_only_what_is_missing(
    run: Run, whole: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(running.commit, "commit", stop)
    with pytest.raises(KeyboardInterrupt):
        run(broken)
    monkeypatch.undo()
    assert not (broken / "_SUCCESS.json").exists()
    victim = min((broken / "parts").glob("*.samples.parquet"))
    lost = set(pq.read_table(victim)["sid"].to_pylist())
    kept = {
        r: c
        for p in (broken / "parts").glob("*.samples.parquet")
        if p != victim
        for r, c in _created(p).items()
    }
    victim.unlink()

    # Another pool, other blocks: the tokens must not notice, nor did the drawn ones.
    assert run(broken, "--set", "cluster.pool=1", "--set", "cluster.rows_per_block=3") == 0
    after = pq.read_table(broken / "samples").to_pylist()
    assert len(after) == 27
    for row in after:
        assert (row["created_at"] == kept.get(row["sid"])) == (row["sid"] not in lost)
    assert outputs(broken) == outputs(whole[0])


def _created(part: Path) -> dict[str, object]:
    table = pq.read_table(part, columns=["sid", "created_at"])
    return dict(zip(table["sid"].to_pylist(), table["created_at"].to_pylist(), strict=True))


def test_latency_mode_takes_one_sample_at_a_time(
    run: Run, whole: tuple[Path, str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert run(out, "--set", "modes=[latency]", "--set", "trace=false") == 0
    samples = pd.read_parquet(out / "samples")
    assert set(samples["mode"]) == {"latency"}
    assert set(samples.slots) == {1}
    assert len(pd.read_parquet(out / "steps")) == 0
    greedy = {key: ids for key, ids in outputs(out).items() if key[2] == "tiny-ar"}
    assert greedy == {key: ids for key, ids in outputs(whole[0]).items() if key in greedy}


@pytest.fixture
def server() -> Iterator[str]:
    """A server that answers like one, unless its key is asked for: that it does not take."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            usage = {"completion_tokens": 4}
            self._reply(200, {"choices": [{"text": " #### 3"}], "usage": usage})

        def do_GET(self) -> None:
            refused = "Authorization" in self.headers
            self._reply(401 if refused else 200, {"error": "no such key"} if refused else {})

        def _reply(self, status: int, content: dict[str, object]) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=found.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{found.server_port}/v1"
    found.shutdown()
    found.server_close()


def beside(server: str, **more: object) -> list[str]:
    """Overrides: a guided decoder and a server on a few problems."""
    remote = {"url": server, "server_model": "m", "gen_length": 16, "retries": 0, **more}
    decoders = [
        {"recipe": "remote", "models": ["tiny-ar"], "settings": remote},
        {"recipe": "guided", "models": ["tiny-mdlm"], "settings": {"guider": "tiny-ar"}},
    ]
    decoders[1]["settings"] |= {"gen_length": 16}
    settings = {"tasks": {"gsm8k-resampled": {"limit": 4}}, "decoders": decoders}
    return [part for k, v in settings.items() for part in ("--set", f"{k}={yaml.safe_dump(v)}")]


def test_second_models_and_servers_stand_in_the_table(
    run: Run, tmp_path: Path, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert run(out, *beside(server)) == 0
    printed = capsys.readouterr().out
    samples = pd.read_parquet(out / "samples")
    assert set(samples.status) == {"ok"}
    assert samples.groupby(["model", "decoder"]).size().to_dict() == {
        ("tiny-ar", "ar"): 4,
        ("tiny-ar", "remote"): 4,
        ("tiny-mdlm", "guided"): 4,
    }
    guided, alone = (samples[samples.decoder == name] for name in ("guided", "ar"))
    assert set(guided.partner) == {"tiny-ar"}
    assert (guided.accepted_tokens <= guided.drafted_tokens).all()
    assert guided.nfe_ar.gt(0).all()
    texts = alone.set_index("sample_id").output_text
    assert guided.set_index("sample_id").output_text.to_dict() == texts.to_dict()
    far = samples[samples.decoder == "remote"]
    assert set(far.output_text) == {" #### 3"}
    assert set(far.device) == {f"remote:{server.split('/')[2]}"}
    assert set(far.generated_tokens) == {4}
    assert far.nfe.isna().all()
    cells = pd.read_parquet(out / "cells").set_index("decoder")
    shares = guided.accepted_tokens.sum() / guided.drafted_tokens.sum()
    assert cells.acceptance["guided"] == pytest.approx(shares)
    facts = json.loads((out / "run.json").read_text())
    assert set(facts["models"]) == {"tiny-ar", "tiny-mdlm"}
    assert "ar (guider)" in printed
    row = next(line for line in printed.splitlines() if " remote " in line)
    assert row.split()[-1] == "-", "a server's speed is compared with nobody's"
    assert "differs in device" in (out / "report.html").read_text()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"url": "http://127.0.0.1:9/v1"}, "no server answers at http://127.0.0.1:9/v1"),
        ({"api_key_env": "NOT_SET_IN_THE_TESTS"}, "NOT_SET_IN_THE_TESTS (api_key_env) is not set"),
        ({"api_key_env": "HOME"}, "HTTP 401 Unauthorized: no such key"),
    ],
    ids=str,
)
def test_a_server_that_will_not_do_is_told_before_anything_starts(
    run: Run,
    tmp_path: Path,
    server: str,
    capsys: pytest.CaptureFixture[str],
    more: dict[str, str],
    words: str,
) -> None:
    out = tmp_path / "run"
    with pytest.raises(SystemExit) as exit_code:
        run_main(lambda: run(out, *beside(server, **more)))
    assert exit_code.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert not out.exists()


def test_another_configuration_is_refused_with_what_differs(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "run", stop)
    with pytest.raises(KeyboardInterrupt):
        run(out)
    with pytest.raises(ValueError, match=r"tasks\.lm1b\.limit: 3 there, 4 now"):
        run(out, "--set", "tasks.lm1b.limit=4")


def test_a_run_directory_may_be_a_uri(
    run: Run, whole: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through fsspec, so that no code for local paths can help; and resumed there."""
    place = f"fsspec+file://{tmp_path}/run"
    assert run(place, "--limit", "2") == 0
    assert "run/report.html" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {
        "report.html",
        "report.tables",
        "samples",
    }
    found, expected = outputs(tmp_path / "run"), outputs(whole[0])
    assert len(found) == 12
    assert found == {key: expected[key] for key in found}
    assert run(place, "--limit", "2") == 0
    assert "is finished: 12 rows" in capsys.readouterr().out


def test_two_drivers_do_not_share_a_directory(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    with locked(Store.open(out)), pytest.raises(LockedError, match="in use by another driver"):
        run(out)


def test_a_worker_that_cannot_go_on_fails_the_run_in_one_line(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The model's files vanish between the driver's look and the worker's."""
    models = tmp_path / "model"
    import shutil

    from decoders import find_checkpoint

    shutil.copytree(find_checkpoint("tiny-ar").folder, models)
    real = running.manifest.write

    def vanish(*arguments: object) -> int:
        rows = real(*arguments)
        (models / "model.safetensors").unlink(missing_ok=True)
        return rows

    monkeypatch.setattr(running.manifest, "write", vanish)
    out = tmp_path / "run"
    with pytest.raises(SystemExit) as exit_code:
        run_main(lambda: run(out, "--set", f"models.tiny-ar.source={models}"))
    assert exit_code.value.code == 1
    error = capsys.readouterr().err
    assert re.search(r"^failed: .*safetensors", error, re.MULTILINE)
    assert "Traceback" not in error
    assert not (out / "_SUCCESS.json").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--set", "models.tiny-mdlm.source=tiny-mdml"], "did you mean 'tiny-mdlm'"),
        (["--set", "model={}"], "did you mean 'models'"),
        (["--set", "decoders.0.settings.steps=0"], "must be a whole number >= 1, got 0"),
        (["--set", "tasks.gms8k={}"], "gsm8k"),
        (["--set", "cluster.num_gpus=1"], "the cluster has 0"),
        (["--limit", "0"], "--limit must be at least 1, got 0"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], words: str
) -> None:
    out = tmp_path / "deep" / "run"
    with pytest.raises(SystemExit) as exit_code:
        run_main(lambda: run(out, *more))
    assert exit_code.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert not (tmp_path / "deep").exists()


def test_an_out_that_is_not_writable(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as exit_code:
        run_main(lambda: run(tmp_path / "file" / "run"))
    assert exit_code.value.code == 2
    assert "is not writable" in capsys.readouterr().err


def test_the_readmes_main_command(root: Path, tmp_path: Path) -> None:
    """The command as the README has it, with a small limit, in its own process and session."""
    readme = (root / "README.md").read_text()
    assert "python -m jobs.evaluate" in readme
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-m", "jobs.evaluate", "--limit", "1", "--out", str(tmp_path / "run")],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    samples = pd.read_parquet(tmp_path / "run" / "samples")
    assert set(samples.task) == {"gsm8k", "gsm8k-resampled", "mmlu", "humaneval", "lm1b"}
    assert set(samples.model) == {"tiny-mdlm", "tiny-ar"}
    assert samples[samples.decoder == "llada"].groupby("task").steps.nunique().min() >= 4
    assert set(samples[samples.task == "humaneval"].status) <= {"ok", "not_executed"}
    assert set(samples[samples.task != "humaneval"].status) == {"ok"}
    assert commit_module.read_success(Store.open(tmp_path / "run")) is not None
    assert "accuracy" in done.stdout
    assert done.stdout.rstrip().endswith("report.html")
    assert done.stderr.strip() == "", "a user sees no library's chatter"


def test_a_run_holds_against_itself_and_the_gate_tells_it_in_every_form(
    whole: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {name: tmp_path / f"gate.{name}" for name in ("markdown", "json", "junit")}
    options = [part for name, path in files.items() for part in (f"--{name}", str(path))]
    assert compare.main([str(whole[0]), str(whole[0]), *options]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("GO: ")
    assert all(path.stat().st_size for path in files.values())
