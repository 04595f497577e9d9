"""A sweep from its configuration to a run directory with a report."""

import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

from cluster import commit, manifest, parts
from cluster.cells import MODES, Mode
from cluster.facts import hardware, versions
from cluster.lock import Lock, locked
from cluster.pipeline import block_rows, run
from cluster.session import Pool, plan_pool, session
from cluster.sids import Sids
from cluster.store import Store
from cluster.usage import Usage
from decoders.remote import key_of
from decoders.remote import probe as ask_server
from evaluators import sandbox
from jobs.config import RunConfig
from jobs.errors import UserError
from jobs.fit import unsplit
from jobs.plan import Plan
from jobs.progress import Display, console
from reports.analysis import analyse
from reports.render import beside, write_report
from reports.terminal_structure import summaries


def evaluate(config: RunConfig, out: str | None) -> int:
    """Runs what a configuration says, or what is missing of it, and writes the report; returns the
    exit code.

    Args:
        config: the sweep.
        out: run directory, or its URI; left out, one by the name and digest of the run.

    Raises:
        UserError and the others of `jobs.errors.MENDABLE`: what the user can mend.
        PipelineError, CommitError: the run stopped; the same call goes on where it did.
    """
    plan = Plan(config)
    place = Store.open(out or Path("runs") / plan.run_id)
    if not plan.cells:
        raise UserError("config: no decoder names a model, so there is nothing to run")
    with _directory(place), locked(place) as lock:
        return _evaluate(plan, place, lock, console())


def _evaluate(plan: Plan, out: Store, lock: Lock, screen: Console) -> int:
    _check_same(plan, out)
    success = commit.read_success(out)
    if success is not None:
        screen.print(f"{out} is finished: {success['rows']} rows, nothing to compute")
    else:
        with _begun_or_nothing(out):
            _compute(plan, out, lock, screen)
    with _as_local(out) as folder:
        found = analyse(folder)
        report = write_report(found)
        for shown in summaries(found):
            screen.print(shown)
        if out.local is None:
            out.put_all(folder, [*beside(report), report])
    screen.print(f"report: {out.path(report.name)}", soft_wrap=True)
    return 0


def _compute(plan: Plan, out: Store, lock: Lock, screen: Console) -> None:
    """Decodes what is missing and commits the run."""
    began, usage = time.monotonic(), Usage()
    created = datetime.now(UTC).isoformat(timespec="seconds")
    total = manifest.write(plan.batches(), out, commit.MANIFEST_FILE)
    screen.print(
        f"{plan.run_id}: {len(plan.cells)} cells, {total} rows, {len(plan.models)} models -> {out}",
        soft_wrap=True,
    )
    ranks = plan.config.cluster.tensor_parallel
    for name, reason in unsplit(plan.cells, ranks).items() if ranks > 1 else ():
        screen.print(f"each of the {ranks} devices holds all of {name}: {reason}")
    cut = sum(
        _cut(table) for table in manifest.read(out, commit.MANIFEST_FILE, ["truncated_tokens"])
    )
    if cut:
        screen.print(f"{cut} prompts are too long for their models and lose their beginnings")
    out.child("parts").make()
    done, statuses = parts.finished(out.child("parts"))
    pending = _pending(plan, out, done)
    if pending:
        for server in plan.servers:
            key_of(server)
        for server in {server.url: server for server in plan.servers}.values():
            ask_server(server)
    runs_programs = any(cell.kind.judged_shares is not None for cell in plan.cells)
    programs = sandbox.probe() if runs_programs and pending else None
    if programs is not None:
        screen.print(programs.reason, soft_wrap=True)
    with session() if pending else nullcontext():
        pools = {mode: _pool(plan, mode, rows) for mode, rows in pending.items()}
        if not out.exists("run.json"):
            out.put_json("run.json", _facts(plan, created, pools, programs))
        slots = max(cell.slots for cell in plan.cells)
        with Display(total, statuses, screen, out, usage) as display:

            def progress(ended: Counter[str]) -> None:
                lock.check()
                display.update(ended)

            for mode, pool in pools.items():
                run(
                    _pending_file(mode),
                    out,
                    run_id=plan.run_id,
                    cells={cell.cell_id: cell for cell in plan.cells},
                    trace=plan.config.trace,
                    pool=pool,
                    rows_per_block=plan.config.cluster.rows_per_block
                    or block_rows(pending[mode], pool.size, slots),
                    wait_s=plan.config.cluster.wait_s,
                    row_timeout_s=plan.config.cluster.row_timeout_s,
                    warmup=plan.config.cluster.warmup,
                    progress=progress,
                    usage=usage,
                )
    for mode in pending:
        out.delete(_pending_file(mode))
    lock.check()
    facts = {
        "created_at": created,
        "wall_s": round(time.monotonic() - began, 1),
        "decoding_share": usage.share,
        "config_digest": plan.digest,
    }
    commit.commit(out, plan.run_id, plan.cells, facts)


def _cut(table: pa.Table) -> int:
    """How many prompts lost their beginnings."""
    return int(pc.sum(pc.greater(table["truncated_tokens"], 0)).as_py() or 0)


@contextmanager
def _begun_or_nothing(out: Store) -> Iterator[None]:
    """Takes away what was written if a run ends by an error before it begins."""
    try:
        yield
    except BaseException:
        if not out.exists("run.json"):
            out.child("parts").delete_all()
            for name in (commit.MANIFEST_FILE, *map(_pending_file, MODES)):
                out.delete(name)
        raise


def _pending(plan: Plan, out: Store, done: Sids) -> dict[Mode, int]:
    """Writes the rows that have no result yet, a file for each mode; how many each has."""
    rows: dict[Mode, int] = {}
    for mode in plan.config.modes:
        missing = manifest.missing(out, commit.MANIFEST_FILE, mode, done)
        rows[mode] = manifest.write(missing, out, _pending_file(mode))
        if not rows[mode]:
            out.delete(_pending_file(mode))
            del rows[mode]
    return rows


def _pending_file(mode: Mode) -> str:
    return f"pending.{mode}.parquet"


@contextmanager
def _as_local(out: Store) -> Iterator[Path]:
    """A run directory that the report can be made in: a copy of what it needs where the run is no
    folder of this machine."""
    if out.local is not None:
        yield out.local
        return
    with tempfile.TemporaryDirectory() as folder:
        names = [commit.SUCCESS, "run.json"]
        names += [entry["path"] for entry in (commit.read_success(out) or {})["files"]]
        for name in names:
            target = Path(folder) / name
            target.parent.mkdir(exist_ok=True)
            with out.filesystem.open_input_stream(out.path(name)) as source:
                target.write_bytes(source.read())
        yield Path(folder)


def _pool(plan: Plan, mode: Mode, rows: int) -> Pool:
    """The actors of a mode. For servers alone one without a GPU is enough: its slots wait."""
    wanted, alone = plan.config.cluster, len(plan.servers) == len(plan.cells)
    return plan_pool(
        rows=rows,
        num_gpus=0 if alone else wanted.num_gpus,
        size=wanted.pool or (1 if alone else None),
        latency=mode == "latency",
        wait_s=wanted.wait_s,
        tensor_parallel=1 if alone else wanted.tensor_parallel,
        accelerator_type=None if alone else wanted.accelerator_type,
    )


def _facts(
    plan: Plan, created: str, pools: Mapping[Mode, Pool], programs: sandbox.Probe | None
) -> dict[str, Any]:
    """What `run.json` holds: enough to know what ran, on what, with which versions."""
    models = {
        name: {
            "source": spec.source,
            "digest": spec.digest,
            "dtype": spec.dtype,
            "slots": spec.slots,
            **plan.describe(name),
        }
        for name, spec in plan.models.items()
    }
    return {
        "run_id": plan.run_id,
        "created_at": created,
        "config_digest": plan.digest,
        "config": plan.config.model_dump(mode="json"),
        "models": models,
        "hardware": {
            **hardware(),
            "device": "cuda" if any(pool.num_gpus for pool in pools.values()) else "cpu",
            "pool": max((pool.size for pool in pools.values()), default=0),
            "threads_per_worker": max((pool.threads for pool in pools.values()), default=0),
        },
        "versions": versions(),
        "sandbox": programs.to_json() if programs is not None else None,
    }


def _check_same(plan: Plan, out: Store) -> None:
    """A directory belongs to one configuration: another one is refused, with what differs."""
    try:
        facts = json.loads(out.read("run.json"))
    except FileNotFoundError:
        return
    if facts.get("config_digest") == plan.digest:
        return
    before = RunConfig.model_validate(facts["config"]).model_dump(mode="json")
    differing = sorted(_differences(before, plan.config.model_dump(mode="json")))
    what = ", ".join(differing[:4]) or "the models or the code's versions"
    raise UserError(f"{out} holds a run with another configuration ({what}); choose another --out")


def _differences(a: Any, b: Any, place: str = "") -> Iterator[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in {*a, *b}:
            yield from _differences(a.get(key), b.get(key), f"{place}.{key}" if place else str(key))
    elif a != b:
        yield f"{place}: {a!r} there, {b!r} now"


@contextmanager
def _directory(out: Store) -> Iterator[None]:
    """Makes the directory, so that an impossible one is told before anything runs, and takes it
    away again if nothing was written there."""
    local = out.local
    made = [f for f in (local, *local.parents) if not f.exists()] if local is not None else []
    try:
        out.make()
        out.put("probe", b"?")
        out.delete("probe")
    except OSError as error:
        raise UserError(f"--out {out} is not writable: {error.strerror or error}") from error
    try:
        yield
    finally:
        for folder in made:
            with suppress(OSError):  # not empty
                folder.rmdir()
