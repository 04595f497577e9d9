"""`python -m decoders`: every recipe with its paper, its models and its settings."""

import argparse
import ast
import dataclasses
import inspect
import json
import sys
import textwrap
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from decoders.names import nearest
from decoders.recipes.base import Decoder
from decoders.registry import RECIPES

LOG_WIDTH = 80
"""Columns where nobody says how many there are: a pipe, a log."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the recipes and returns the exit code."""
    options = _parse(arguments)
    if options.recipe is not None and options.recipe not in RECIPES:
        print(f"error: there is no decoder {options.recipe!r}", end="", file=sys.stderr)
        print(nearest(options.recipe, RECIPES), file=sys.stderr)
        return 2
    chosen = [options.recipe] if options.recipe else list(RECIPES)
    if options.json:
        print(json.dumps([describe(RECIPES[name]) for name in chosen], indent=2))
        return 0
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=LOG_WIDTH, color_system=None)
    with console.capture() as printed:
        for name in chosen:
            _print(console, describe(RECIPES[name]), typed=len(chosen) == 1)
    console.out("\n".join(line.rstrip() for line in printed.get().splitlines()))
    return 0


def describe(kind: type[Decoder]) -> dict[str, Any]:
    """What there is to know of a recipe; JSON-serialisable."""
    hints, docs = typing.get_type_hints(kind), field_docs(kind)
    return {
        "recipe": kind.recipe,
        "summary": inspect.getdoc(kind) or "",
        "paper": kind.paper,
        "models": kind.models,
        "exactness": kind.exactness,
        "generation": kind.generation,
        "visibility": sorted(kind.visibility),
        "second_model": kind.partner_setting,
        "second_model_kind": kind.partner_kind,
        "settings": [
            {
                "name": field.name,
                "type": type_name(hints[field.name]),
                "default": field.default,
                "doc": docs.get(field.name, ""),
            }
            for field in dataclasses.fields(kind)
        ],
    }


def field_docs(kind: type) -> dict[str, str]:
    """The string under each field of a class, its bases' where it has none of its own."""
    docs: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for field, below in zip(tree.body, tree.body[1:], strict=False):
            match field, below:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    docs[name] = " ".join(text.split())
    return docs


_NAMES: dict[Any, str] = {type(None): "null", str: "text", bool: "true | false"}


def type_name(hint: Any) -> str:
    """A setting's type as one would write its values: `int`, `a | b | c`, `float | null`."""
    if hint in _NAMES:
        return _NAMES[hint]
    if typing.get_origin(hint) is Literal:
        return " | ".join(str(value) for value in typing.get_args(hint))
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return " | ".join(type_name(part) for part in typing.get_args(hint))
    return str(getattr(hint, "__name__", hint))


def _value(value: Any) -> str:
    """A default as YAML has it."""
    return value if isinstance(value, str) and value else json.dumps(value)


def _print(console: Console, facts: dict[str, Any], typed: bool) -> None:
    console.print(Text(facts["recipe"], style="bold cyan"))
    console.print(Padding(Text(facts["summary"]), (0, 0, 0, 2)))
    _print_facts(console, facts)
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold", max_width=16)
    table.add_column(overflow="fold")
    for setting in facts["settings"]:
        meaning = Text(setting["doc"])
        if typed:
            meaning = Text.assemble((setting["type"], "dim"), "\n" if meaning else "", meaning)
        table.add_row(setting["name"], Text(_value(setting["default"])), meaning)
    console.print(Padding(table, (0, 0, 1, 2)))


def _print_facts(console: Console, facts: dict[str, Any]) -> None:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name in ("paper", "models", "exactness"):
        grid.add_row(name, Text(facts[name]))
    if facts["second_model"]:
        kind = {"sampler": "joint sampler"}.get(
            facts["second_model_kind"], f"{facts['second_model_kind']} model"
        )
        grid.add_row("needs", Text(f"{facts['second_model']}: a {kind} of the run or a source"))
    console.print(Padding(grid, (0, 0, 0, 2)))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m decoders",
        description="The recipes: what each is, which models it runs on, its settings with their "
        "defaults.",
    )
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="one recipe in detail")
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
