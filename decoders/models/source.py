"""Where a checkpoint is: a bundled name, a local folder or file, a packaged model or a hub name.
Only JSON, safetensors and GGUF are ever read; no code of a checkpoint runs."""

import hashlib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from decoders.names import nearest
from decoders.types import DecoderError

BUNDLED = Path(__file__).resolve().parent.parent / "bundled"

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w.-]+)?")
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
_SAMPLED = 256 * 2**20
_CHUNK = 64 * 2**10
_HEADER = 100 * 2**20


class ModelError(DecoderError):
    """A checkpoint that cannot be found or cannot be right."""


def bundled() -> list[str]:
    """Names of the models that ship with the project."""
    return sorted(folder.name for folder in BUNDLED.glob("*") if (folder / "config.json").exists())


@dataclass(frozen=True)
class Checkpoint:
    """A folder with `config.json`, safetensors and a tokenizer."""

    name: str
    folder: Path
    source: str
    """What finds the same checkpoint on another node: a bundled or packaged name, an absolute path,
    or a hub name with its commit."""

    @cached_property
    def config(self) -> dict[str, Any]:
        try:
            config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ModelError(f"model {self.name}: config.json cannot be read: {error}") from error
        if not isinstance(config, dict):
            raise ModelError(f"model {self.name}: config.json is not an object")
        return config

    @cached_property
    def weight_files(self) -> list[Path]:
        """The safetensors files: those that the index names, or all of the folder."""
        index = self.folder / "model.safetensors.index.json"
        if index.exists():
            names = sorted(
                set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            )
            files = [self.folder / name for name in names]
        else:
            files = sorted(self.folder.glob("*.safetensors"))
        missing = [file.name for file in files if not file.exists()]
        if missing:
            raise ModelError(f"model {self.name}: {missing[0]} is missing in {self.folder}")
        if not files:
            raise ModelError(
                f"model {self.name}: {self.folder} holds no safetensors; convert the weights, "
                "since pickled ones are never loaded"
            )
        return files

    @cached_property
    def shapes(self) -> dict[str, list[int]]:
        """Of every tensor, from the files' headers."""
        found: dict[str, list[int]] = {}
        for file in self.weight_files:
            try:
                with file.open("rb") as stream:
                    size = int.from_bytes(stream.read(8), "little")
                    header = json.loads(stream.read(min(size, _HEADER)))
                end = max((entry["data_offsets"][1] for entry in _tensors(header)), default=0)
                whole = 8 + size + end == file.stat().st_size
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise ModelError(
                    f"model {self.name}: {file.name} is no safetensors file"
                ) from error
            if not whole:
                raise ModelError(
                    f"model {self.name}: {file.name} is cut short; copy or download it again"
                )
            found |= {key: value["shape"] for key, value in header.items() if key != "__metadata__"}
        return found

    @property
    def is_bundled(self) -> bool:
        return self.folder.parent == BUNDLED

    @property
    def parameters(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes.values())

    @cached_property
    def digest(self) -> str:
        """Identifies the weights: config and files, whole up to 256 MiB in all; of larger
        checkpoints every header and 64 chunks spread over each file."""
        digest = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode())
        whole = sum(file.stat().st_size for file in self.weight_files) <= _SAMPLED
        for file in self.weight_files:
            digest.update(f"{file.name}:{file.stat().st_size}".encode())
            for chunk in _chunks(file, whole):
                digest.update(chunk)
        return digest.hexdigest()[:16]


def _tensors(header: dict[str, Any]) -> list[dict[str, Any]]:
    return [entry for key, entry in header.items() if key != "__metadata__"]


def _chunks(file: Path, whole: bool) -> Iterator[bytes]:
    with file.open("rb") as stream:
        if whole:
            while chunk := stream.read(2**20):
                yield chunk
            return
        header = int.from_bytes(stream.read(8), "little")
        yield stream.read(min(header, 64 * 2**20))
        size = file.stat().st_size
        for i in range(64):
            stream.seek(max(0, (size - _CHUNK) * i // 63))
            yield stream.read(_CHUNK)


def find_checkpoint(source: str) -> Checkpoint:
    """A bundled model by its name, a folder by its path, anything like `owner/name` or
    `owner/name@revision` from the Hugging Face hub; a GGUF file by its path or as `gguf:PATH`, or
    by the name of a model that a Python package carries.

    Raises:
        ModelError: there is no such model.
    """
    from decoders.models.gguf import PACKAGED, find_gguf  # it builds on this module

    if source in bundled():
        return Checkpoint(source, BUNDLED / source, source)
    quantised = find_gguf(source)
    if quantised is not None:
        return quantised
    folder = Path(source).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise ModelError(f"model {source}: the folder holds no config.json")
        return Checkpoint(folder.name, folder.resolve(), str(folder.resolve()))
    if not _HUB_NAME.fullmatch(source):
        raise ModelError(
            f"there is no model {source!r}: no bundled model, no folder, no hub name"
            f"{nearest(source, [*bundled(), *PACKAGED])}"
        )
    from huggingface_hub import snapshot_download

    name, _, revision = source.partition("@")
    try:
        path = snapshot_download(name, revision=revision or None, allow_patterns=_HUB_FILES)
    except Exception as error:  # every failure of the hub client is the same to the user
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ModelError(
            f"model {source!r} could not be fetched from the hub ({reason}); give a local folder, "
            f"or one of the bundled models: {', '.join(bundled())}"
        ) from error
    return Checkpoint(name.rpartition("/")[2], Path(path), f"{name}@{Path(path).name}")
