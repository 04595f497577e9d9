"""The points of a sweep."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import decoders
from jobs.config import DecoderConfig
from jobs.errors import UserError


def sweep(entry: DecoderConfig, task: str) -> Iterator["decoders.Decoder"]:
    """The decoders of an entry for a task: every combination of the listed settings."""
    settings: Mapping[str, Any] = {**entry.settings, **entry.per_task.get(task, {})}
    axes = [value if isinstance(value, list) else [value] for value in settings.values()]
    for key, axis in zip(settings, axes, strict=True):
        if not axis:
            raise UserError(f"decoder {entry.recipe}: {key} is an empty list")
    for point in itertools.product(*axes):
        yield decoders.make_decoder(entry.recipe, dict(zip(settings, point, strict=True)))
