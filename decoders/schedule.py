"""How a recipe tells the engine what to do: a generator of passes.

A recipe's `schedule` yields one `Pass` after the other for one sample and hears back what the pass
did. The engine runs the passes of all slots together; a schedule knows of no batch.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from decoders.sampling import Sampler
from decoders.selection import Rule


@dataclass(frozen=True, slots=True)
class Row:
    """A sample's canvas, in absolute positions."""

    prompt: int
    """Prompt tokens; the canvas begins here."""
    length: int
    """Prompt and canvas."""
    shift: int
    """The model's: the logit row of position p - shift predicts position p."""
    block: int | None
    """Block size of a block-causal model."""

    def blocks(self, size: int) -> Iterator[tuple[int, int]]:
        """The canvas in blocks of `size`, as [start, stop)."""
        for start in range(self.prompt, self.length, size):
            yield start, start + size


@dataclass(frozen=True, slots=True)
class Early:
    """Prophet's test: commit everything once the mean gap of the two best logits reaches
    `threshold`."""

    threshold: float
    low: int
    high: int
    masked_only: bool = False
    """Average over the masked positions of [low, high) alone."""
    skip_stops: bool = False
    """Leave out positions where a stop token is likeliest, unless no others are left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One forward of one sample, and what may be written after it. Positions are absolute."""

    start: int
    stop: int
    """Positions [start, stop) are fed."""
    low: int
    high: int
    """Masks in [low, high) may be written; logits are computed for these alone."""
    rule: Rule
    sampler: Sampler
    amount: float = 0.0
    """The rule's number: a quota, a share or a chance."""
    outside: int = 0
    """Masks beyond [low, high) that count towards a share."""
    cached: bool = False
    """Keys and values of the fed positions are kept, and earlier ones are seen."""
    ranked: tuple[int, int] | None = None
    """Positions that the reference hands to torch.topk, which settles ties; None: the window."""
    ranked_masks: bool = False
    """It hands over the masks of the window alone."""
    blind: bool = False
    """The schedule does not look at what the pass did, so the host need not wait for it."""
    guidance: float = 0.0
    """Classifier-free guidance: a second row with the prompt masked is fed."""
    early: Early | None = None
    edit: float | None = None
    """Written canvas tokens in [low, high) are rewritten where another token is more likely than
    this."""
    view: int | None = None
    """Logits are computed up to here instead of `high`, for `early`."""
    draws: int = 0
    """Tokens that a joint sampler draws one after the other from this pass."""
    marginal: bool = False
    """The draws come from this pass alone, without the joint sampler."""
    fresh: bool = False
    """A block begins: what a rule gathers over steps starts anew."""


class Seen(NamedTuple):
    """What a pass did."""

    masks: int
    """Masks left in [low, high)."""
    committed: int
    """Masks that were written."""
    edits: int
    open: bool
    """The position `low` is still masked."""
    stop: int
    """First position after the prompt that holds a stop token with no mask before it; -1 if there
    is none."""
    ends_in_eos: int
    """How many stop tokens stand at the end of what is written, if no mask stands before it."""
    done: bool
    """The early commit happened."""
    gap: float
    """The gap that it was decided by."""


Schedule = Generator[Pass, Seen, int | None]
"""Returns where the output ends, if before the canvas does."""
