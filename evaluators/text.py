"""Text that a model wrote: where it ends, and how to keep what no encoder accepts."""

import re
from collections.abc import Sequence

_SURROGATES = re.compile("[\ud800-\udfff]")


def cut(text: str, until: Sequence[str]) -> str:
    """Returns `text` up to the earliest of the stop strings, which are left out.

    Linear in the text for each stop string.

    Args:
        text: What was generated, of any length.
        until: Stop strings; with none of them in the text it comes back whole.

    Raises:
        ValueError: A stop string is empty, so that nothing could ever be generated.
    """
    end = len(text)
    for stop in until:
        if not stop:
            raise ValueError(f"until: a stop string must not be empty, got {list(until)!r}")
        # Only a hit that begins before the best one so far can win.
        found = text.find(stop, 0, end + len(stop) - 1)
        if found >= 0:
            end = min(end, found)
    return text[:end]


def clean(text: str) -> str:
    """Replaces lone surrogates by U+FFFD, so that the text can be encoded as UTF-8.

    Arrow and tokenizers refuse a lone surrogate; everything else, NUL included, is kept.
    """
    return _SURROGATES.sub("\ufffd", text)
