"""Whether recipe, model and second model go together: asked of configs, file headers and
tokenizers, before any weights are loaded."""

from collections.abc import Iterable, Mapping
from typing import Any

from cluster.cells import Cell
from decoders import (
    RECIPES,
    Checkpoint,
    Decoder,
    check,
    family_of,
    find_checkpoint,
    load_tokenizer,
    make_decoder,
)
from decoders.joint import MODEL_TYPE as SAMPLER
from decoders.models import whole_on_each
from decoders.models.families import block_of, generation_of, mask_id_of, reading, visibility_of
from decoders.recipes.likelihood import ByLikelihood
from decoders.schedule import Row
from jobs.errors import UserError

UNMASKED = "canvas-generate"
"""The engine of diffusion models that denoise random tokens and have no mask."""


def check_model(recipe: str, name: str, checkpoint: Checkpoint) -> None:
    """Refuses a model that the recipe cannot decode with.

    Raises:
        UserError: it is of another generation, or its positions see what the recipe does not
            expect.
        DecoderError: there is no such recipe, or the checkpoint cannot be loaded.
    """
    if recipe not in RECIPES:
        make_decoder(recipe, {})  # raises, with the nearest name
    kind = RECIPES[recipe]
    if kind.engine == "remote":
        load_tokenizer(checkpoint)
        return
    masked = kind.engine != UNMASKED
    wanted = kind.generation if kind.generation != "any" else generation_of(checkpoint)
    check_generation(f"decoder {recipe}", wanted, name, checkpoint, masked)
    seen = visibility_of(checkpoint)
    if seen not in kind.visibility:
        others = [
            other.recipe
            for other in RECIPES.values()
            if other.generation in (wanted, "any")
            and seen in other.visibility
            and other.engine not in (UNMASKED, "remote")
        ]
        hint = f"; try {', '.join(others)}" if others else ""
        raise UserError(
            f"decoder {recipe} needs a {' or '.join(sorted(kind.visibility))} model, {name!r} "
            f"({family_of(checkpoint)}) is {seen}{hint}"
        )
    check(checkpoint)


def check_generation(
    who: str, wanted: str, name: str, checkpoint: Checkpoint, masked: bool = True
) -> None:
    """Refuses a checkpoint that does not write text as wanted.

    Raises:
        UserError: it is of another kind; of diffusion models, one that fills masks is not one
            that denoises random tokens.
        ModelError: it should have a mask, and nothing names it.
    """
    diffusion = wanted == "diffusion"
    family = reading(checkpoint)
    if family.generation != wanted or (diffusion and family.masked != masked):
        kind = "causal" if not diffusion else "masked-diffusion" if masked else "DiffusionGemma"
        raise UserError(f"{who} needs a {kind} model, {name!r} is of family {family.name}")
    if diffusion and masked:
        stated = checkpoint.config.get("vocab_size")
        size = stated if isinstance(stated, int) else 2**31
        mask_id_of(checkpoint, size, load_tokenizer(checkpoint).get_vocab())


def check_settings(decoder: Decoder, name: str, checkpoint: Checkpoint) -> None:
    """Refuses settings that no canvas of the model can follow.

    Raises:
        UserError: the block is not the model's.
        DecoderError: the recipe's schedule cannot begin with them.
    """
    if decoder.engine == "remote":
        return
    size = block_of(checkpoint)
    if size is not None and decoder.block not in (None, size):
        raise UserError(
            f"decoder {decoder.recipe}: block_length must be the {size} of {name!r}, or left out; "
            f"got {decoder.block}"
        )
    guided = isinstance(decoder, ByLikelihood) and decoder.cfg_scale > 0
    if guided and generation_of(checkpoint) == "autoregressive":
        raise UserError(
            f"decoder {decoder.recipe}: cfg_scale needs a masked-diffusion model, {name!r} is "
            "causal"
        )
    schedule = getattr(decoder, "schedule", None)
    if schedule is not None:
        row = Row(
            prompt=1, length=decoder.span(1, size), shift=reading(checkpoint).shift, block=size
        )
        next(schedule(row), None)


def check_partner(
    decoder: Decoder, name: str, checkpoint: Checkpoint, partner: str, second: Checkpoint
) -> None:
    """Refuses a second model that does not go with the recipe and the first.

    Raises:
        UserError: it is of another kind, was made for another model, or reads other tokens.
        DecoderError: it cannot be loaded.
    """
    who = f"decoder {decoder.recipe}: {decoder.partner_setting}"
    if decoder.partner_kind == "sampler":
        _check_sampler(who, name, checkpoint, partner, second)
        return
    check_generation(who, str(decoder.partner_kind), partner, second)
    if visibility_of(second) == "block-causal":
        raise UserError(f"{who} needs a model that sees its whole canvas, {partner!r} sees blocks")
    check(second)
    difference = vocabulary_difference(load_tokenizer(checkpoint), load_tokenizer(second))
    if difference is not None:
        raise UserError(
            f"{who} {partner!r} and {name!r} must share a tokenizer, so that one can read the "
            f"other's tokens; {difference}"
        )


def _check_sampler(
    who: str, name: str, checkpoint: Checkpoint, partner: str, second: Checkpoint
) -> None:
    kind, base = second.config.get("model_type"), second.config.get("base")
    if kind != SAMPLER:
        raise UserError(
            f"{who} needs a joint sampler, {partner!r} is of model_type {kind!r}; "
            "`python -m jobs.train --recipe joint` trains one"
        )
    digest = second.config.get("base_digest")
    same = checkpoint.name == base if digest is None else checkpoint.digest == digest
    if not same:
        raise UserError(
            f"{who} {partner!r} was trained for {base} ({digest or 'no digest'}), not for {name!r} "
            f"({checkpoint.digest}); use that model, or train a sampler for this one"
        )


def vocabulary_difference(one: Any, two: Any) -> str | None:
    """What tells two fast tokenizers' vocabularies apart; None if both read the same tokens.

    A token that only one of them was given beside its vocabulary (a mask, a turn's end) is no
    difference, unless its id stands for something else in the other.
    """
    first, second = one.get_vocab(), two.get_vocab()
    moved = [token for token in first.keys() & second.keys() if first[token] != second[token]]
    if moved:
        token = min(moved, key=first.__getitem__)
        return f"{token!r} is {first[token]} in one and {second[token]} in the other"
    for mine, added, other in (
        (first, one.get_added_vocab(), second),
        (second, two.get_added_vocab(), first),
    ):
        only = _only(mine, other)
        plain = [token for token in only if token not in added]
        if plain:
            return f"only one of them has {plain[0]!r} and {len(plain) - 1} more"
        ids = {place: token for token, place in other.items()}
        for token in only:
            if mine[token] in ids:
                return f"{mine[token]} is {token!r} in one and {ids[mine[token]]!r} in the other"
    return None


def _only(mine: Mapping[str, int], other: Mapping[str, int]) -> list[str]:
    """Tokens that the other lacks, by id."""
    return sorted(mine.keys() - other.keys(), key=mine.__getitem__)


def unsplit(cells: Iterable[Cell], ranks: int) -> dict[str, str]:
    """The models, by name, that every one of so many ranks holds whole, and why."""
    found: dict[str, str] = {}
    for cell in cells:
        if cell.decoder.engine == "remote":
            continue
        second = None if cell.decoder.partner_kind == "sampler" else cell.partner
        for spec in (cell.model, second):
            if spec is not None and spec.name not in found:
                reason = whole_on_each(find_checkpoint(spec.source), ranks)
                if reason is not None:
                    found[spec.name] = reason
    return found
