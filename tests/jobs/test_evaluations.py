"""Runs that are asked for through the service, as jobs of a real head."""

from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from jobs.client import connect
from jobs.serve.api import make_app
from jobs.serve.config import Evaluations, ServeConfig, ServedModel
from jobs.serve.evaluations import EvaluationService
from jobs.serve.metrics import Meters
from jobs.serve.tokens import Tokens, new_token
from tests.jobs.head import LIMIT_S, free_ports, until

CONFIG = """
name: asked
models: {tiny-ar: {}}
tasks: {gsm8k-resampled: {}}
decoders: [{recipe: ar, models: [tiny-ar], settings: {gen_length: 16}}]
cluster: {pool: 1}
trace: false
"""


class NoModels:
    """A backend that nothing here asks."""

    async def complete(self, *_: Any) -> Any:
        raise NotImplementedError

    def stream(self, *_: Any) -> Any:
        raise NotImplementedError


def service(folder: Path, address: str) -> tuple[TestClient, dict[str, dict[str, str]]]:
    """A client of a service whose runs go to that cluster, and a header for each role."""
    (folder / "configs").mkdir()
    (folder / "configs" / "tiny.yaml").write_text(CONFIG)
    runs = folder / "runs"
    runs.mkdir()
    made = {role: new_token(role, role) for role in ("read", "submit")}
    (folder / "tokens.txt").write_text("\n".join(line for _, line in made.values()))
    config = ServeConfig(
        models={"tiny-ar": ServedModel(decoder="ar")},
        evaluations=Evaluations(configs=folder / "configs", out=runs, address=address),
        reports=runs,
    )
    assert config.evaluations is not None
    evaluations = EvaluationService(config.evaluations, config.reports)
    tokens = Tokens.read(folder / "tokens.txt")
    app = make_app(config, tokens, NoModels(), evaluations, Meters())
    headers = {role: {"Authorization": f"Bearer {token}"} for role, (token, _) in made.items()}
    return TestClient(app, raise_server_exceptions=False), headers


def test_a_run_is_asked_for_followed_read_and_another_is_stopped(head: str, tmp_path: Path) -> None:
    client, headers = service(tmp_path, head)
    read, submit = headers["read"], headers["submit"]
    asked = {"config": "tiny.yaml", "limit": 2}

    refused = client.post("/v1/evaluations", json=asked, headers=read)
    assert refused.status_code == 403
    first = client.post("/v1/evaluations", json=asked, headers=submit)
    assert first.status_code == 201, first.text
    job = first.json()["id"]
    assert client.post("/v1/evaluations", json=asked, headers=submit).json()["id"] == job
    other = client.post("/v1/evaluations", json={**asked, "limit": 3}, headers=submit).json()["id"]
    assert other != job
    cancel = f"/v1/evaluations/{other}/cancel"
    assert client.post(cancel, headers=read).status_code == 403
    assert client.post(cancel, headers=submit).status_code == 200

    ray = connect(head)
    ray.submit_job(entrypoint="true", submission_id="stranger")
    for unknown in ("nobody-a1", "stranger", f"{job[:-1]}7"):
        assert client.get(f"/v1/evaluations/{unknown}", headers=read).status_code == 404
        stop = f"/v1/evaluations/{unknown}/cancel"
        assert client.post(stop, headers=submit).status_code == 404

    def state(of: str) -> dict[str, Any]:
        found: dict[str, Any] = client.get(f"/v1/evaluations/{of}", headers=read).json()
        return found

    until(lambda: state(other)["status"] == "STOPPED", LIMIT_S, lambda: state(other))
    going = ("PENDING", "RUNNING")
    until(lambda: state(job)["status"] not in going, LIMIT_S, lambda: ray.get_job_logs(job))
    ended = state(job)
    assert ended["status"] == "SUCCEEDED", ray.get_job_logs(job)
    assert (ended["progress"]["state"], ended["progress"]["done"]) == ("decoded", 2)
    assert client.post("/v1/evaluations", json=asked, headers=submit).json()["id"] == job
    ours = [found.submission_id for found in ray.list_jobs()]
    assert ours.count(job) == 1
    assert client.get(ended["report"]).status_code == 401
    report = client.get(ended["report"], headers=read)
    assert report.status_code == 200
    assert report.headers["content-type"].startswith("text/html")
    assert "tiny-ar" in report.text


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_cluster_that_does_not_answer_is_a_503(tmp_path: Path, method: str) -> None:
    (port,) = free_ports(1)
    client, headers = service(tmp_path, f"http://127.0.0.1:{port}")
    path = "/v1/evaluations" if method == "POST" else "/v1/evaluations/asked-0a1b-a1"
    body = {"config": "tiny.yaml"} if method == "POST" else None
    answer = client.request(method, path, json=body, headers=headers["submit"])
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert "no Ray cluster answers" in answer.json()["error"]["message"]
