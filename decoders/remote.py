"""Requests to an OpenAI-compatible server, as many at a time as there are slots.

The text that was asked for and the text that came back are what counts; token ids are made with the
tokenizer of the row's model, so that tables stay whole. A request that fails for good is a result
with its reason.
"""

import email.utils
import http.client
import json
import os
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from decoders.noise import seed_of
from decoders.recipes.remote import Remote
from decoders.types import DecoderError, Request, Result

MOST_STOPS = 4
"""Stop strings that the API takes; what others would stop is cut where every output is cut."""
BACKOFF_S = 0.5
"""The first pause before a retry; each next one is twice as long."""
LOOK_S = 0.05
"""How long the engine waits for an answer before it looks for new requests."""
_LARGEST = 64 * 2**20
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
"""Statuses that may be gone at the next attempt."""


@dataclass(frozen=True, slots=True)
class RemoteRequest(Request):
    """A request with the texts that a server wants."""

    prompt: str = ""
    until: tuple[str, ...] = ()
    """Stop strings."""


@dataclass(frozen=True, slots=True)
class RemoteResult(Result):
    """What a server answered. Forwards are unknown and stand as 0."""

    text: str = ""
    server_tokens: int | None = None
    """Tokens of the text as the server counted them."""
    error: str | None = None
    """Why there is no text."""


class ServerError(DecoderError):
    """The server did not give what was asked for."""

    def __init__(self, reason: str, passing: bool, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.passing, self.wait_s = passing, wait_s


class RemoteEngine:
    """Sends requests of the recipe `remote`; settings may differ from row to row.

    `decode_s` of a row is its share of the wall: time is divided evenly over the requests in
    flight, pauses between attempts included, so that it sums to the time that any was.

    Args:
        tokenizer: makes `output_ids` of the server's text.
        slots: requests in flight.
    """

    def __init__(self, tokenizer: Any, slots: int) -> None:
        if slots < 1:
            raise DecoderError(f"slots must be at least 1, got {slots}")
        self._tokenizer, self.slots = tokenizer, slots
        self._pool = ThreadPoolExecutor(slots, thread_name_prefix="remote")
        self._running: set[Future[RemoteResult]] = set()
        self._clock = _SharedClock()

    @property
    def load(self) -> int:
        return len(self._running)

    def submit(self, request: Request) -> None:
        """Queues a request. Raises `DecoderError` if it has no text or its key is not there."""
        if not isinstance(request, RemoteRequest) or not isinstance(request.decoder, Remote):
            raise DecoderError(f"{request.decoder.recipe} is no recipe for a server")
        if not request.prompt:
            raise DecoderError("the prompt is empty")
        key_of(request.decoder)
        self._running.add(self._pool.submit(self._ask, request, request.decoder))

    def step(self) -> list[Result]:
        """Waits a moment for answers and returns those that there are."""
        done, self._running = wait(self._running, timeout=LOOK_S, return_when=FIRST_COMPLETED)
        return [future.result() for future in done]

    def _ask(self, request: RemoteRequest, decoder: Remote) -> RemoteResult:
        began, entered = time.perf_counter(), self._clock.enter()
        text, tokens, error = "", None, None
        try:
            text, tokens = _complete(decoder, request)
        except DecoderError as failure:
            error = str(failure)
        share_s = self._clock.leave(entered)
        ids = self._tokenizer.encode(text, add_special_tokens=False)
        return RemoteResult(
            sid=request.sid,
            output_ids=tuple(ids),
            nfe=0,
            token_forwards=0,
            decode_s=share_s,
            latency_s=time.perf_counter() - began,
            text=text,
            server_tokens=tokens,
            error=error,
        )


def key_of(decoder: Remote) -> str | None:
    """The key that the recipe's variable holds; None if it names none.

    Raises:
        DecoderError: the variable is not set, or holds what cannot be sent.
    """
    if not decoder.api_key_env:
        return None
    key = os.environ.get(decoder.api_key_env, "").strip()
    if not key:
        decoder.refuse(f"environment variable {decoder.api_key_env} (api_key_env) is not set")
    if not (key.isascii() and key.isprintable()):
        decoder.refuse(f"environment variable {decoder.api_key_env} holds no key")
    return key


def probe(decoder: Remote) -> None:
    """Asks the server once whether it is there and takes the key.

    Raises:
        DecoderError: it does not answer, or refuses the key. A server that has no list of models
            passes.
    """
    try:
        _send(decoder, "/models", None, timeout_s=min(decoder.timeout_s, 10.0))
    except _StatusError as error:
        if error.status in (401, 403):
            decoder.refuse(f"{decoder.host}: {error}")
    except ServerError as error:
        decoder.refuse(f"no server answers at {decoder.url}: {error}")


def _complete(decoder: Remote, request: RemoteRequest) -> tuple[str, int | None]:
    """The server's text and its count of tokens, with as many attempts as the recipe allows."""
    body: dict[str, Any] = {
        "model": decoder.server_model,
        "prompt": request.prompt,
        "max_tokens": decoder.gen_length,
        "temperature": decoder.temperature,
        "seed": seed_of(request.sid) % 2**31,
    }
    if request.until:
        body["stop"] = list(request.until[:MOST_STOPS])
    pause_s = BACKOFF_S
    for left in range(decoder.retries, -1, -1):
        try:
            return _read(_send(decoder, "/completions", body, decoder.timeout_s))
        except ServerError as error:
            where = f"{decoder.host}: {error}"
            if not error.passing:
                raise DecoderError(where) from error
            if not left:
                attempts = f" ({decoder.retries + 1} attempts)" if decoder.retries else ""
                raise DecoderError(where + attempts) from error
            if error.wait_s > decoder.timeout_s:
                raise DecoderError(f"{where}; it asks to wait {error.wait_s:.0f} s") from error
            time.sleep(max(pause_s, error.wait_s))
            pause_s *= 2
    raise AssertionError("the last attempt returns or raises")


class _StatusError(ServerError):
    """The server answered with a status that is no success."""

    def __init__(self, status: int, reason: str, wait_s: float) -> None:
        super().__init__(reason, status in _PASSING, wait_s)
        self.status = status


def _send(decoder: Remote, path: str, body: Any, timeout_s: float) -> bytes:
    """What the server answers to a GET, or to a POST if there is a body."""
    headers = {"Content-Type": "application/json", "User-Agent": "unmask"}
    key = key_of(decoder)
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(decoder.url + path, data, headers)
    deadline = time.monotonic() + timeout_s
    try:
        with _OPENER.open(request, timeout=timeout_s) as response:
            return _body(response, deadline, timeout_s)
    except urllib.error.HTTPError as error:
        with error:
            line = f"HTTP {error.code} {error.reason}: {_message(error)}"
            wait_s = _wait_s(error.headers.get("Retry-After"))
        raise _StatusError(error.code, _without(key, line).rstrip(": "), wait_s) from None
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            raise ServerError(f"no answer within {timeout_s:g} s", passing=True) from None
        said = _without(key, str(reason) or type(reason).__name__)
        raise ServerError(f"connection failed: {said}", passing=True) from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host; it comes back as the status that it is."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def _body(response: Any, deadline: float, timeout_s: float) -> bytes:
    """The whole answer; one that trickles in is cut off at the deadline."""
    parts, size = [], 0
    while part := response.read1(2**16):
        parts.append(part)
        size += len(part)
        if time.monotonic() > deadline:
            raise ServerError(f"no answer within {timeout_s:g} s", passing=True)
        if size > _LARGEST:
            raise ServerError(f"the answer is larger than {_LARGEST} bytes", passing=False)
    if response.length:
        raise ServerError("connection failed: the answer ended early", passing=True)
    return b"".join(parts)


def _read(content: bytes) -> tuple[str, int | None]:
    try:
        answer = json.loads(content)
    except ValueError:
        shown = " ".join(content[:80].decode("utf-8", "replace").split())
        raise ServerError(f"the answer is no JSON: {shown!r}", passing=True) from None
    try:
        text = answer["choices"][0]["text"]
    except (KeyError, IndexError, TypeError):
        text = None
    if not isinstance(text, str):
        raise ServerError("the answer has no choices[0].text; is it a completions API?", False)
    usage = answer.get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    counted = isinstance(tokens, int) and not isinstance(tokens, bool) and tokens >= 0
    return text.encode("utf-8", "replace").decode(), tokens if counted else None


def _message(error: urllib.error.HTTPError) -> str:
    """What the server says about a failure, in one line."""
    try:
        content = error.read(2**14)
    except (OSError, http.client.HTTPException):
        return ""
    try:
        found = json.loads(content)
        found = found.get("error", found) if isinstance(found, dict) else found
        said = found.get("message", found) if isinstance(found, dict) else found
    except ValueError:
        said = content.decode("utf-8", "replace")
    return " ".join(str(said).split())[:300]


def _without(key: str | None, line: str) -> str:
    return line.replace(key, "***") if key else line


def _wait_s(stated: str | None) -> float:
    """Seconds of a Retry-After header: a number, or a date."""
    if stated is None:
        return 0.0
    try:
        return max(0.0, float(stated))
    except ValueError:
        pass
    try:
        until = email.utils.parsedate_to_datetime(stated)
    except ValueError:
        return 0.0
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())


class _SharedClock:
    """Runs as many times slower than the wall as requests are in flight."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flying, self._reading, self._at = 0, 0.0, 0.0

    def enter(self) -> float:
        """The clock's reading as a request begins."""
        return self._move(1)

    def leave(self, entered: float) -> float:
        """The seconds that the request is charged."""
        return self._move(-1) - entered

    def _move(self, change: int) -> float:
        with self._lock:
            now = time.perf_counter()
            if self._flying:
                self._reading += (now - self._at) / self._flying
            self._at = now
            self._flying += change
            return self._reading
