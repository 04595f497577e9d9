"""The whole service on Ray Serve: the official client, and the way out."""

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI

from tests.jobs.serve.running import Service, running

CONFIG = """
models:
  tiny-mdlm: {decoder: llada, settings: {gen_length: 32, steps: 32, block_length: 32}}
"""
PROMPT = "Question: Tom has 3 apples and buys 4 more. How many apples does he have?\nAnswer:"


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, tokens: dict[str, str], tokens_file: Path
) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    with running(folder, CONFIG, tokens_file, tokens["submitter"]) as service:
        yield service


def test_the_official_client_is_answered(service: Service) -> None:
    client = OpenAI(base_url=f"{service.url}/v1", api_key=service.token, max_retries=0)
    whole = client.completions.create(model="tiny-mdlm", prompt=PROMPT)
    extra = {"diffusion": {"settings": {"steps": 32}}}
    chunks = list(
        client.completions.create(model="tiny-mdlm", prompt=PROMPT, stream=True, extra_body=extra)
    )
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert len(chunks) == 33
    assert [model.id for model in client.models.list()] == ["tiny-mdlm"]
    assert service.ask("GET", "/nowhere").status_code == 404


def test_sigterm_lets_a_stream_end(service: Service) -> None:
    """Last: it ends the service."""
    body = {"model": "tiny-mdlm", "prompt": PROMPT, "stream": True}
    events: list[str] = []
    begun = threading.Event()

    def read() -> None:
        answer = service.ask("POST", "/v1/completions", json=body, stream=True)
        for line in answer.iter_lines(decode_unicode=True):
            if line:
                events.append(line)
                begun.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert begun.wait(60)
    service.process.send_signal(signal.SIGTERM)
    reader.join(60)
    assert events[-1] == "data: [DONE]"
    assert service.process.wait(90) == 0
