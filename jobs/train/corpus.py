"""The tokenised mixture: flat arrays that fit on a GPU, in one safetensors file."""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from jobs.train.config import TrainError
from jobs.train.data import Document
from jobs.train.documents import SHARES

CORPUS_FILE = "corpus.safetensors"
HELD_OUT_FILE = "held_out.parquet"
MAX_TOKENS = 512
"""Longest row of a batch; longer documents are cut."""
KINDS = tuple(SHARES)


@dataclass(frozen=True, slots=True)
class Corpus:
    """All documents, one after the other; D documents, T tokens (end-of-text not stored)."""

    tokens: NDArray[np.uint16]
    """[T]"""
    start: NDArray[np.int64]
    """[D] Where a document begins in `tokens`."""
    length: NDArray[np.int32]
    """[D] Its tokens."""
    prompt: NDArray[np.int32]
    """[D] How many of these are the prompt."""
    ends: NDArray[np.uint8]
    """[D] 1 if end-of-text follows."""
    kind: NDArray[np.uint8]
    """[D] Index into `KINDS`."""

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({f.name: getattr(self, f.name) for f in fields(self)}, path)

    @classmethod
    def load(cls, path: Path) -> "Corpus":
        try:
            return cls(**load_file(path))
        except (OSError, SafetensorError, TypeError) as error:
            raise TrainError(f"{path} is no corpus: {error}") from None


def _encode(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return [encoding.ids for encoding in encoded]


def tokenise(tokenizer: Tokenizer, documents: dict[str, list[Document]]) -> Corpus:
    """Encodes every document, prompt and text apart, as they are encoded at evaluation."""
    pieces: list[NDArray[np.uint16]] = []
    rows: list[tuple[int, int, int, int]] = []
    for number, kind in enumerate(KINDS):
        listed = documents.get(kind, [])
        prompts = _encode(tokenizer, [document.prompt for document in listed])
        texts = _encode(tokenizer, [document.text for document in listed])
        for document, prompt, text in zip(listed, prompts, texts, strict=True):
            ids = prompt + text
            whole = len(ids) < MAX_TOKENS
            if prompt and not whole:
                continue
            ids = ids[:MAX_TOKENS]
            pieces.append(np.asarray(ids, dtype=np.uint16))
            rows.append((len(ids), len(prompt), int(document.ends and whole), number))
    if not rows:
        raise TrainError("the data folder gives no documents")
    table = np.asarray(rows, dtype=np.int64)
    return Corpus(
        tokens=np.concatenate(pieces),
        start=np.cumsum(table[:, 0]) - table[:, 0],
        length=table[:, 0].astype(np.int32),
        prompt=table[:, 1].astype(np.int32),
        ends=table[:, 2].astype(np.uint8),
        kind=table[:, 3].astype(np.uint8),
    )
