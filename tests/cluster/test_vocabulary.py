"""Token ids as text: whole characters, parts of one, special tokens, ids that nobody knows."""

from dataclasses import replace

import pyarrow as pa
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from cluster.cells import Cell, ModelSpec
from cluster.vocabulary import Vocabulary, entries
from decoders import find_checkpoint, load_tokenizer, make_decoder
from reports.schema import SAMPLES, STEPS, VOCABULARY


def cell_of(source: str) -> Cell:
    return Cell(
        model=ModelSpec("m", source, "d1", "float32", 8),
        decoder=make_decoder("llada", {"gen_length": 16, "steps": 4}),
        task="gsm8k",
        task_version="1",
        num_fewshot=0,
        chat=False,
        mode="throughput",
        seed=0,
        scorer=None,
    )


def rows(schema: pa.Schema, *found: dict[str, object]) -> pa.Table:
    return pa.Table.from_pylist([{**dict.fromkeys(schema.names), **row} for row in found], schema)


def test_bytes_of_byte_level_tokens_make_the_text_again() -> None:
    tokenizer = load_tokenizer(find_checkpoint("tiny-mdlm"))
    text = "Grüße, 世界 👩 =\n\t 12 apples\x00\x7f\u00ad"
    ids = tokenizer.encode(text, add_special_tokens=False)
    found = entries(tokenizer, ids)
    assert b"".join(entry["bytes"] for entry in found).decode() == text
    parts = [entry for entry in found if entry["text"] is None]
    assert parts and all(len(entry["bytes"]) < 5 for entry in parts), "a character in parts"
    whole = [entry for entry in found if entry["text"] is not None]
    assert all(entry["text"].encode() == entry["bytes"] for entry in whole)
    assert not any(entry["special"] for entry in found)


def test_special_and_unknown_ids() -> None:
    end, unknown = entries(load_tokenizer(find_checkpoint("tiny-mdlm")), [0, 3_000_000])
    assert end == {"text": "<|endoftext|>", "bytes": b"<|endoftext|>", "special": True}
    assert unknown == {"text": None, "bytes": None, "special": False}


def test_pieces_with_byte_fallback() -> None:
    vocabulary = {"<unk>": 0, "▁Hello": 1, "<0xE4>": 2, "<0xB8>": 3, "<0x96>": 4, "▁": 5, "Ġ": 6}
    inner = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    inner.add_special_tokens([AddedToken("<unk>", special=True)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    found = entries(tokenizer, range(7))
    assert b"".join(entry["bytes"] for entry in found[1:6]) == " Hello世 ".encode()
    assert [entry["text"] for entry in found] == ["<unk>", " Hello", None, None, None, " ", "Ġ"]
    assert [entry["special"] for entry in found] == [True] + [False] * 6


def test_only_ids_that_occur_are_listed() -> None:
    vocabulary = Vocabulary([cell_of("tiny-mdlm")])
    samples = rows(
        SAMPLES, {"sid": "a", "model": "m", "output_ids": [20, 0, 0]}, {"sid": "b", "model": "m"}
    )
    steps = rows(STEPS, {"sid": "a", "tokens": [30, 20]}, {"sid": "a", "tokens": []})
    vocabulary.add(samples, steps)
    table = vocabulary.table()
    assert table.schema == VOCABULARY
    assert [(row["model"], row["token_id"]) for row in table.to_pylist()] == [
        ("m", 0),
        ("m", 20),
        ("m", 30),
    ]


def test_a_missing_tokenizer_costs_nothing_but_the_texts(caplog: pytest.LogCaptureFixture) -> None:
    gone = cell_of("/no/such/folder")
    vocabulary = Vocabulary([gone, replace(gone, model=replace(gone.model, name="other"))])
    vocabulary.add(
        rows(SAMPLES, {"sid": "a", "model": "m", "output_ids": [1]}), STEPS.empty_table()
    )
    assert vocabulary.table() == VOCABULARY.empty_table()
    assert "no token texts of m" in caplog.text and "other" not in caplog.text
