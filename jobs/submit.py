"""`python -m jobs.submit`: sends a run to a Ray cluster as a job, and looks after it there."""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cluster.cells import digest
from evaluators import get_task
from jobs.client import asking, check_id, connect
from jobs.config import RunConfig
from jobs.errors import UserError, run_main
from jobs.follow import exit_code, follow
from jobs.options import config_of, run_options
from jobs.progress import LINE as PROGRESS_LINE
from jobs.sweep import sweep

ROOT = Path(__file__).resolve().parent.parent

OUT = "unmask.out"
"""The key of a job's metadata that holds its run directory, and marks the job as one of ours."""

STOP_WAIT_S = 60
"""What a driver gets between SIGTERM and SIGKILL when its job is stopped; Ray's own is 3 s."""

LONGEST = 100_000
"""Characters of a command; Linux takes no argument of 128 KiB."""

GOING = ("PENDING", "RUNNING")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.list:
        return _list(connect(options.address))
    if job := options.status or options.logs or options.stop:
        check_id(job)
        client = connect(options.address)
        with asking(client.get_address(), job):
            if options.status:
                print(_status(client, client.get_job_info(job)))
            elif options.logs:
                print(client.get_job_logs(job), end="")
            elif client.stop_job(job):
                print(f"{job} is asked to stop; what has ended is safe", file=sys.stderr)
            else:
                print(f"{job} had ended before", file=sys.stderr)
        return follow(client, job) if options.follow else 0
    if options.out is None:
        raise UserError("--out is missing: the run directory, on a file system every node sees")
    config = config_of(options)
    client = connect(options.address)
    job = submit(
        config,
        options.out,
        client=client,
        working_dir=options.working_dir,
        again=options.again,
    )
    print(job, flush=True)
    return follow(client, job) if options.follow else 0


def submit(
    config: RunConfig,
    out: str,
    *,
    address: str | None = None,
    client: Any = None,
    working_dir: str | None = None,
    again: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> str:
    """Submits `jobs.evaluate` with this configuration and run directory; returns the job's id.

    The id is NAME-DIGEST-aN, a digest of configuration and directory and the attempt: one that is
    waiting, running or has succeeded is returned as it is; one that failed or was stopped is
    followed by the next attempt, which computes what is missing. `again` makes another attempt
    after a success too. `working_dir` is a folder or a URI that Ray knows; left out, this checkout.

    Raises:
        UserError: the configuration, `out` or `working_dir` cannot work on a cluster, or the
            cluster does not answer or refuses.
        UnknownTaskError, DecoderError: it names a task, recipe or setting that does not exist.
    """
    _check(config, out)
    folder = _folder(working_dir)
    client = client or connect(address)
    base = f"{config.name}-{digest({'config': config.model_dump(mode='json'), 'out': out})[:12]}"
    with asking(client.get_address()):
        last, status = _last_attempt(client, base)
        if last and (status in GOING or (status == "SUCCEEDED" and not again)):
            return f"{base}-a{last}"
        job = f"{base}-a{last + 1}"
        try:
            client.submit_job(
                entrypoint=evaluation(config, out),
                submission_id=job,
                runtime_env=runtime_env(folder),
                metadata={**(metadata or {}), OUT: out, "unmask.name": config.name},
            )
        except RuntimeError as error:
            if "already exists" not in str(error):  # else another submitter was faster
                raise
    return job


def runtime_env(folder: str) -> dict[str, Any]:
    """What a job runs in: these files, and time to end in when it is stopped."""
    return {
        "working_dir": folder,
        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)},
    }


def evaluation(config: RunConfig, out: str) -> str:
    """The shell command that runs this configuration."""
    text = config_text(config)
    return shlex.join(["python", "-m", "jobs.evaluate", "--config-json", text, "--out", out])


def config_text(config: RunConfig) -> str:
    """A configuration as `--config-json` takes it."""
    values = config.model_dump(mode="json", exclude_defaults=True)
    return json.dumps(values, separators=(",", ":"))


def _check(config: RunConfig, out: str) -> None:
    if len(evaluation(config, out)) > LONGEST:
        raise UserError(f"config is too long for a job's command ({LONGEST:,} characters)")
    if not (Path(out).is_absolute() or "://" in out):
        raise UserError(
            f"--out {out} is not absolute: a job runs in a folder of its own that goes with it; "
            "name a directory on a file system that every node sees"
        )
    check_names(config)


def check_names(config: RunConfig) -> None:
    """What can be told of a run where its models and data are not.

    Raises:
        UnknownTaskError, DecoderError, UserError: a task, recipe or setting does not exist.
    """
    for task in config.tasks:
        get_task(task)
    for entry in config.decoders:
        for task in config.tasks:
            for _ in sweep(entry, task):
                pass


def _folder(working_dir: str | None) -> str:
    if working_dir is None:
        if not (ROOT / "pyproject.toml").exists():
            raise UserError("this is no checkout to send along; name one by --working-dir")
        return str(ROOT)
    if "://" not in working_dir and not Path(working_dir).is_dir():
        raise UserError(f"--working-dir {working_dir} is not a directory")
    return working_dir


def _last_attempt(client: Any, base: str) -> tuple[int, str]:
    """The number and the status of the newest attempt, or 0."""
    found = {0: ""}
    for job in client.list_jobs():
        start, _, number = (job.submission_id or "").rpartition("-a")
        if start == base and number.isdigit():
            found[int(number)] = str(job.status)
    last = max(found)
    return last, found[last]


def _status(client: Any, job: Any) -> str:
    """What the cluster says; how far the run was when its driver last told; and the last line that
    the driver wrote, if that is another one."""
    code = exit_code(job)
    ended = "" if code is None else f"exit code {code}"
    seconds = ((job.end_time or time.time() * 1000) - (job.start_time or 0)) / 1000
    lines = client.get_job_logs(job.submission_id).strip().splitlines()
    facts = (job.submission_id, str(job.status), ended, f"{seconds:.0f} s", _out(job))
    told = [line for line in lines if PROGRESS_LINE.fullmatch(line)][-1:]
    last = [line for line in lines[-1:] if line not in told]
    return "\n".join(["  ".join(fact for fact in facts if fact), *told, *last])


def _list(client: Any) -> int:
    with asking(client.get_address()):
        jobs = [job for job in client.list_jobs() if _out(job)]
    for job in sorted(jobs, key=lambda job: job.start_time or 0):
        began = datetime.fromtimestamp((job.start_time or 0) / 1000, UTC)
        print(f"{began:%Y-%m-%d %H:%MZ}  {job.status!s:9}  {job.submission_id}  {_out(job)}")
    return 0


def _out(job: Any) -> str:
    return str((job.metadata or {}).get(OUT, ""))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jobs.submit",
        description="Send a run to a Ray cluster as a job: the options of jobs.evaluate, and the "
        "job's id on standard output. The same command again names the same job while it waits, "
        "runs or has succeeded, and goes on with a new attempt after a failure or a stop.",
        parents=[run_options()],
    )
    parser.add_argument(
        "--out", metavar="DIR", help="run directory, on a file system that every node sees"
    )
    parser.add_argument(
        "--address",
        metavar="URL",
        help="the cluster's Jobs API, e.g. http://127.0.0.1:8265 (default: RAY_API_SERVER_ADDRESS)",
    )
    parser.add_argument(
        "--follow",
        action="store_true",
        help="print the job's log until it ends, and exit with the driver's own code",
    )
    parser.add_argument("--again", action="store_true", help="run again even after a success")
    parser.add_argument(
        "--working-dir", metavar="DIR", help="the code that is sent along (default: this checkout)"
    )
    other = parser.add_argument_group("instead of sending a run").add_mutually_exclusive_group()
    other.add_argument("--status", metavar="ID", help="how a job stands")
    other.add_argument("--logs", metavar="ID", help="what its driver has written")
    other.add_argument("--stop", metavar="ID", help="end it; its finished rows are kept")
    other.add_argument("--list", action="store_true", help="the runs that the cluster knows")
    return parser


if __name__ == "__main__":
    run_main(main)
