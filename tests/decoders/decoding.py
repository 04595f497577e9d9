"""Requests through an engine, to the end."""

from collections.abc import Sequence

from decoders import Engine, Request, Result


def decoded(engine: Engine, wanted: Sequence[Request]) -> dict[str, Result]:
    """The results by sid."""
    for request in wanted:
        engine.submit(request)
    found: dict[str, Result] = {}
    while engine.load:
        found |= {result.sid: result for result in engine.step()}
    return found
