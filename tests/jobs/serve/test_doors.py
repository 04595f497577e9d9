"""Tokens, pages and what an evaluation may ask for."""

from pathlib import Path

import pytest
from starlette.exceptions import HTTPException

from jobs.config import load_config
from jobs.errors import UserError
from jobs.serve.catalogue import BadRequest
from jobs.serve.config import Evaluations, load_serve_config
from jobs.serve.evaluations import EvaluationService
from jobs.serve.pages import page
from jobs.serve.protocol import EvaluationRequest
from jobs.serve.tokens import Tokens, new_token


def test_a_token_is_stored_as_a_digest_alone(tmp_path: Path) -> None:
    token, line = new_token("ci", "read")
    assert token not in line
    file = tmp_path / "tokens.txt"
    file.write_text(f"# who\n\n{line}\n")
    tokens = Tokens.read(file)
    holder = tokens.holder(f"Bearer {token}")
    assert holder is not None
    assert (holder.name, holder.roles) == ("ci", {"read"})
    for wrong in ("", "Bearer", f"Bearer {token}x", f"Basic {token}", "Basic !!", "Digest x"):
        assert tokens.holder(wrong) is None


@pytest.mark.parametrize(
    "line", ["", "ci read", "ci write " + "0" * 64, "ci read 1234", "ci read zz"]
)
def test_a_broken_token_file_is_one_line(tmp_path: Path, line: str) -> None:
    file = tmp_path / "tokens.txt"
    file.write_text(line + "\n")
    with pytest.raises(UserError, match=r"tokens"):
        Tokens.read(file)


def test_pages_stay_below_their_root(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    (root / "run").mkdir(parents=True)
    (root / "run" / "report.html").write_text("<p>here")
    (root / "run" / "notes.py").write_text("secret")
    (root / ".hidden.html").write_text("secret")
    (tmp_path / "out.html").write_text("secret")
    (root / "link.html").symlink_to(tmp_path / "out.html")
    assert page(root, "run").status_code == 200
    assert page(root, "run/report.html").status_code == 200
    (root / "run" / "report.data").mkdir()
    (root / "run" / "report.data" / "0a.js").write_text("part()")
    assert page(root, "run/report.data/0a.js").media_type == "text/javascript; charset=utf-8"
    for path in (
        "",
        "../out.html",
        "run/../../out.html",
        "/etc/passwd",
        "link.html",
        ".hidden.html",
        "run/notes.py",
        "run/%2e%2e/out.html",
        "a" * 5000,
        "x\0.html",
    ):
        with pytest.raises(HTTPException) as refused:
            page(root, path)
        assert refused.value.status_code == 404


def service(tmp_path: Path, **settings: object) -> EvaluationService:
    return EvaluationService(Evaluations.model_validate({"out": tmp_path, **settings}), None)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("models.tiny-mdlm.source=/etc", "'/etc' is not one that this service may load"),
        ("models.x.source=GSAI-ML/LLaDA-8B-Base", "is not one that this service may load"),
        ("tasks.gsm8k.data=/etc", "not a folder that this service may read"),
        ("tasks={lm_eval:/tmp/t.yaml: {}}", "task 'lm_eval:/tmp/t.yaml' is not one of"),
        ("decoders.0.settings.url=http://169.254.169.254", "asks no such server"),
        ("decoders.0.settings.api_key_env=AWS_SECRET", "api_key_env cannot be set here"),
        ("decoders.0.settings.drafter=/etc", "'/etc' is not one that this service may load"),
        ("nonsense=1", "unknown key 'nonsense'"),
    ],
)
def test_an_evaluation_reads_only_what_is_listed(tmp_path: Path, override: str, words: str) -> None:
    asked = EvaluationRequest(config="embedded.yaml", set=[override])
    with pytest.raises(BadRequest) as refused:
        service(tmp_path).submit(asked)
    assert words in str(refused.value)


def test_what_is_listed_may_be_read(tmp_path: Path) -> None:
    overrides = ["models.big.source=org/big", "tasks.gsm8k.data=/data/new"]
    config = load_config(None, overrides)
    service(tmp_path, sources=["org/big"], data=["/data/new"])._check(config)
    with pytest.raises(UserError):
        service(tmp_path)._check(config)


def test_an_unknown_configuration_or_job_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"no configuration nothing\.yaml: .*embedded\.yaml"):
        service(tmp_path).submit(EvaluationRequest(config="nothing.yaml"))
    for job in ("../etc", "a b", "x" * 500):
        with pytest.raises(BadRequest, match="there is no evaluation") as refused:
            service(tmp_path).state(job)
        assert refused.value.status == 404


def test_a_mistake_in_the_services_own_configuration_is_named(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("models: {tiny-ar: {decoder: ar, slotz: 3}}\n")
    with pytest.raises(UserError, match=r"models\.tiny-ar\.slotz.*did you mean 'slots'"):
        load_serve_config(file)
