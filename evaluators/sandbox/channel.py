"""Frames of JSON over a pair of pipes, between a program's runner and its judge."""

from __future__ import annotations

import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:  # the module is slow to import, and each check starts anew
    from typing import Any

_HEADER = 4
_CHUNK = 1 << 20


class ChannelError(Exception):
    """The other side is gone, or sent what is no frame."""


class Channel:
    """One end: a frame is a length in four bytes and as many bytes of JSON.

    Args:
        read_fd: the pipe that frames come from.
        write_fd: the pipe that frames go to.
        budget: the most bytes that all frames together may bring; None for no bound.
    """

    def __init__(self, read_fd: int, write_fd: int, budget: int | None = None) -> None:
        self._read_fd, self._write_fd, self._left = read_fd, write_fd, budget

    def send(self, message: dict[str, Any]) -> None:
        """Writes one frame.

        Raises:
            ChannelError: The other side has closed its end.
        """
        body = json.dumps(message, separators=(",", ":")).encode("ascii")
        frame = memoryview(len(body).to_bytes(_HEADER, "big") + body)
        try:
            while frame:
                frame = frame[os.write(self._write_fd, frame) :]
        except OSError as error:
            raise ChannelError("the pipe is closed") from error

    def receive(self) -> dict[str, Any]:
        """Waits for one frame.

        Raises:
            ChannelError: The pipe ended, the budget is spent, or the frame is no JSON object.
        """
        body = self._read(int.from_bytes(self._read(_HEADER), "big"))
        try:
            message = json.loads(body, parse_constant=_refuse, parse_float=_refuse)
        except (ValueError, RecursionError) as error:
            raise ChannelError("a reply is no valid JSON") from error
        if not isinstance(message, dict):
            raise ChannelError("a reply is no JSON object")
        return message

    def _read(self, size: int) -> bytes:
        if self._left is not None:
            if size > self._left:
                raise ChannelError("replies are larger than allowed")
            self._left -= size
        data = bytearray()
        while len(data) < size:
            try:
                chunk = os.read(self._read_fd, min(size - len(data), _CHUNK))
            except OSError as error:
                raise ChannelError("the pipe cannot be read") from error
            if not chunk:
                raise ChannelError("the pipe ended")
            data += chunk
        return bytes(data)


def _refuse(text: str) -> None:
    raise ValueError("floats travel as tagged text")
