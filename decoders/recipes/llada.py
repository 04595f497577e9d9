"""LLaDA's sampler and Prophet, which ends it early."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from decoders.recipes.base import (
    Decoder,
    EngineKind,
    Generation,
    Visibility,
    at_least,
    blocks_fit,
    one_of,
    within,
)
from decoders.sampling import Sampler
from decoders.schedule import Early, Pass, Row, Schedule
from decoders.selection import Top, share_of


@dataclass(frozen=True, kw_only=True)
class Llada(Decoder):
    """Low-confidence remasking in semi-autoregressive blocks with a fixed step budget."""

    recipe: ClassVar[str] = "llada"
    paper: ClassVar[str] = "Nie et al. 2025, Large Language Diffusion Models, arXiv 2502.09992"
    models: ClassVar[str] = "masked diffusion, bidirectional: LLaDA-8B, LLaDA-1.5, MDLM, tiny-mdlm"
    exactness: ClassVar[str] = "exact: tokens and steps of the authors' generate.py"
    generation: ClassVar[Generation] = "diffusion"
    engine: ClassVar[EngineKind] = "diffusion"
    visibility: ClassVar[frozenset[Visibility]] = frozenset({"bidirectional"})

    steps: int = 64
    """Denoising steps over the whole canvas, divided evenly over the blocks."""
    block_length: int | None = None
    """Positions a block; blocks are finished left to right. None: one block, the whole canvas."""
    remasking: Literal["low_confidence", "random"] = "low_confidence"
    """What the positions of a step are chosen by."""
    cfg_scale: float = 0.0
    """Classifier-free guidance against the same canvas with a masked prompt; 0: none."""
    logits_eos_inf: bool = False
    """Never choose EOS (the authors' setting for HumanEval)."""
    confidence_eos_eot_inf: bool = False
    """Give EOS and end-of-turn no confidence, so that they are written last."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "steps")
        if self.block_length is None:
            object.__setattr__(self, "block_length", self.gen_length)
        at_least(self, 1, "block_length")
        blocks_fit(self, self.size, self.steps)
        one_of(self, "remasking", "low_confidence", "random")
        within(self, 0, float("inf"), "cfg_scale")

    @property
    def budget(self) -> int:
        return self.steps

    @property
    def block(self) -> int | None:
        return self.block_length

    @property
    def size(self) -> int:
        return self.block_length or self.gen_length

    @property
    def steps_per_block(self) -> int:
        return self.steps // (self.gen_length // self.size)

    @property
    def sampler(self) -> Sampler:
        return Sampler(
            temperature=self.temperature,
            confidence="random" if self.remasking == "random" else "probability",
            no_eos=self.logits_eos_inf,
            eos_last=self.confidence_eos_eot_inf,
        )

    def schedule(self, row: Row) -> Schedule:
        for start, stop in row.blocks(self.size):
            for step in range(self.steps_per_block):
                yield self.whole_pass(row, stop, share_of(stop - start, self.steps_per_block, step))
        return None

    def whole_pass(self, row: Row, stop: int, quota: int) -> Pass:
        """A forward of the whole canvas that commits `quota` masks before `stop`."""
        return Pass(
            start=0,
            stop=row.length,
            low=row.prompt,
            high=stop,
            rule=Top(),
            amount=quota,
            sampler=self.sampler,
            ranked=(0, row.length),
            guidance=self.cfg_scale,
            blind=True,
        )


@dataclass(frozen=True, kw_only=True)
class Prophet(Llada):
    """LLaDA's sampler that commits all that is left once the answer's top-2 gap is wide enough."""

    recipe: ClassVar[str] = "prophet"
    paper: ClassVar[str] = (
        "Li et al. 2025, Diffusion Language Models Know the Answer Before Decoding, "
        "arXiv 2508.19982"
    )
    exactness: ClassVar[str] = (
        "exact: the authors' generate_earlyexit.py where the region is given by constraints or "
        "offset; the other regions are ours"
    )

    region: Literal["constraints", "offset", "last", "masked"] = "masked"
    """Where the gap is measured. constraints: `answer_length` positions from two past the last
    constraint. offset: from `answer_offset`. last: the canvas's last `answer_length`. masked: all
    masked positions of the canvas."""
    answer_offset: int = 0
    """Canvas position where the answer begins (region offset)."""
    answer_length: int = 5
    """Positions of the answer."""
    constraints: str = ""
    """Tokens that are given: "200:The|201:answer|202:is" by canvas position, as texts (each with a
    space before it) or token ids."""
    count_eos: bool = False
    """Region masked: count positions where a stop token is likeliest, too. A canvas longer than its
    answer has many of these, all with a wide gap."""
    gap_early: float = 7.5
    """Gap in logits that commits before 33% of the steps."""
    gap_mid: float = 5.0
    """The same before 67%."""
    gap_late: float = 2.5
    """The same from there on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, "region", "constraints", "offset", "last", "masked")
        at_least(self, 0, "answer_offset")
        at_least(self, 1, "answer_length")
        pairs = self._pairs()
        if self.region == "constraints" and not pairs:
            self.refuse(
                "region constraints needs constraints, e.g. 'constraints: 60:The|61:answer'"
            )
        outside = [place for place, _ in pairs if not 0 <= place < self.gen_length]
        if outside:
            self.refuse(f"constraints: position {outside[0]} is outside the canvas")
        if self.region == "offset" and self.answer_offset >= self.gen_length:
            self.refuse(f"answer_offset must be below gen_length, got {self.answer_offset}")

    def _pairs(self) -> list[tuple[int, str]]:
        pairs = []
        for entry in filter(None, self.constraints.split("|")):
            place, colon, text = entry.partition(":")
            if not colon or not place.strip().isdigit() or not text:
                self.refuse(f"constraints: {entry!r} is not POSITION:TEXT")
            pairs.append((int(place), text))
        return pairs

    def resolved(self, encode: Callable[[str], Sequence[int]]) -> "Prophet":
        """Constraints as ids: a text takes as many positions as it has tokens."""
        ids: dict[int, int] = {}
        for place, text in self._pairs():
            tokens = [int(text)] if text.isdigit() else encode(" " + text.strip())
            ids |= {place + n: token for n, token in enumerate(tokens)}
        return replace(self, constraints="|".join(f"{p}:{t}" for p, t in sorted(ids.items())))

    @property
    def given(self) -> dict[int, int]:
        try:
            return {place: int(text) for place, text in self._pairs()}
        except ValueError:
            self.refuse("constraints hold texts; `resolved` turns them into token ids")

    def schedule(self, row: Row) -> Schedule:
        given, step = self.given, 0
        for start, stop in row.blocks(self.size):
            masks = sum(place - row.prompt not in given for place in range(start, stop))
            for i in range(self.steps_per_block):
                step += 1
                quota = share_of(masks, self.steps_per_block, i)
                seen = yield replace(
                    self.whole_pass(row, stop, quota),
                    blind=False,
                    early=self._early(row, step / self.steps),
                    view=row.length,
                )
                if seen.done:
                    return None
        return None

    def _early(self, row: Row, progress: float) -> Early:
        threshold = self.gap_late
        if progress < 0.67:
            threshold = self.gap_early if progress < 0.33 else self.gap_mid
        if self.region == "masked":
            return Early(threshold, row.prompt, row.length, True, not self.count_eos)
        if self.region == "last":
            start = row.length - self.answer_length
        elif self.region == "offset":
            start = row.prompt + self.answer_offset
        else:
            start = row.prompt + max(self.given) + 2
        stop = min(row.length, start + self.answer_length)
        return Early(threshold, max(row.prompt, min(start, row.length - 1)), stop)
