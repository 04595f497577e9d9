"""`python -m jobs.serve`: the service, until it is told to stop."""

import argparse
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from cluster.session import session
from jobs.errors import UserError, run_main
from jobs.progress import console
from jobs.serve.config import ServeConfig, load_serve_config
from jobs.serve.tokens import Tokens, new_token


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    if options.new_token is not None:
        token, line = new_token(options.new_token, options.roles)
        _append(options.tokens, line)
        print(token)
        return 0
    # After what takes no models: torch takes seconds to come.
    from jobs.serve.catalogue import Catalogue

    config = load_serve_config(options.config)
    told = {"host": options.host, "port": options.port}
    config = config.model_copy(update={key: value for key, value in told.items() if value})
    Tokens.read(options.tokens)
    Catalogue(config.models, config.limits)
    if config.evaluations is not None and not config.evaluations.configs.is_dir():
        raise UserError(f"evaluations.configs {config.evaluations.configs} is not a directory")
    _check_port(config.host, config.port)
    if config.evaluations is not None and not (
        config.evaluations.address or os.environ.get("RAY_ADDRESS")
    ):
        raise UserError(
            "evaluations: runs are Ray jobs, which the Ray that this command starts does not take; "
            "name a cluster by RAY_ADDRESS, or its Jobs API by evaluations.address"
        )
    with session():
        return _serve(config, options.tokens.resolve())


def _serve(config: ServeConfig, tokens: Path) -> int:
    import ray
    from ray import serve

    from jobs.serve.application import NAME, application

    stop = threading.Event()

    def asked(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):  # Ray has put its own in their place
        signal.signal(number, asked)
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    total = ray.cluster_resources()
    screen = console()
    screen.print(f"loading {', '.join(config.models)}", soft_wrap=True)
    serve.start(http_options={"host": config.host, "port": config.port})
    try:
        handle: Any = serve.run(
            application(config, tokens, int(total.get("CPU", 1)), total.get("GPU", 0.0)),
            name=NAME,
            route_prefix="/",
        )
        screen.print(f"serving at http://{config.host}:{config.port}", soft_wrap=True)
        stop.wait()
        screen.print("draining: no new requests")
        deadline = time.monotonic() + config.limits.drain_s
        while handle.drain.remote().result() and time.monotonic() < deadline:
            time.sleep(0.2)
    finally:
        serve.shutdown()
    screen.print("stopped")
    return 0


def _append(path: Path, line: str) -> None:
    try:
        with open(path, "a", encoding="utf-8", opener=_private) as stream:
            stream.write(line + "\n")
    except OSError as error:
        raise UserError(f"--tokens {path} cannot be written: {error.strerror}") from error


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _check_port(host: str, port: int) -> None:
    """Tells of a port that is taken before anything is loaded; Serve would not."""
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        raise UserError(f"{host}:{port} cannot be listened at: {error.strerror}") from error


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m jobs.serve",
        description="Serve models behind OpenAI's API, with denoising steps in the stream; take "
        "evaluations, show reports. Ends on SIGTERM once its requests have ended.",
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="YAML (default: the bundled models)"
    )
    parser.add_argument(
        "--tokens",
        type=Path,
        default=Path("tokens.txt"),
        metavar="FILE",
        help="who may come in: names, roles and digests (default: %(default)s)",
    )
    parser.add_argument("--host", metavar="ADDRESS", help="default: the config's, else 127.0.0.1")
    parser.add_argument("--port", type=int, metavar="N", help="default: the config's, else 8000")
    parser.add_argument(
        "--new-token",
        metavar="NAME",
        help="add a token to the file, print it once, and serve nothing",
    )
    parser.add_argument(
        "--roles",
        default="read,submit",
        metavar="ROLE[,ROLE]",
        help="of --new-token: read, submit (default: both)",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run_main(main)
