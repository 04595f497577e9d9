"""The recipes by name."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from decoders.names import nearest
from decoders.recipes import ALL, Decoder
from decoders.types import DecoderError

RECIPES: dict[str, type[Decoder]] = {kind.recipe: kind for kind in ALL}


def make_decoder(recipe: str, settings: Mapping[str, Any]) -> Decoder:
    """A recipe with its settings; a wrong name or setting names the nearest valid one."""
    if recipe not in RECIPES:
        raise DecoderError(f"there is no decoder {recipe!r}{nearest(recipe, RECIPES)}")
    kind = RECIPES[recipe]
    valid = typing.get_type_hints(kind)
    names = {field.name for field in dataclasses.fields(kind)}
    values: dict[str, Any] = {}
    for key, value in settings.items():
        if key not in names:
            raise DecoderError(f"{recipe} has no setting {key!r}{nearest(key, names)}")
        values[key] = _fitted(recipe, key, value, valid[key])
    return kind(**values)


def _fitted(recipe: str, key: str, value: Any, wanted: Any) -> Any:
    """The value in its setting's type; 1 and 1.0 are one setting, with one fingerprint."""
    union = typing.get_origin(wanted) in (typing.Union, types.UnionType)
    kinds = typing.get_args(wanted) if union else (wanted,)
    if value is None and type(None) in kinds:
        return None
    if isinstance(value, bool):
        if bool in kinds:
            return value
    elif isinstance(value, int) and int in kinds:
        return value
    elif isinstance(value, int | float) and float in kinds:
        return float(value)
    elif isinstance(value, str) and (
        str in kinds or any(typing.get_origin(kind) is typing.Literal for kind in kinds)
    ):
        return value
    options = [option for kind in kinds for option in typing.get_args(kind)]
    named = [getattr(kind, "__name__", "") for kind in kinds if kind is not type(None)]
    text = ", ".join(map(str, options)) or " or ".join(named)
    raise DecoderError(f"{recipe}: {key} must be {text}, got {value!r}")
