"""A Ray cluster's Jobs API: who is asked, with which token, and what can go wrong in one line."""

import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jobs.errors import UserError

VARIABLE = "RAY_API_SERVER_ADDRESS"

CONNECT_S = 10.0

_TALKERS = (
    "ray._private.runtime_env",
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
)
"""Loggers that tell of every upload, ignored file and closed connection."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


class ClusterError(UserError):
    """The cluster does not answer, refuses the token, or fails: no fault of what it was asked."""


def connect(address: str | None = None) -> Any:
    """A `JobSubmissionClient` of the cluster at `address` (else of RAY_API_SERVER_ADDRESS, else of
    an RAY_ADDRESS that is a URL, else of the cluster that this process has joined).

    Raises:
        UserError: no cluster is named, none answers, or it refuses the token.
    """
    _choose_token()
    named = address or os.environ.get(VARIABLE) or os.environ.get("RAY_ADDRESS", "")
    if "://" not in named:
        named = f"http://{address}" if address else _joined()
    if "://" in named:
        _check_reachable(named)
    from ray.job_submission import JobSubmissionClient

    for talker in _TALKERS:
        logging.getLogger(talker).setLevel(logging.ERROR)
    with asking(named), _only(named):
        return JobSubmissionClient(named)


@contextmanager
def asking(address: str, job: str | None = None) -> Iterator[None]:
    """Turns what a request to the cluster may raise into an error that says how to mend it: a
    ClusterError, or a UserError where there is no such job."""
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise ClusterError(
            f"the cluster at {address} refuses this token ({_reason(error)}); set RAY_AUTH_TOKEN, "
            "or RAY_AUTH_TOKEN_PATH to a file that holds the cluster's"
        ) from error
    except (ConnectionError, OSError) as error:
        raise ClusterError(f"the cluster at {address} does not answer: {_reason(error)}") from error
    except RuntimeError as error:
        if job is not None and "status code 404" in str(error):
            raise UserError(
                f"there is no job {job} at {address}; --list names those there are"
            ) from error
        raise ClusterError(f"the cluster at {address} says: {_reason(error)}") from error


def check_id(job: str) -> str:
    """The id itself, which becomes a part of a URL.

    Raises:
        UserError: it is no submission id.
    """
    if not _ID.fullmatch(job):
        raise UserError(f"{job!r} is no submission id: letters, digits, '.', '_' and '-' only")
    return job


def _choose_token() -> None:
    """Ray sends a token only if told to before it is imported: told so wherever there is one."""
    places = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    if any(os.environ.get(place) for place in places) or (Path.home() / ".ray/auth_token").exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def _joined() -> str:
    """The address of the cluster that this process has joined, from which Ray finds the API's."""
    import ray

    if ray.is_initialized():
        return str(ray.get_runtime_context().gcs_address)
    raise UserError(
        f"no cluster is named: give --address http://HEAD:8265 or set {VARIABLE} to that "
        "(RAY_ADDRESS alone, as HOST:PORT, is not the Jobs API)"
    )


def _check_reachable(address: str) -> None:
    """Asks the port once: Ray's own client has no time limit."""
    try:
        parts = urlsplit(address)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise UserError(f"--address {address}: {error}; e.g. http://127.0.0.1:8265") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"--address {address} is no http(s) URL; e.g. http://127.0.0.1:8265")
    try:
        socket.create_connection((parts.hostname, port), timeout=CONNECT_S).close()
    except OSError as error:
        raise ClusterError(
            f"no Ray cluster answers at {address} ({error.strerror or error}); start it, or name "
            f"another one by --address or {VARIABLE}"
        ) from error


@contextmanager
def _only(address: str) -> Iterator[None]:
    """Ray lets its own variables win over an address that was given by name: not here."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = address
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def _reason(error: BaseException) -> str:
    """The line of an error that says something; Ray's may hold the server's whole traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
