"""Values that cross between a program and its tests: all of them exactly, and nothing else."""

import json
import math
import os
import threading
from decimal import Decimal
from enum import IntEnum

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from evaluators.sandbox import values
from evaluators.sandbox.channel import Channel, ChannelError

HASHABLE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(10**400), 10**400),
    st.floats(allow_nan=False),
    st.complex_numbers(allow_nan=False),
    st.text(st.characters(exclude_categories=())),
    st.binary(),
    st.fractions(),
    st.decimals(allow_nan=False),
    st.builds(range, st.integers(), st.integers(), st.integers(1)),
)
VALUES = st.recursive(
    HASHABLE,
    lambda inner: st.one_of(
        st.lists(inner),
        st.lists(inner).map(tuple),
        st.sets(HASHABLE),
        st.frozensets(HASHABLE),
        st.dictionaries(HASHABLE, inner),
    ),
    max_leaves=20,
)


def crossed(value: object) -> object:
    return values.decode(json.loads(json.dumps(values.encode(value))))


def same(a: object, b: object) -> bool:
    """Equal in value and in the type of every part, so that True is not 1 and -0.0 not 0.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, set | frozenset):
        return len(a) == len(b) and all(any(same(x, y) for y in b) for x in a)
    if isinstance(a, dict):
        return same(list(a.items()), list(b.items()))  # in the same order
    if isinstance(a, complex):
        return same((a.real, a.imag), (b.real, b.imag))
    return a.hex() == b.hex() if isinstance(a, float) else a == b


@settings(max_examples=60)
@given(VALUES)
@example([True, 1, 1.0, "1", b"1", None])
@example((-0.0, 0.0, math.inf, -math.inf, 2**53, -(2**53), 2**53 - 1, 10**5000))
@example({"\ud800": ["\udfff", "\x00"], (1, "a"): {frozenset({1}), 2}})
def test_values_cross_exactly(value) -> None:
    assert same(crossed(value), value)


@pytest.mark.parametrize("value", [math.nan, Decimal("NaN"), complex(math.nan, 1)])
def test_what_equals_nothing_crosses_too(value) -> None:
    assert repr(crossed(value)) == repr(value) and crossed(value) != value


def test_an_iterator_crosses_as_its_items_and_equals_no_list() -> None:
    back = crossed(number * 2 for number in range(3))
    assert back != [0, 2, 4]
    assert list(back) == [0, 2, 4]


class _Same(int):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


class _Known(IntEnum):
    THREE = 3


class _Text(str):
    def __str__(self) -> str:
        return "other"


@pytest.mark.parametrize(
    ("value", "flat"),
    [(_Same(0), 0), (_Known.THREE, 3), (_Text("a"), "a"), (bytearray(b"x"), b"x")],
)
def test_subclasses_arrive_as_their_builtin(value, flat) -> None:
    back = crossed([value])[0]
    assert type(back) is type(flat)
    assert back == flat and back != "another"


def _nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


_CIRCLE: list = []
_CIRCLE.append(_CIRCLE)
_LAUGHS: list = ["ha"]
for _ in range(30):
    _LAUGHS = [_LAUGHS, _LAUGHS]


@pytest.mark.parametrize(
    "value",
    [object(), len, int, NotImplemented, ..., {1: object()}, _nested(70), _CIRCLE, _LAUGHS],
    ids=lambda value: f"{type(value).__name__}",
)
def test_what_cannot_cross_is_refused(monkeypatch, value) -> None:
    monkeypatch.setattr(values, "MAX_NODES", 1000)
    with pytest.raises(values.ForeignValueError):
        values.encode(value)


@pytest.mark.parametrize(
    "data",
    [
        1.5,
        {"a": 1},
        [],
        ["list"],
        ["list", {}],
        ["list", 1],
        ["list", [1.5]],
        ["object", []],
        ["eval", "1"],
        ["int", "ten"],
        ["int", 10],
        ["float", "1g"],
        ["set", [["list", []]]],
        ["dict", [[1]]],
        ["dict", [[["list", []], 1]]],
        ["dict", 3],
        ["complex", [1]],
        ["complex", None],
        ["range", [1, 2, 0]],
        ["range", ["a"]],
        ["fraction", [1, 0]],
        ["fraction", [["float", "nan"], 1]],
        ["decimal", "x"],
        ["bytes", "0"],
        [["list", []], []],
    ],
    ids=str,
)
def test_a_forged_encoding_is_refused(data) -> None:
    with pytest.raises(values.ForeignValueError):
        values.decode(data)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=9))
def test_any_json_is_a_value_or_refused(data) -> None:
    try:
        values.decode(data)
    except values.ForeignValueError:
        return


@pytest.fixture
def ends():
    read_fd, write_fd = os.pipe()
    yield read_fd, write_fd
    for end in (read_fd, write_fd):
        try:
            os.close(end)
        except OSError:
            continue


def test_a_frame_arrives_whole(ends) -> None:
    message = {"id": "a", "value": "x" * 1_000_000}
    sender = threading.Thread(target=lambda: Channel(-1, ends[1]).send(message))
    sender.start()
    assert Channel(ends[0], -1).receive() == message
    sender.join()


@pytest.mark.parametrize(
    ("sent", "complaint"),
    [
        (b"", "ended"),
        (b"\0\0", "ended"),
        (b"\0\0\0\x05{}", "ended"),
        (b"\0\0\0\x02[]", "no JSON object"),
        (b"\0\0\0\x02{]", "no valid JSON"),
        (b'\0\0\0\x0a{"a":1.50}', "no valid JSON"),
        (b'\0\0\0\x09{"a":NaN}', "no valid JSON"),
        (b"\0\0\0\x02\xff\xff", "no valid JSON"),
        (b"\0\0\x60\x00" + b"[" * 0x6000, "no valid JSON"),
        (b"\xff\xff\xff\xff", "larger"),
    ],
    ids=lambda item: item[:12] if isinstance(item, bytes) else item,
)
def test_a_bad_frame_is_told(ends, sent, complaint) -> None:
    os.write(ends[1], sent)
    os.close(ends[1])
    with pytest.raises(ChannelError, match=complaint):
        Channel(ends[0], -1, budget=1 << 20).receive()


def test_the_budget_is_for_all_frames_together(ends) -> None:
    sender, receiver = Channel(-1, ends[1]), Channel(ends[0], -1, budget=60)
    for _ in range(2):
        sender.send({"id": "0123456789"})
    assert receiver.receive() == {"id": "0123456789"}
    sender.send({"id": "0123456789"})
    receiver.receive()
    with pytest.raises(ChannelError, match="larger"):
        receiver.receive()
