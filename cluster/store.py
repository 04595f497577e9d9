"""A folder on any pyarrow filesystem, whose files are either whole or not there."""

import contextlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

_WHOLE_AT_CLOSE = frozenset({"s3", "gcs", "gs", "abfs", "az"})
"""Filesystems where nothing is visible before its last byte, and which cannot rename."""


class StoreError(ValueError):
    """A place that cannot be opened: says which, and why."""


class Store:
    """Files below one root.

    A file is published by a rename from a temporary name beside it (made durable first on a local
    disk). An object store has no rename, but an object appears there only when its upload ends, so
    it is written under its own name, from a buffer that is complete before the upload begins.

    Args:
        filesystem: where.
        root: the folder, as the filesystem names it.
        uri: what another process opens it by.
    """

    def __init__(self, filesystem: fs.FileSystem, root: str, uri: str = "") -> None:
        while isinstance(filesystem, fs.SubTreeFileSystem):
            root = f"{filesystem.base_path.rstrip('/')}/{root.lstrip('/')}"
            filesystem = filesystem.base_fs
        self.filesystem, self.root, self.uri = filesystem, root.rstrip("/"), uri

    @classmethod
    def open(cls, place: str | Path) -> "Store":
        """A path, or a URI that pyarrow knows: `s3://`, `gs://`, `hdfs://`, `fsspec+NAME://`.

        Raises:
            StoreError: no such filesystem, or one that cannot be reached.
        """
        text = str(place)
        if "://" not in text:
            text = os.path.abspath(text)
            return cls(fs.LocalFileSystem(), text, text)
        try:
            filesystem, root = fs.FileSystem.from_uri(text)
        except (pa.ArrowException, OSError, ValueError, ImportError) as error:
            raise StoreError(f"{text} cannot be opened: {error}") from error
        return cls(filesystem, root, text)

    def __str__(self) -> str:
        return self.uri or self.root

    @property
    def local(self) -> Path | None:
        """The folder as a path of this machine, or None."""
        return Path(self.root) if isinstance(self.filesystem, fs.LocalFileSystem) else None

    def child(self, name: str) -> "Store":
        base, question, query = self.uri.partition("?")
        uri = f"{base.rstrip('/')}/{name}{question}{query}" if base else ""
        return Store(self.filesystem, self.path(name), uri)

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def make(self) -> None:
        self.filesystem.create_dir(self.root, recursive=True)

    def names(self, suffix: str = "") -> list[str]:
        """Names of the files directly in the folder, in order; none if there is no folder."""
        selector = fs.FileSelector(self.root, allow_not_found=True)
        found = self.filesystem.get_file_info(selector)
        files = [info.base_name for info in found if info.type == fs.FileType.File]
        return sorted(n for n in files if n.endswith(suffix) and not n.startswith("."))

    def size(self, name: str) -> int:
        """In bytes. Raises FileNotFoundError."""
        info = self.filesystem.get_file_info(self.path(name))
        if info.type != fs.FileType.File:
            raise FileNotFoundError(self.path(name))
        return int(info.size)

    def exists(self, name: str) -> bool:
        return bool(self.filesystem.get_file_info(self.path(name)).type == fs.FileType.File)

    def changed_s(self, name: str) -> float | None:
        """When a file was last written, by the clock of the store; None if it is gone or the
        store does not say."""
        found = self.filesystem.get_file_info(self.path(name)).mtime_ns
        return None if found is None else found / 1e9

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError."""
        with self.filesystem.open_input_stream(self.path(name)) as stream:
            content: bytes = stream.read()
        return content

    def input(self, name: str) -> Any:
        """A file to read anywhere in. Raises FileNotFoundError."""
        return self.filesystem.open_input_file(self.path(name))

    def put(self, name: str, content: bytes | pa.Buffer) -> None:
        """Publishes a small file."""
        with self.writing(name) as stream:
            stream.write(content)

    def put_all(self, folder: Path, paths: Iterable[Path]) -> None:
        """Publishes files from below a folder here under the same names, in their order."""
        for path in paths:
            name = path.relative_to(folder).as_posix()
            self.filesystem.create_dir(self.path(name).rpartition("/")[0], recursive=True)
            self.put(name, path.read_bytes())

    def put_json(self, name: str, value: Any) -> None:
        self.put(name, (json.dumps(value, indent=2) + "\n").encode())

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Any]:
        """A stream whose file is published when the block ends, unless it ends by an error. (On an
        object store an error in the midst of a large file can leave a piece; nothing lists it.)"""
        kind = self.filesystem.type_name.removeprefix("py::").removeprefix("fsspec+")
        if kind in _WHOLE_AT_CLOSE:
            with self.filesystem.open_output_stream(self.path(name)) as stream:
                yield stream
            return
        folder, _, base = self.path(name).rpartition("/")
        temporary = f"{folder}/.{base}.{uuid.uuid4().hex}.tmp"
        try:
            with self.filesystem.open_output_stream(temporary) as stream:
                yield stream
            if isinstance(self.filesystem, fs.LocalFileSystem):
                with open(temporary, "rb") as written:
                    os.fsync(written.fileno())
            self.filesystem.move(temporary, self.path(name))
        except BaseException:
            with contextlib.suppress(OSError):
                self.filesystem.delete_file(temporary)
            raise

    def rename(self, name: str, other: str) -> None:
        self.filesystem.move(self.path(name), self.path(other))

    def delete(self, name: str) -> None:
        """Deletes a file if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self.filesystem.delete_file(self.path(name))

    def delete_all(self) -> None:
        """Deletes the folder and what it holds."""
        with contextlib.suppress(OSError):
            self.filesystem.delete_dir(self.root)
