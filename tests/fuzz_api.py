"""`python -m tests.fuzz_api`: what a service's own OpenAPI document allows, and what it does not.

schemathesis makes both kinds of request for every operation of a running service, or of one that
this command starts. Every other request that names a model names one that is served, else few would
get as far as an engine. No answer may be a 5xx but a 503 that says when to come back (Retry-After).
"""

import argparse
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings

from jobs.serve.tokens import new_token
from tests.jobs.serve.running import running

CONFIG = """
models:
  tiny-mdlm: {decoder: llada, settings: {gen_length: 16, steps: 8, block_length: 8}}
  tiny-ar: {decoder: ar, settings: {gen_length: 16}}
limits: {body_bytes: 100000, max_tokens: 64, max_steps: 64}
"""
TOKEN = "UNMASK_TOKEN"

Counts = Counter[tuple[str, int]]


def fuzz(schema: Any, headers: dict[str, str], requests: int, model: str) -> Counts:
    """Sends at least so many requests, the same number for each operation and each kind as far as
    there are different ones; returns the answers by operation and status. `model` is served.

    Raises:
        AssertionError: the service failed; says what it was asked.
    """
    counts: Counts = Counter()
    operations = [operation.ok() for operation in schema.get_all_operations()]
    modes = list(schemathesis.GenerationMode)
    turn = 0
    while (left := requests - counts.total()) > 0:
        each = max(5, -(-left // (len(operations) * len(modes))))
        for operation in operations:
            for mode in modes:
                _send(operation, mode, headers, each, turn, model, counts)
        turn += 1
    return counts


def _send(
    operation: Any,
    mode: Any,
    headers: dict[str, str],
    examples: int,
    turn: int,
    model: str,
    counts: Counts,
) -> None:
    @seed(turn)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def once(case: Any) -> None:
        body = case.body
        if isinstance(body, dict) and isinstance(body.get("model"), str) and counts.total() % 2:
            body["model"] = model
        answer = case.call(headers=headers)
        counts[operation.label, answer.status_code] += 1
        told = answer.status_code == 503 and "retry-after" in answer.headers
        assert answer.status_code < 500 or told, (operation.label, case.body, answer.text)

    once()


def show(counts: Counts) -> str:
    """A line an operation, and one for all."""
    lines = []
    for label in sorted({label for label, _ in counts}):
        statuses = {status: n for (other, status), n in sorted(counts.items()) if other == label}
        told = "  ".join(f"{status}: {n}" for status, n in statuses.items())
        lines.append(f"{label:36} {sum(statuses.values()):5}   {told}")
    every: Counter[int] = Counter()
    for (_, status), n in counts.items():
        every[status] += n
    told = "  ".join(f"{status}: {n}" for status, n in sorted(every.items()))
    return "\n".join([*lines, f"{'in all':36} {every.total():5}   {told}"])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz_api", description=__doc__)
    parser.add_argument("--requests", type=int, default=2000, metavar="N", help="at least")
    parser.add_argument(
        "--url", help=f"of a running service, whose token is in {TOKEN}; left out: starts one"
    )
    parser.add_argument(
        "--model", default="tiny-mdlm", help="that it serves (default: %(default)s)"
    )
    options = parser.parse_args()
    if options.url:
        print(_fuzz_url(options.url, os.environ[TOKEN], options.requests, options.model))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        token, line = new_token("fuzz", "read,submit")
        tokens = Path(folder) / "tokens.txt"
        tokens.write_text(f"{line}\n")
        with running(Path(folder), CONFIG, tokens, token) as service:
            print(_fuzz_url(service.url, token, options.requests, options.model))
    return 0


def _fuzz_url(url: str, token: str, requests: int, model: str) -> str:
    headers = {"Authorization": f"Bearer {token}"}
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", headers=headers)
    return show(fuzz(schema, headers, requests, model))


if __name__ == "__main__":
    sys.exit(main())
