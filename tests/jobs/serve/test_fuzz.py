"""Whatever its own OpenAPI document allows, and what it does not, the service answers: no 5xx."""

from collections import Counter
from typing import Any

import schemathesis

from tests.fuzz_api import fuzz


def test_no_request_makes_the_service_fail(make_client: Any) -> None:
    client = make_client()
    headers = dict(client.headers)
    schema = schemathesis.openapi.from_asgi("/openapi.json", client.app, headers=headers)
    counts = fuzz(schema, headers, 200, "tiny-mdlm")
    statuses: Counter[int] = Counter()
    for (_, status), number in counts.items():
        statuses[status] += number
    assert len({label for label, _ in counts}) == 8
    assert statuses.total() >= 200
    assert max(statuses) < 500, "503 is for a service that is full or ends"
    assert counts["POST /v1/completions", 200] > 0, "some get as far as the engine"
