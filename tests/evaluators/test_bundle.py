"""The bundled files come from the official ones and nothing else."""

import csv
import gzip
import hashlib
import io
import json
import zipfile

import pytest

from evaluators import DataError, bundle, store


@pytest.fixture
def official(tmp_path, monkeypatch):
    """A source folder with tiny files in the official formats, and their digests."""
    problem = {"question": "1+1?", "answer": "2\n#### 2"}
    table = io.StringIO(newline="")
    csv.writer(table).writerow(['Say "hi",\nor NA?', "None", "NA", "null", "nan", "D"])
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        for split in ("test", "dev"):
            packed.writestr(f"data/{split}/b_{split}.csv", table.getvalue())
            packed.writestr(f"data/{split}/a_{split}.csv", "q,1,2,3,4,A\r\n")
        packed.writestr("data/val/a_val.csv", "not,read")
    program = {
        key: key
        for key in ("task_id", "prompt", "entry_point", "canonical_solution", "test", "more")
    }
    contents = {
        "gsm8k/test.jsonl": json.dumps(problem).encode() + b"\n",
        "gsm8k/train.jsonl": json.dumps(problem).encode() + b"\n",
        "mmlu/mmlu.zip": archive.getvalue(),
        "humaneval/HumanEval.jsonl.gz": gzip.compress(json.dumps(program).encode() + b"\n"),
        "lm1b/news.en.heldout-00000-of-00050": "one .\ntwo\u2028lines .\n".encode(),
    }
    source = tmp_path / "source"
    for name, content in contents.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(content)
    known = {
        name: bundle.Official(
            entry.path,
            hashlib.sha256(contents[entry.path]).hexdigest(),
            entry.origin,
            entry.licence,
        )
        for name, entry in bundle.OFFICIAL.items()
    }
    monkeypatch.setattr(bundle, "OFFICIAL", known)
    (tmp_path / "target").mkdir()
    return source


def test_rows_come_through_unchanged(official, tmp_path, monkeypatch) -> None:
    target = tmp_path / "target"
    assert bundle.main(["--source", str(official), "--target", str(target)]) == 0
    monkeypatch.setattr(store, "BUNDLED", target)
    assert store.read("gsm8k_test") == [{"question": "1+1?", "answer": "2\n#### 2"}]
    assert store.read("lm1b_test") == [{"text": "one ."}, {"text": "two\u2028lines ."}]
    assert "more" not in store.read("humaneval_test")[0]
    first, second = store.read("mmlu_test")
    assert first == {"subject": "a", "question": "q", "choices": ["1", "2", "3", "4"], "answer": 0}
    assert second["question"] == 'Say "hi",\nor NA?'
    assert (second["choices"], second["answer"]) == (["None", "NA", "null", "nan"], 3)


def test_the_same_sources_give_the_same_bytes(official, tmp_path) -> None:
    again = tmp_path / "again"
    again.mkdir()
    assert bundle.build(official, tmp_path / "target") == bundle.build(official, again)
    for name in ("mmlu_test.parquet", "sources.json"):
        assert (again / name).read_bytes() == (tmp_path / "target" / name).read_bytes()


def test_a_file_that_is_not_the_official_one_is_refused(official, tmp_path, capsys) -> None:
    (official / "gsm8k/train.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"train\.jsonl: sha256 must be "):
        bundle.build(official, tmp_path / "target")
    (official / "gsm8k/test.jsonl").unlink()
    assert bundle.main(["--source", str(official), "--target", str(tmp_path / "target")]) == 2
    assert "test.jsonl cannot be read" in capsys.readouterr().err


def test_the_bundled_files_name_the_official_digests() -> None:
    for name, official in bundle.OFFICIAL.items():
        entry = store.sources()[f"{name}.parquet"]
        assert (entry["source"], entry["source_sha256"]) == (official.path, official.sha256)
