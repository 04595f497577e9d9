"""The GGUF container: metadata and tensor headers, read in one pass over the front of the file.

Layout: magic, version, counts, key-value pairs, tensor headers, padding, tensor data
(github.com/ggml-org/ggml, docs/gguf.md). All numbers are little-endian.
"""

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY = 8, 9
_LONGEST = 2**28
"""No string or array of a whole file is longer; a damaged length would fill the memory."""


class TensorHeader(NamedTuple):
    shape: list[int]
    """In torch's order: rows first."""
    kind: int
    """ggml's number of the quantisation."""
    offset: int
    """From the start of the tensor data, in bytes."""


@dataclass(frozen=True)
class GgufFile:
    """What the front of a file says."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, TensorHeader]
    data: int
    """Where tensor data begins, in bytes."""

    def rows(self, name: str, block: int, block_bytes: int) -> NDArray[np.uint8]:
        """The packed bytes of a tensor, one row of blocks a row of the result.

        Raises:
            ValueError: the file ends before the tensor does.
        """
        header = self.tensors[name]
        shape = (*header.shape[:-1], header.shape[-1] // block * block_bytes)
        start = self.data + header.offset
        if self.path.stat().st_size < start + math.prod(shape):
            raise ValueError(f"the file ends before tensor {name} does")
        return np.memmap(self.path, np.uint8, "r", start, shape)


def read_gguf(path: Path) -> GgufFile:
    """Reads metadata and tensor headers.

    Raises:
        ValueError, struct.error, OSError: the file is no GGUF, or is cut short.
    """
    with path.open("rb") as stream:
        magic, version, tensor_count, pair_count = struct.unpack("<4sIQQ", _bytes(stream, 24))
        if magic != b"GGUF" or version not in (2, 3):
            raise ValueError("it begins with neither version 2 nor 3 of the format")
        metadata = {}
        for _ in range(pair_count):
            key = _string(stream)
            metadata[key] = _value(stream, _number(stream, "I"))
        tensors = {}
        for _ in range(tensor_count):
            name = _string(stream)
            dimensions = [_number(stream, "Q") for _ in range(_number(stream, "I"))]
            kind, offset = _number(stream, "I"), _number(stream, "Q")
            tensors[name] = TensorHeader(dimensions[::-1], kind, offset)
        alignment = metadata.get("general.alignment", 32)
        return GgufFile(path, metadata, tensors, -(-stream.tell() // alignment) * alignment)


def _bytes(stream: BinaryIO, count: int) -> bytes:
    if count > _LONGEST:
        raise ValueError(f"an entry claims {count} bytes")
    found = stream.read(count)
    if len(found) < count:
        raise ValueError("it ends within its own headers")
    return found


def _number(stream: BinaryIO, code: str) -> Any:
    return struct.unpack(f"<{code}", _bytes(stream, struct.calcsize(f"<{code}")))[0]


def _string(stream: BinaryIO) -> str:
    return _bytes(stream, _number(stream, "Q")).decode("utf-8")


def _value(stream: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _string(stream)
    if kind == _ARRAY:
        item, count = _number(stream, "I"), _number(stream, "Q")
        if item in _SCALARS:
            width = struct.calcsize(f"<{_SCALARS[item]}")
            return list(struct.unpack(f"<{count}{_SCALARS[item]}", _bytes(stream, count * width)))
        return [_value(stream, item) for _ in range(count)]
    if kind not in _SCALARS:
        raise ValueError(f"it holds a value of unknown type {kind}")
    return _number(stream, _SCALARS[kind])
