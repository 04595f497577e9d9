"""Python values as tagged JSON: what crosses between a program and its tests.

What arrives is rebuilt from builtins alone, so no class, method or comparison of the program
comes along. JSON's own types stand for None, bool, str and small int; everything else is a
list of a tag and a payload. A subclass is flattened to its builtin base, an iterator to its
items; any other object is refused.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

TYPE_CHECKING = False
if TYPE_CHECKING:  # the module is slow to import, and each check starts anew
    from typing import Any

MAX_DEPTH = 64
MAX_NODES = 250_000
"""Of one value, shared parts counted each time they occur."""

_SAFE = 2**53
"""Below it an int travels as JSON's number, from it on as hex: no limit on digits applies."""


class ForeignValueError(Exception):
    """A value that must not cross: an unknown type, too deep, too large, or no valid encoding."""


def encode(value: object) -> Any:
    """The value as JSON types.

    Raises:
        ForeignValueError: It holds something that cannot cross.
    """
    return _Encoder().encode(value, 0)


def decode(data: object) -> Any:
    """The value that `encode` wrote, from builtins (and Fraction and Decimal) alone.

    Raises:
        ForeignValueError: The data is not what `encode` writes.
    """
    try:
        return _decode(data, 0)
    except ForeignValueError:
        raise
    except (ArithmeticError, TypeError, ValueError) as error:
        raise ForeignValueError(f"no valid encoding ({type(error).__name__})") from None


class _Encoder:
    def __init__(self) -> None:
        self._nodes = 0

    def encode(self, value: object, depth: int) -> Any:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise ForeignValueError(f"a value has more than {MAX_NODES} parts")
        if depth > MAX_DEPTH:
            raise ForeignValueError(f"a value is nested deeper than {MAX_DEPTH}")
        if value is None or value is True or value is False:
            return value
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, int):
            number = int.__index__(value)
            return number if -_SAFE < number < _SAFE else ["int", hex(number)]
        if isinstance(value, float):
            return ["float", float.hex(value)]
        if isinstance(value, complex):
            return ["complex", [float.hex(value.real), float.hex(value.imag)]]
        if isinstance(value, bytes | bytearray):
            return ["bytes", bytes(value).hex()]
        if isinstance(value, range):
            ends = (value.start, value.stop, value.step)
            return ["range", [self.encode(end, depth + 1) for end in ends]]
        return self._container(value, depth)

    def _container(self, value: object, depth: int) -> Any:
        if isinstance(value, dict):
            pairs = [
                [self.encode(key, depth + 1), self.encode(item, depth + 1)]
                for key, item in dict.items(value)
            ]
            return ["dict", pairs]
        for kind in (list, tuple, set, frozenset):
            if isinstance(value, kind):
                return [kind.__name__, [self.encode(item, depth + 1) for item in value]]
        if isinstance(value, Iterator):
            return ["iterator", [self.encode(item, depth + 1) for item in value]]
        if _is(value, "fractions", "Fraction"):
            return ["fraction", [self.encode(part, depth + 1) for part in _parts(value)]]
        if _is(value, "decimal", "Decimal"):
            return ["decimal", str(value)]
        raise ForeignValueError(f"a value of type {type(value).__name__} cannot be returned")


def _decode(data: object, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ForeignValueError(f"nested deeper than {MAX_DEPTH}")
    if data is None or isinstance(data, bool | int | str):
        return data
    if not isinstance(data, list) or len(data) != 2 or not isinstance(data[0], str):
        raise ForeignValueError("neither a plain value nor a tag with a payload")
    tag, payload = data
    if tag in _FROM_TEXT:
        if not isinstance(payload, str):
            raise ForeignValueError(f"the payload of {tag} must be text")
        return _FROM_TEXT[tag](payload)
    if tag in _FROM_ITEMS:
        if not isinstance(payload, list):
            raise ForeignValueError(f"the payload of {tag} must be a list")
        return _FROM_ITEMS[tag]([_decode(item, depth + 1) for item in payload])
    if tag == "complex":
        real, imaginary = payload
        return complex(_real(real), _real(imaginary))
    if tag == "dict":
        return {_decode(key, depth + 1): _decode(item, depth + 1) for key, item in payload}
    raise ForeignValueError("an unknown tag")


def _is(value: object, module: str, name: str) -> bool:
    """Whether it is of a class that only a program that imported the module can have; most do
    not, and start the sooner for it."""
    return module in sys.modules and isinstance(value, getattr(sys.modules[module], name))


def _parts(fraction: Any) -> tuple[int, int]:
    return fraction.numerator, fraction.denominator


def _fraction(parts: list[Any]) -> Any:
    from fractions import Fraction

    return Fraction(*parts)


def _decimal(text: str) -> Any:
    from decimal import Decimal

    return Decimal(text)


def _whole(text: str) -> int:
    return int(text, 16)


def _real(text: str) -> float:
    return float.fromhex(text)


_FROM_TEXT: dict[str, Callable[[str], Any]] = {
    "int": _whole,
    "float": _real,
    "bytes": bytes.fromhex,
    "decimal": _decimal,
}
_FROM_ITEMS: dict[str, Callable[[list[Any]], Any]] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "iterator": iter,
    "range": lambda items: range(*items),
    "fraction": _fraction,
}
