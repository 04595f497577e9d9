"""Which engine runs a recipe."""

from collections.abc import Callable
from typing import Any

from decoders.autoregressive import AutoregressiveEngine
from decoders.diffusion import DiffusionEngine
from decoders.gemma import GemmaEngine
from decoders.guided import GuidedEngine
from decoders.likelihood import LikelihoodEngine
from decoders.models.base import Model
from decoders.recipes import Decoder
from decoders.slots import Engine
from decoders.speculative import SpeculativeEngine
from decoders.types import DecoderError


def make_engine(model: Model, decoder: Decoder, slots: int, partner: Any = None) -> Engine:
    """An engine for requests of this recipe; settings may differ from row to row.

    Args:
        model: the row's model.
        decoder: the recipe, whose class decides.
        slots: samples decoded at once.
        partner: the recipe's second model: a `Model`, or the joint sampler.

    Raises:
        DecoderError: the recipe runs on a server (`RemoteEngine` takes a tokenizer), or its second
            model is missing, or the models do not fit it.
    """
    if decoder.partner is not None and partner is None:
        raise DecoderError(f"{decoder.recipe} needs its {decoder.partner_setting}")
    makers: dict[str, Callable[[], Engine]] = {
        "diffusion": lambda: DiffusionEngine(model, slots, joint=partner),
        "autoregressive": lambda: AutoregressiveEngine(model, slots),
        "speculative": lambda: SpeculativeEngine(model, partner, slots),
        "guided": lambda: GuidedEngine(model, partner, slots),
        "canvas-generate": lambda: GemmaEngine(model, slots),
        "likelihood": lambda: LikelihoodEngine(model, slots),
    }
    if decoder.engine not in makers:
        raise DecoderError(f"{decoder.recipe} runs on a server, not on a loaded model")
    return makers[decoder.engine]()
