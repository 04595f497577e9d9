"""Stop strings and text that no encoder takes."""

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evaluators import clean, cut

ANY_TEXT = st.text(st.characters(exclude_categories=()))
TEXT = st.text(alphabet="ab\n#", max_size=30)
STOPS = st.lists(st.text(alphabet="ab\n#", min_size=1, max_size=3), max_size=4)


def naive(text: str, until: list[str]) -> str:
    for end in range(len(text)):
        if any(text.startswith(stop, end) for stop in until):
            return text[:end]
    return text


@given(TEXT, STOPS)
def test_cut_ends_before_the_earliest_stop(text, until) -> None:
    assert cut(text, until) == naive(text, until)


@given(TEXT, STOPS)
def test_cut_is_idempotent_and_leaves_no_stop(text, until) -> None:
    once = cut(text, until)
    assert cut(once, until) == once
    assert not any(stop in once for stop in until)


def test_overlapping_stops() -> None:
    assert cut("xxabc", ["bc", "abc"]) == "xx"
    assert cut("xxabc", ["abc", "bc"]) == "xx"
    assert cut("abc", []) == "abc"


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        cut("abc", ["c", ""])


@pytest.mark.parametrize(
    "text", ["\n" * 10**6, "</" * 500_000, "Question" * 125_000, "\ud800" * 10**6]
)
def test_a_megabyte_is_cut_in_linear_time(text) -> None:
    begin = time.process_time()
    assert cut(text + "</s>tail", ("Question:", "</s>", "<|im_end|>", "\n\nx")) == text
    assert time.process_time() - begin < 1.0


@given(ANY_TEXT)
@example("18 A\x00 \ud800x\udfff")
def test_clean_text_encodes_and_keeps_the_rest(text) -> None:
    cleaned = clean(text)
    cleaned.encode("utf-8")
    assert len(cleaned) == len(text)
    for before, after in zip(text, cleaned, strict=True):
        assert after == ("\ufffd" if "\ud800" <= before <= "\udfff" else before)
