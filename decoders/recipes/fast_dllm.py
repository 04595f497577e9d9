"""Fast-dLLM v1: parallel commits by confidence, and approximate caches; dInfer's rules beside
it."""

from collections.abc import Iterator
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
from decoders.recipes.dream import shares
from decoders.sampling import Credit, Sampler
from decoders.schedule import Pass, Row, Schedule, Seen
from decoders.selection import Factor, Portion, Rule, Runs, Threshold, Top, share_of


@dataclass(frozen=True, kw_only=True)
class FastDllm(Decoder):
    """Blocks that end when they are full, with as many commits a step as the rule finds safe."""

    recipe: ClassVar[str] = "fast-dllm"
    paper: ClassVar[str] = (
        "Wu et al. 2025, Fast-dLLM: Training-free Acceleration of Diffusion LLM by Enabling KV "
        "Cache and Parallel Decoding, arXiv 2505.22618; rules hierarchy and credit: dInfer, "
        "arXiv 2510.08666"
    )
    models: ClassVar[str] = "masked diffusion, bidirectional: LLaDA, Dream, tiny-mdlm"
    exactness: ClassVar[str] = (
        "exact: the authors' first release, on LLaDA and on Dream; its caches approximate a full "
        "pass"
    )
    generation: ClassVar[Generation] = "diffusion"
    engine: ClassVar[EngineKind] = "diffusion"
    visibility: ClassVar[frozenset[Visibility]] = frozenset({"bidirectional"})

    cache: Literal["none", "prefix", "dual"] = "dual"
    """Keys and values kept within a block: none, those before it, or those around it."""
    rule: Literal["threshold", "factor", "fixed", "hierarchy", "credit"] = "threshold"
    """threshold: all at or above `threshold`. factor: as many as `factor` allows. fixed: `steps` as
    LLaDA's. hierarchy, credit: dInfer's."""
    steps: int = 64
    """Step budget of rule fixed, and of Dream without a cache."""
    block_length: int = 32
    """Positions a block."""
    threshold: float = 0.9
    """Confidence that commits."""
    factor: float = 1.0
    """Of rule factor: larger commits more."""
    low_threshold: float = 0.4
    """Of rule hierarchy: least confidence of the best position of a run."""
    top_p: float | None = None
    """Nucleus (Dream only)."""
    early_stop: bool = False
    """Stop after a finished block that holds EOS (dInfer)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "steps", "block_length")
        one_of(self, "cache", "none", "prefix", "dual")
        one_of(self, "rule", "threshold", "factor", "fixed", "hierarchy", "credit")
        within(self, 0, 1, "threshold", "low_threshold")
        within(self, 0, float("inf"), "factor")
        within(self, 1e-9, 1, "top_p")
        blocks_fit(self, self.block_length, self.steps if self.rule == "fixed" else None)

    @property
    def budget(self) -> int:
        return self.steps if self.rule == "fixed" else self.gen_length

    @property
    def block(self) -> int | None:
        return self.block_length

    @property
    def steps_per_block(self) -> int:
        return max(1, self.steps // (self.gen_length // self.block_length))

    def schedule(self, row: Row) -> Schedule:
        if row.shift == 0:
            return self._on_llada(row)
        return self._on_dream(row) if self.cache == "none" else self._on_dream_in_blocks(row)

    def _on_llada(self, row: Row) -> Schedule:
        # Passes after which the quotas have filled a block; what the ones before wrote is known.
        planned = min(self.steps_per_block, self.block_length) if self.rule == "fixed" else 1
        for start, stop in row.blocks(self.block_length):
            sampler, step = self._sampler(row), 0
            while True:
                whole = self.cache == "none" or step == 0
                blind = step + 1 < planned
                fed = (0 if whole else start, row.length)
                if self.cache == "dual" and not whole:
                    fed = (start, stop)
                seen = yield Pass(
                    start=fed[0],
                    stop=fed[1],
                    ranked=fed,
                    low=start,
                    high=stop,
                    rule=self._rule(),
                    amount=max(1, share_of(self.block_length, self.steps_per_block, step)),
                    sampler=sampler,
                    cached=self.cache != "none",
                    blind=blind,
                    fresh=step == 0,
                )
                step += 1
                # As published, a block with a cache takes at least one pass that uses it.
                if not blind and seen.masks == 0 and (self.cache == "none" or step > 1):
                    break
                sampler = _moving(sampler, seen)
            if self.early_stop and seen.stop >= 0:
                return seen.stop + 1
        return None

    def _on_dream(self, row: Row) -> Schedule:
        """Over the whole canvas: what a step held back is added to the next step's quota."""
        if self.rule == "fixed":
            yield from self._dream_shares(row)
            return None
        if self.gen_length % self.steps:
            self.refuse(f"on Dream without a cache steps must divide gen_length {self.gen_length}")
        sampler, steps, step = self._sampler(row), self.steps, 0
        each, held = self.gen_length // self.steps, 0
        while step < steps:
            quota = each + held
            seen = yield self._whole(row, self._rule(most=True), quota, sampler)
            held = quota - seen.committed
            if step == steps - 1 and held and seen.masks:
                each, steps = 0, steps + 1
            sampler, step = _moving(sampler, seen), step + 1
        return None

    def _dream_shares(self, row: Row) -> Iterator[Pass]:
        for share in shares(self.steps, 1e-3):
            yield self._whole(row, Portion(), share, self._sampler(row))

    def _whole(self, row: Row, rule: Rule, amount: float, sampler: Sampler) -> Pass:
        return Pass(
            start=0,
            stop=row.length,
            low=row.prompt,
            high=row.length,
            rule=rule,
            amount=amount,
            sampler=sampler,
            ranked=(0, row.length),
        )

    def _on_dream_in_blocks(self, row: Row) -> Schedule:
        """The whole pass writes the block's first token, whose logits the cached passes lack."""
        ratio = list(shares(self.steps_per_block, 1e-3))
        if self.rule == "fixed" and self.steps_per_block < 2:
            self.refuse("rule fixed on Dream with a cache needs two or more steps a block")
        for start, stop in row.blocks(self.block_length):
            sampler, first = self._sampler(row), True
            seen = yield Pass(
                start=0,
                stop=row.length,
                low=start,
                high=start + 1,
                rule=Top(),
                amount=1,
                sampler=sampler,
                cached=True,
            )
            for step in range(1, self.gen_length * 4):
                end = stop if self.cache == "dual" else row.length
                seen = yield Pass(
                    start=start,
                    stop=end,
                    ranked=(start, end),
                    low=start,
                    high=stop,
                    rule=self._rule() if self.rule != "fixed" else Portion(),
                    amount=ratio[step] if self.rule == "fixed" else 0,
                    sampler=sampler,
                    cached=True,
                    fresh=first,
                )
                if seen.masks == 0:
                    break
                if self.rule != "fixed":  # whose share of the masks may be less than one
                    sampler = _moving(sampler, seen)
                first = False
            if self.early_stop and seen.stop >= 0:
                return seen.stop + 1
        return None

    def _rule(self, most: bool = False) -> Rule:
        if self.rule == "threshold":
            return Threshold(self.threshold, most=most)
        if self.rule == "factor":
            return Factor(self.factor)
        if self.rule == "hierarchy":
            return Runs(self.threshold, self.low_threshold)
        if self.rule == "credit":
            return Threshold(self.threshold, slack=1e-5)
        return Top()

    def _sampler(self, row: Row) -> Sampler:
        if row.shift:
            return Sampler(
                style="categorical",
                temperature=self.temperature,
                confidence="entropy" if self.rule == "fixed" else "probability",
                top_p=self.top_p,
            )
        newer = self.rule in ("hierarchy", "credit")
        return Sampler(
            temperature=self.temperature,
            double=not newer,
            skip_mask=self.rule == "credit",
            credit=Credit() if self.rule == "credit" else None,
        )


def _moving(sampler: Sampler, seen: Seen) -> Sampler:
    """A step that wrote nothing would repeat itself for ever, since the model wants the mask token
    itself there: from then on it may not have it."""
    return sampler if seen.committed or not seen.masks else replace(sampler, no_mask=True)
