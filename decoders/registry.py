"""The recipes: a paper's decoder as a frozen config with a name and a fingerprint."""

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from decoders.types import DecoderError


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """What every recipe has. Frozen; equal settings have equal fingerprints."""

    recipe: ClassVar[str]
    paper: ClassVar[str]
    models: ClassVar[str]
    version: ClassVar[int] = 1
    """Rises when the recipe's tokens change, so that old rows are not taken for new ones."""
    generation: ClassVar[Literal["diffusion", "autoregressive"]]

    gen_length: int = 64
    """Canvas positions, or the most tokens that an autoregressive recipe writes."""
    temperature: float = 0.0

    def __post_init__(self) -> None:
        _positive(self, "gen_length")
        if not 0 <= self.temperature < float("inf"):
            raise DecoderError(f"{self.recipe}: temperature must be >= 0, got {self.temperature}")

    @property
    def budget(self) -> int:
        """The most steps that the decoder may take."""
        return self.gen_length

    @property
    def block(self) -> int | None:
        return None

    def settings(self) -> dict[str, Any]:
        """Every setting, with the recipe's name and version; JSON-serialisable."""
        return {"recipe": self.recipe, "version": self.version, **dataclasses.asdict(self)}

    @property
    def fingerprint(self) -> str:
        text = json.dumps(self.settings(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Llada(Decoder):
    """LLaDA's sampler: low-confidence remasking, semi-autoregressive blocks, fixed step budget."""

    recipe: ClassVar[str] = "llada"
    paper: ClassVar[str] = "Nie et al. 2025, Large Language Diffusion Models, arXiv 2502.09992"
    models: ClassVar[str] = "masked diffusion, bidirectional, no shift: LLaDA-8B, tiny-mdlm"
    generation: ClassVar[Literal["diffusion", "autoregressive"]] = "diffusion"

    steps: int = 64
    """Denoising steps over the whole canvas, divided evenly over the blocks."""
    block_length: int | None = None
    """Positions a block; blocks are finished left to right. None: one block, the whole canvas."""
    remasking: Literal["low_confidence", "random"] = "low_confidence"
    logits_eos_inf: bool = False
    """Never choose EOS (the authors' setting for HumanEval)."""
    confidence_eos_eot_inf: bool = False
    """Give EOS and end-of-turn no confidence, so that they are written last."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self, "steps")
        if self.block_length is None:
            object.__setattr__(self, "block_length", self.gen_length)
        _positive(self, "block_length")
        block = self.block_length
        assert block is not None
        if self.gen_length % block:
            raise DecoderError(
                f"llada: gen_length must be a multiple of block_length, got {self.gen_length} and "
                f"{block}; choose a block_length that divides {self.gen_length}"
            )
        blocks = self.gen_length // block
        if self.steps % blocks:
            near = max(1, self.steps // blocks) * blocks
            raise DecoderError(
                f"llada: steps must be a multiple of the {blocks} blocks (gen_length / "
                f"block_length), got {self.steps}; for example {near}"
            )
        if self.remasking not in ("low_confidence", "random"):
            raise DecoderError(
                f"llada: remasking must be low_confidence or random, got {self.remasking!r}"
            )

    @property
    def budget(self) -> int:
        return self.steps

    @property
    def block(self) -> int | None:
        return self.block_length

    @property
    def steps_per_block(self) -> int:
        assert self.block_length is not None
        return self.steps // (self.gen_length // self.block_length)


@dataclass(frozen=True, kw_only=True)
class Autoregressive(Decoder):
    """One token a forward from a causal model with a K/V cache: the baseline."""

    recipe: ClassVar[str] = "ar"
    paper: ClassVar[str] = "the usual left-to-right decode"
    models: ClassVar[str] = "any causal LM of transformers: Llama, Qwen, tiny-ar"
    generation: ClassVar[Literal["diffusion", "autoregressive"]] = "autoregressive"


RECIPES: dict[str, type[Decoder]] = {kind.recipe: kind for kind in (Llada, Autoregressive)}


def recipes() -> list[str]:
    """Names of all recipes."""
    return sorted(RECIPES)


def make_decoder(recipe: str, settings: Mapping[str, Any]) -> Decoder:
    """A recipe with its settings; a wrong name or setting names the nearest valid one."""
    if recipe not in RECIPES:
        raise DecoderError(f"there is no decoder {recipe!r}{nearest(recipe, RECIPES)}")
    kind = RECIPES[recipe]
    valid = {field.name: field for field in dataclasses.fields(kind)}
    for key, value in settings.items():
        if key not in valid:
            raise DecoderError(f"{recipe} has no setting {key!r}{nearest(key, valid)}")
        _check_type(recipe, key, value, valid[key].type)
    values: dict[str, Any] = dict(settings)
    for key in values:
        if valid[key].type is float:
            values[key] = float(values[key])  # 1 and 1.0 are one setting, with one fingerprint
    return kind(**values)


def nearest(word: str, valid: Any) -> str:
    """A hint for a mistyped name: the nearest valid one, or all of them."""
    names = sorted(valid)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; valid: {', '.join(names)}"


def _check_type(recipe: str, key: str, value: Any, kind: Any) -> None:
    name = str(kind)
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    fits = {
        "<class 'int'>": isinstance(value, int) and numeric,
        "int | None": value is None or (isinstance(value, int) and numeric),
        "<class 'float'>": numeric,
        "<class 'bool'>": isinstance(value, bool),
    }.get(name, isinstance(value, str))
    if not fits:
        wanted = name.removeprefix("<class '").removesuffix("'>")
        raise DecoderError(f"{recipe}: {key} must be {wanted}, got {value!r}")


def _positive(decoder: Decoder, key: str) -> None:
    value = getattr(decoder, key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise DecoderError(f"{decoder.recipe}: {key} must be a whole number >= 1, got {value!r}")
