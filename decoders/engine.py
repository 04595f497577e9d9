"""Which engine runs a recipe."""

from decoders.autoregressive import AutoregressiveEngine
from decoders.diffusion import DiffusionEngine
from decoders.models.base import Model
from decoders.registry import Decoder
from decoders.slots import Engine

_ENGINES: dict[str, type[DiffusionEngine] | type[AutoregressiveEngine]] = {
    "diffusion": DiffusionEngine,
    "autoregressive": AutoregressiveEngine,
}


def make_engine(model: Model, decoder: Decoder, slots: int) -> Engine:
    """An engine for requests of this recipe; settings may differ from row to row."""
    return _ENGINES[decoder.generation](model, slots)
