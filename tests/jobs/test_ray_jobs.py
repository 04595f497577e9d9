"""Runs as Ray jobs, on a real head with token authentication."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import submit as submit_module
from jobs.client import connect
from jobs.config import load_config
from jobs.errors import UserError
from jobs.follow import follow
from jobs.runners import LostError, RayRunner
from jobs.submit import submit
from tests.jobs.head import LIMIT_S, until

CONFIG = """
name: remote
models: {tiny-ar: {}}
tasks: {gsm8k-resampled: {limit: 3, data: DATA}}
decoders: [{recipe: ar, models: [tiny-ar], settings: {gen_length: 16}}]
cluster: {pool: 1}
trace: false
"""


FROM_WITHIN = "import ray; ray.init(); from jobs.client import connect; connect().list_jobs()"


def test_a_run_fails_is_stopped_and_is_finished_as_jobs(
    head: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One run directory, three attempts: its data are missing, then somebody stops it, then
    Ray's own command line finishes it."""
    data, out = tmp_path / "data", str(tmp_path / "run")
    config = load_config(None, text=CONFIG.replace("DATA", str(data)))
    client = connect(head)

    first = submit(config, out, address=head)
    assert first.startswith("remote-") and first.endswith("-a1")
    assert follow(client, first) == 2, "the driver's own exit code"
    printed = capfd.readouterr().out
    assert [
        line for line in printed.splitlines() if line.startswith("error: ") and str(data) in line
    ]
    assert "Traceback" not in printed

    runner = RayRunner(head)
    assert runner.poll(first) == 2
    with pytest.raises(LostError):
        runner.poll("nobody-a1")

    bundled = submit_module.ROOT / "evaluators" / "data"
    data.mkdir()
    for file in bundled.glob("gsm8k*"):
        shutil.copy(file, data)
    second = submit(config, out, address=head)
    assert second == first.removesuffix("1") + "2"
    assert submit(config, out, client=client) == second, "the running one, not another"
    assert runner.start(config, Path(out), -1) == second
    assert runner.poll(second) is None
    until(lambda: "1 cells, 3 rows" in client.get_job_logs(second), LIMIT_S)
    assert submit_module.main(["--stop", second, "--follow", "--address", head]) == 143
    assert str(client.get_job_status(second)) == "STOPPED"
    assert runner.poll(second) == 143

    file = tmp_path / "config.yaml"
    file.write_text(CONFIG.replace("DATA", str(data)))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "ray.scripts.scripts", "job", "submit"),
            *("--submission-id", "by-hand", "--working-dir", "."),
            *("--", "python", "-m", "jobs.evaluate", "--config", str(file), "--out", out),
        ],
        cwd=submit_module.ROOT,
        env={**os.environ, "RAY_API_SERVER_ADDRESS": head},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done
    assert "3 of 3 rows" in done.stdout, "progress, as plain lines"
    log = client.get_job_logs("by-hand")
    assert "\r" not in log and "\x1b" not in log
    assert json.loads((tmp_path / "run" / "_SUCCESS.json").read_text())["rows"] == 3
    assert client.get_job_info("by-hand").driver_exit_code == 0
    capfd.readouterr()
    assert submit_module.main(["--status", "by-hand", "--address", head]) == 0
    status = capfd.readouterr().out.rstrip()
    assert status.startswith("by-hand  SUCCEEDED  exit code 0  ")
    assert "  3 of 3 rows (100%), " in status, "how far it was"
    assert status.endswith("report.html")
    assert submit_module.main(["--list", "--address", head]) == 0
    listed = capfd.readouterr().out.splitlines()
    ours = [line.split()[2] for line in listed if "  remote-" in line]
    assert ours == ["FAILED", "STOPPED"], "those sent by us"
    assert not [line for line in listed if "by-hand" in line]


def test_what_travels_is_the_code_alone(head: str, tmp_path: Path) -> None:
    """The upload holds the rooms; not what was run, installed or committed."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in (".gitignore", ".rayignore"):
        shutil.copy(submit_module.ROOT / name, tree)
    for name in ("jobs/evaluate.py", "decoders/bundled/x/model.safetensors", "jobs/configs/a.yaml"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("kept")
    for name in (
        *("runs/a/samples.parquet", ".venv/lib/x.py", ".git/objects/x", ".mypy_cache/x.json"),
        *(".hypothesis/x", "jobs/__pycache__/x.pyc", "tests/decoders/goldens/x.json"),
    ):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("left out")
    client = connect(head)
    job = client.submit_job(
        entrypoint="find . -type f | sort", runtime_env=submit_module.runtime_env(str(tree))
    )
    assert follow(client, job) == 0
    log = client.get_job_logs(job)
    listed = {line for line in log.splitlines() if line.startswith("./")}
    assert listed == {
        "./.gitignore",
        "./.rayignore",
        "./decoders/bundled/x/model.safetensors",
        "./jobs/configs/a.yaml",
        "./jobs/evaluate.py",
    }


def test_a_driver_that_is_stopped_may_end_in_peace(head: str, tmp_path: Path) -> None:
    """Ray kills after 3 s unless told otherwise, which a driver with rows in hand may need."""
    client = connect(head)
    inside = client.submit_job(
        entrypoint=f"python -c '{FROM_WITHIN}'",
        runtime_env=submit_module.runtime_env(str(submit_module.ROOT)),
    )
    trap = "trap 'sleep 4; echo ended in peace; exit 0' TERM"
    job = client.submit_job(
        entrypoint=f"{trap}; echo ready; while :; do sleep 0.1; done",
        runtime_env=submit_module.runtime_env(str(tmp_path)),
    )
    until(lambda: "ready" in client.get_job_logs(job), LIMIT_S)
    assert submit_module.main(["--stop", job, "--follow", "--address", head]) == 143
    assert client.get_job_logs(job).endswith("ended in peace\n")
    assert follow(client, inside) == 0, "a driver finds the API of the cluster that it has joined"


def test_mistakes_are_one_line_and_exit_code_2(head: str) -> None:
    with pytest.raises(UserError, match=f"there is no job nobody-a1 at {head}"):
        submit_module.main(["--status", "nobody-a1", "--address", head])
    # The wrong token needs a process that has not yet sent another.
    done = subprocess.run(
        [sys.executable, "-m", "jobs.submit", "--list", "--address", head],
        cwd=submit_module.ROOT,
        env={**os.environ, "RAY_AUTH_TOKEN": "0" * 64},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert (done.returncode, done.stdout) == (2, ""), done
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and "refuses this token" in line
