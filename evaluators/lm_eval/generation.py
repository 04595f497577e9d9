"""From lm-eval's generation arguments to a decoder, and from a decoder's tokens to text."""

import dataclasses
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from lm_eval.models.utils import normalize_gen_kwargs

from decoders import RECIPES, Decoder, DecoderError, make_decoder, nearest
from evaluators.text import cut

DEFAULT_TOKENS = 256
"""What lm-eval's own models write where neither the task nor the user says how much."""

_LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_UNDERSTOOD = {"until", "do_sample", "temperature", *_LIMITS}

_log = logging.getLogger(__name__)


class Wanted(NamedTuple):
    """What one request asks for."""

    decoder: Decoder
    until: tuple[str, ...]
    limit: int | None
    """Most tokens that are kept; None: all that the decoder writes."""


class Settings:
    """A recipe with the settings of `--model_args`, completed by each request's own arguments.

    What the model arguments say about length and temperature wins over the task, since they
    are this run's and the task's are everybody's. A setting of the recipe that lm-eval does not
    know, such as `steps`, can only come from `--gen_kwargs`, and wins over the model arguments.

    Args:
        recipe: Name of the decoder.
        given: Its settings; values are typed.
        encode: Text to token ids, for the settings that hold text.

    Raises:
        DecoderError: The recipe or a setting does not exist, or a value is not valid.
    """

    def __init__(
        self, recipe: str, given: Mapping[str, Any], encode: Callable[[str], Sequence[int]]
    ) -> None:
        if recipe not in RECIPES:
            raise DecoderError(f"there is no decoder {recipe!r}{nearest(recipe, RECIPES)}")
        self.recipe, self.given = recipe, dict(given)
        self._encode = encode
        self._names = {field.name for field in dataclasses.fields(RECIPES[recipe])}
        self._known: dict[str, Wanted] = {}
        self._said: set[str] = set()
        for name in self.given.keys() - self._names:
            raise DecoderError(f"{recipe} has no setting {name!r}{nearest(name, self._names)}")
        if "gen_length" in self.given:  # else whether it fits is known with the first request
            make_decoder(recipe, self.given)

    def wanted(self, arguments: Mapping[str, Any]) -> Wanted:
        """What a request with these generation arguments asks for.

        Raises:
            DecoderError: The settings do not go together.
        """
        key = json.dumps(arguments, sort_keys=True, default=str)
        if key not in self._known:
            self._known[key] = self._complete(arguments)
        return self._known[key]

    def _complete(self, arguments: Mapping[str, Any]) -> Wanted:
        asked = normalize_gen_kwargs(dict(arguments), DEFAULT_TOKENS)
        added = {
            name: value
            for name, value in arguments.items()
            if name in self._names and name not in _UNDERSTOOD
        }
        settings = self.given | added
        tokens, limit = int(asked["max_gen_toks"]), None
        if "gen_length" not in settings:
            limit, settings["gen_length"] = tokens, _whole_blocks(tokens, settings)
        elif any(name in arguments for name in _LIMITS) and tokens != settings["gen_length"]:
            self._say(f"gen_length={settings['gen_length']} is used, not max_gen_toks={tokens}")
        if asked["do_sample"] and "temperature" not in self.given:
            settings["temperature"] = asked.get("temperature") or 0.0
        for name in arguments.keys() - self._names - _UNDERSTOOD:
            self._say(f"the generation argument {name!r} has no meaning for {self.recipe}: ignored")
        decoder = make_decoder(self.recipe, settings).resolved(self._encode)
        until = tuple(stop for stop in asked["until"] if stop)
        return Wanted(decoder, until, limit)

    def _say(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            _log.warning(message)


def _whole_blocks(tokens: int, settings: Mapping[str, Any]) -> int:
    """The canvas for so many tokens: no shorter, and of whole blocks where they are given."""
    block = settings.get("block_length")
    if not isinstance(block, int) or block < 1:
        return tokens
    return -(-tokens // block) * block


class Detokenizer:
    """Token ids to the text that counts: up to the model's stop tokens and the stop strings.

    Special tokens stay in the text, so that a mask that is left can be seen in it.
    """

    def __init__(self, tokenizer: Any, stop_ids: frozenset[int]) -> None:
        self._tokenizer, self._stop_ids = tokenizer, stop_ids

    def text(self, ids: Sequence[int], wanted: Wanted) -> str:
        end = next((n for n, token in enumerate(ids) if token in self._stop_ids), len(ids))
        kept = end if wanted.limit is None else min(end, wanted.limit)
        return cut(self._decode(ids[:kept]), wanted.until)

    def completes(self, until: Sequence[str]) -> Callable[[Sequence[int]], bool] | None:
        """Tells whether tokens so far hold a stop string; None if there is nothing to look for."""
        if not until:
            return None

        def is_complete(ids: Sequence[int]) -> bool:
            text = self._decode(ids)
            return any(stop in text for stop in until)

        return is_complete

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(
            list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text
