"""The whole service on Ray Serve, in a process of its own."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import requests

ROOT = Path(__file__).resolve().parent.parent.parent.parent


class Service(NamedTuple):
    url: str
    token: str
    process: "subprocess.Popen[str]"

    def ask(self, method: str, path: str, **options: Any) -> requests.Response:
        header = {"Authorization": f"Bearer {self.token}"}
        return requests.request(method, self.url + path, headers=header, timeout=120, **options)


@contextmanager
def running(folder: Path, config: str, tokens_file: Path, token: str) -> Iterator[Service]:
    """Starts it on a free port, with a Ray of its own."""
    (folder / "serve.yaml").write_text(config)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jobs.serve", "--config", str(folder / "serve.yaml")]
    process = subprocess.Popen(
        [*command, "--tokens", str(tokens_file), "--port", str(port)],
        cwd=ROOT,
        env={**os.environ, "RAY_ADDRESS": "local"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if line.startswith("serving at "):
                break
        assert "serving at " in said, said
        yield Service(f"http://127.0.0.1:{port}", token, process)
    finally:
        process.kill()
        process.wait()
