"""`python -m decoders`: what it says is what the recipes are."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from decoders import RECIPES, make_decoder
from decoders.__main__ import describe, field_docs, main, type_name
from decoders.recipes.base import Decoder

PARTNERS = {"drafter": "d", "guider": "g", "sampler": "s"}
REMOTE = {"url": "http://127.0.0.1:8000/v1", "server_model": "m"}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_described_with_every_setting(recipe: str) -> None:
    kind, facts = RECIPES[recipe], describe(RECIPES[recipe])
    assert [s["name"] for s in facts["settings"]] == [f.name for f in dataclasses.fields(kind)]
    for fact in ("summary", "paper", "models", "exactness"):
        assert facts[fact], f"{recipe} has no {fact}"
    for setting in facts["settings"]:
        assert setting["doc"] or setting["name"] in docs_of_neighbours(kind, setting["name"]), (
            f"{recipe}.{setting['name']} has no docstring"
        )
    defaults = {s["name"]: s["default"] for s in facts["settings"] if s["name"] not in PARTNERS}
    needed = {kind.partner_setting: "m"} if kind.partner_setting else {}
    if recipe == "remote":
        needed = REMOTE
    assert make_decoder(recipe, {**defaults, **needed}).recipe == recipe, "defaults are valid"
    assert json.loads(json.dumps(facts)) == facts


def docs_of_neighbours(kind: type[Decoder], name: str) -> str:
    """Settings without a text of their own must be named in another's."""
    return " ".join(text for other, text in field_docs(kind).items() if other != name)


def test_a_string_under_a_field_is_its_doc() -> None:
    docs = field_docs(RECIPES["prophet"])
    assert docs["steps"].startswith("Denoising steps"), "a base's, where there is none"
    assert docs["gap_mid"] == "The same before 67%."
    assert "\n" not in "".join(docs.values())


def test_types_are_written_as_values() -> None:
    types = {s["name"]: s["type"] for s in describe(RECIPES["llada"])["settings"]}
    assert types["steps"] == "int"
    assert types["block_length"] == "int | null"
    assert types["remasking"] == "low_confidence | random"
    assert types["logits_eos_inf"] == "true | false"
    assert type_name(str) == "text"


def test_everything_is_printed_in_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert all(len(line) <= 80 and line == line.rstrip() for line in printed.splitlines())
    assert "\x1b" not in printed
    for recipe, kind in RECIPES.items():
        assert f"\n{recipe}\n" in f"\n{printed}"
        for field in dataclasses.fields(kind):
            assert f"  {field.name} " in printed


def test_one_recipe_has_types_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fast-dllm"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("fast-dllm\n")
    assert "none | prefix | dual" in printed
    assert "\nllada\n" not in printed


def test_json_holds_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [facts["recipe"] for facts in found] == list(RECIPES)
    assert main(["ar", "--json"]) == 0
    (facts,) = json.loads(capsys.readouterr().out)
    assert facts == describe(RECIPES["ar"])


def test_an_unknown_recipe_names_the_nearest(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "decoders", "fastdllm"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "error: there is no decoder 'fastdllm'; did you mean 'fast-dllm'?\n"
    assert done.stdout == ""
