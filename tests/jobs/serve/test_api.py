"""Completions, streams of denoising steps, and what is refused."""

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from decoders import Request, find_checkpoint, load_model, load_tokenizer, make_decoder, make_engine
from jobs.serve.config import Limits
from jobs.serve.door import Door

PROMPT = "Question: Tom has 3 apples and buys 4 more. How many apples does he have?\nAnswer:"
SETTINGS = {"gen_length": 16, "steps": 8, "block_length": 8}


def ask(client: TestClient, path: str = "/v1/completions", **fields: Any) -> Any:
    body = {"model": "tiny-mdlm", **({"prompt": PROMPT} if "messages" not in fields else {})}
    return client.post(path, json={**body, **fields})


def events(text: str) -> list[Any]:
    found = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    assert found[-1] == "[DONE]"
    return [json.loads(event) for event in found[:-1]]


def test_a_completion_is_what_the_engine_writes(client: TestClient) -> None:
    checkpoint = find_checkpoint("tiny-mdlm")
    tokenizer = load_tokenizer(checkpoint)
    engine = make_engine(load_model(checkpoint), make_decoder("llada", SETTINGS), slots=1)
    request = Request("x", tuple(tokenizer.encode(PROMPT)), make_decoder("llada", SETTINGS))
    engine.submit(request)
    done: list[Any] = []
    while not done:
        done = engine.step()
    answer = ask(client).json()
    expected = tokenizer.decode(done[0].output_ids).split("<|")[0]
    assert answer["choices"][0]["text"].startswith(expected[:10])
    assert answer["diffusion"]["nfe"] == done[0].nfe == 8
    assert answer["diffusion"]["token_forwards"] == done[0].token_forwards
    assert answer["usage"]["prompt_tokens"] == len(request.prompt_ids)


@pytest.mark.parametrize("model", ["tiny-mdlm", "tiny-ar"])
def test_a_stream_tells_every_token_once_and_the_same_text(client: TestClient, model: str) -> None:
    whole = ask(client, model=model).json()
    streamed = events(ask(client, model=model, stream=True).text)
    *steps, last = streamed
    text = "".join(event["choices"][0]["text"] for event in streamed)
    assert text == whole["choices"][0]["text"]
    assert last["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    places = [c["position"] for event in steps for c in event["diffusion"]["committed"]]
    assert len(places) == len(set(places)) > 0
    if model == "tiny-mdlm":
        assert len(steps) == 8
        assert sorted(places) == list(range(16))
        assert [event["diffusion"]["masks"] for event in steps] == [14, 12, 10, 8, 6, 4, 2, 0]


def test_a_stream_ends_with_its_usage_where_that_is_asked_for(client: TestClient) -> None:
    options = {"include_usage": True}
    whole = ask(client).json()
    *_, before, last = events(ask(client, stream=True, stream_options=options).text)
    assert before["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert (last["choices"], last["usage"]) == ([], whole["usage"])


def test_stop_strings_never_show_in_a_stream(client: TestClient) -> None:
    whole = ask(client, model="tiny-ar").json()["choices"][0]["text"]
    stop = whole[3:6]
    cut = ask(client, model="tiny-ar", stop=stop).json()["choices"][0]
    streamed = events(ask(client, model="tiny-ar", stop=stop, stream=True).text)
    assert cut["text"] == whole[: whole.index(stop)]
    assert cut["finish_reason"] == "stop"
    assert "".join(event["choices"][0]["text"] for event in streamed) == cut["text"]


def test_a_chat_is_wrapped_in_the_template(client: TestClient) -> None:
    messages = [{"role": "user", "content": "What is 2 + 2?"}]
    answer = ask(client, "/v1/chat/completions", messages=messages).json()
    assert answer["choices"][0]["message"]["role"] == "assistant"
    plain = ask(client, prompt="user: What is 2 + 2?\nassistant:").json()
    assert answer["choices"][0]["message"]["content"] == plain["choices"][0]["text"]
    refused = ask(client, "/v1/chat/completions", model="tiny-ar", messages=messages)
    assert refused.status_code == 400
    assert "no chat template" in refused.json()["error"]["message"]


def test_equal_requests_have_equal_answers_and_seeds_differ(client: TestClient) -> None:
    warm = {"temperature": 1.0}
    texts = [ask(client, seed=seed, **warm).json()["choices"][0]["text"] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"model": "gpt-9"}, 404, "there is no model 'gpt-9'"),
        ({"diffusion": {"decoder": "lladaa"}}, 400, "did you mean 'llada'"),
        ({"diffusion": {"settings": {"step": 8}}}, 400, "did you mean 'steps'"),
        ({"diffusion": {"settings": {"steps": 7}}}, 400, "multiple of the 2 blocks"),
        ({"diffusion": {"decoder": "ar"}}, 400, "needs a causal model"),
        ({"diffusion": {"decoder": "likelihood"}}, 400, "is not served"),
        ({"diffusion": {"decoder": "remote", "settings": {"url": "http://x"}}}, 400, "remote"),
        (
            {"diffusion": {"decoder": "guided", "settings": {"guider": "/etc"}}},
            400,
            "'/etc' is no model of the service",
        ),
        ({"max_tokens": 128}, 400, "must be at most 64"),
        ({"diffusion": {"settings": {"steps": 4096}}}, 400, "must be at most 64"),
        ({"diffusion": {"settings": {"gen_length": 12}}}, 400, "multiple of block_length"),
        ({"prompt": ""}, 400, "the prompt is empty"),
        ({"prompt": [2**30]}, 400, "outside the"),
        ({"prompt": "word " * 5000}, 400, "positions"),
        ({"logprobs": 5}, 400, "Extra inputs are not permitted"),
        ({"n": 2}, 400, "Input should be 1"),
        ({"prompt": "\ud800"}, 400, "unable to parse raw data as a unicode string"),
    ],
)
def test_what_is_refused(
    client: TestClient, fields: dict[str, Any], status: int, words: str
) -> None:
    body = {"model": "tiny-mdlm", "prompt": PROMPT, **fields}
    for stream in (False, True):
        answer = client.post(
            "/v1/completions",
            content=json.dumps({**body, "stream": stream}),
            headers={"content-type": "application/json"},
        )
        assert answer.status_code == status, answer.text
        assert words in answer.json()["error"]["message"]
    assert ask(client).status_code == 200


@pytest.mark.parametrize(
    "name",
    ["../tokens.txt", "/etc/passwd", "a/../../b.yaml", ".hidden", "%2e%2e/x", "a\0.yaml", ""],
)
def test_a_configuration_outside_its_folder_has_no_name(client: TestClient, name: str) -> None:
    answer = client.post("/v1/evaluations", json={"config": name})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "config"


def test_malformed_and_large_bodies(client: TestClient) -> None:
    header = {"content-type": "application/json"}
    assert client.post("/v1/completions", content=b"{", headers=header).status_code == 400
    assert client.post("/v1/completions", content=b"\xff\xfe", headers=header).status_code == 400
    large = client.post("/v1/completions", content=b" " * 200_000, headers=header)
    assert large.status_code == 413

    def trickle() -> Any:
        for _ in range(20):
            yield b" " * 10_000

    assert client.post("/v1/completions", content=trickle(), headers=header).status_code == 413


def test_tokens_and_roles(client: TestClient, tokens: dict[str, str]) -> None:
    def status(method: str, path: str, token: str | None) -> int:
        header = {"Authorization": f"Bearer {token}"} if token else {"Authorization": ""}
        return client.request(method, path, headers=header, json={}).status_code

    assert status("GET", "/healthz", None) == 200
    for path in ("/v1/models", "/openapi.json", "/reports/", "/nowhere"):
        assert status("GET", path, None) == 401
        assert status("GET", path, "unmask-wrong") == 401
    assert status("GET", "/v1/models", tokens["reader"]) == 200
    assert status("POST", "/v1/completions", tokens["reader"]) == 403
    basic = client.get("/v1/models", auth=("anybody", tokens["reader"]))
    assert basic.status_code == 200


def test_any_number_of_tokens_may_be_asked_for(client: TestClient) -> None:
    answer = ask(client, max_tokens=13).json()
    assert answer["diffusion"]["settings"]["gen_length"] == 16
    assert answer["usage"]["completion_tokens"] <= 13
    streamed = events(ask(client, max_tokens=13, stream=True).text)
    text = "".join(event["choices"][0]["text"] for event in streamed)
    assert text == answer["choices"][0]["text"]
    longer = ask(client, max_tokens=20).json()["diffusion"]
    assert (longer["settings"]["gen_length"], longer["nfe"]) == (24, 12)


def test_a_full_model_says_503_and_a_busy_token_429(make_client: Any) -> None:
    with make_client(limits=Limits(queue=0, per_token=64)) as client:
        places = client.app.state.load
        holder = next(iter(_holders(client)))
        leave = [places.enter("tiny-mdlm", 4, holder) for _ in range(4)]
        answer = ask(client)
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        for each in leave:
            each()
        assert ask(client).status_code == 200
    with make_client(limits=Limits(per_token=1)) as client:
        client.app.state.load.enter("tiny-ar", 4, next(iter(_holders(client))))
        assert ask(client).status_code == 429


def _holders(client: TestClient) -> Any:
    door = next(m for m in client.app.user_middleware if m.cls is Door)
    tokens = door.kwargs["tokens"]
    return [tokens.holder(client.headers["authorization"])]


def test_a_draining_service_takes_nothing_more(client: TestClient) -> None:
    client.app.state.load.draining = True
    assert client.get("/healthz").status_code == 503
    assert ask(client).status_code == 503


def test_every_place_is_given_back(client: TestClient) -> None:
    ask(client)
    ask(client, stream=True)
    ask(client, prompt="")
    assert client.app.state.load.of("tiny-mdlm") == 0
    assert client.app.state.load.open == 0
