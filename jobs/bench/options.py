"""The command line: recipes in the order in which they stand, each with its model and settings."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from decoders.models.stated import SHAPES
from jobs.errors import UserError

DESCRIPTION = """\
How fast the engine decodes on this machine: samples and tokens a second, milliseconds a pass, and
the share of the floor, which is what the recipe's passes must take by arithmetic and by bytes moved
at the copy and matrix rates measured in the same run. --model holds for the recipes after it, --set
for the recipe before it:

  python -m jobs.bench
  python -m jobs.bench --recipe fast-dllm --set cache=prefix --recipe llada --against reference
  python -m jobs.bench --model shape:llada-8b --prompts gsm8k-5shot --slots 32 \\
      --recipe fast-dllm --set gen_length=256 --set cache=dual --against reference
"""

EPILOG = f"""\
Shapes have random weights, made on the device: {", ".join(SHAPES)}, or FILE.json, a checkpoint's
config. Their heads never choose EOS or the mask, so that every sample takes its full budget and
every token counts; of checkpoints, tokens count up to the first stop token. Shapes read prompts
with the tokenizer of tiny-mdlm.
"""


@dataclass
class Entry:
    """One recipe to measure."""

    recipe: str
    model: str
    settings: dict[str, Any] = field(default_factory=dict)


class _InOrder(argparse.Action):
    """Keeps the options that mean something by their place."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        namespace.ordered = [*getattr(namespace, "ordered", []), (self.dest, values)]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options; `entries` holds the recipes.

    Raises:
        UserError: an option stands where it means nothing, or has a wrong value.
    """
    parser = argparse.ArgumentParser(
        prog="python -m jobs.bench",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_what(parser)
    _add_how(parser)
    options = parser.parse_args(arguments)
    for pool in options.through_ray or []:
        if pool < 1:
            raise UserError(f"--through-ray wants numbers of actors, at least 1, got {pool}")
    if options.draw is not None and not options.growth:
        raise UserError("--draw draws --growth; give both")
    if options.tensor_parallel > 1 and (options.against or options.growth):
        raise UserError("--tensor-parallel goes with neither --against nor --growth")
    for name in ("slots", "samples", "reference_samples", "rounds", "tensor_parallel"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    if options.warm_up is not None and options.warm_up < 0:
        raise UserError(f"--warm-up must not be negative, got {options.warm_up}")
    if options.seconds is not None and not 0 < options.seconds < float("inf"):
        raise UserError(f"--seconds must be above 0, got {options.seconds}")
    options.entries = _entries(getattr(options, "ordered", []))
    options.models = [value for name, value in getattr(options, "ordered", []) if name == "model"]
    return options


def _add_what(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what is decoded")
    what.add_argument(
        "--model",
        action=_InOrder,
        metavar="MODEL",
        help="bundled name, folder, hub name or shape:NAME (default: tiny-mdlm, for ar tiny-ar)",
    )
    what.add_argument(
        "--recipe", action=_InOrder, metavar="NAME", help="again for more (default: fast-dllm, ar)"
    )
    what.add_argument(
        "--set",
        action=_InOrder,
        metavar="KEY=VALUE",
        help="a setting of the recipe before it, e.g. gen_length=256",
    )
    what.add_argument("--slots", type=int, metavar="N", help="samples decoded at once (8)")
    what.add_argument(
        "--prompts", metavar="TASK[-Nshot]", help="a task's prompts (default: gsm8k-0shot)"
    )
    what.add_argument(
        "--prompt-length", metavar="N[-M]", help="random prompts of N, or N to M, tokens instead"
    )
    what.add_argument(
        "--tokenizer",
        type=Path,
        metavar="DIR",
        help="reads prompts for shapes (default: tiny-mdlm's)",
    )
    what.add_argument("--samples", type=int, metavar="N", help="a round (default: twice the slots)")
    what.add_argument(
        "--seconds", type=float, metavar="S", help="a round goes on with the same samples so long"
    )


def _add_how(parser: argparse.ArgumentParser) -> None:
    how = parser.add_argument_group("how it is measured")
    how.add_argument(
        "--mode",
        choices=("throughput", "latency"),
        default="throughput",
        help="throughput: slots full. latency: one slot",
    )
    how.add_argument(
        "--against",
        choices=("reference", "plain"),
        help="one sample at a time beside it. reference: the published way, its caches too. plain: "
        "the same with stock modules and keys that are kept rotated",
    )
    how.add_argument(
        "--reference-samples", type=int, default=2, metavar="N", help="of the loop, a round (2)"
    )
    how.add_argument(
        "--rounds", type=int, default=3, metavar="N", help="in turns; medians are told (3)"
    )
    how.add_argument(
        "--warm-up", type=int, metavar="N", help="samples decoded before (default: the slots)"
    )
    how.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    how.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="default: bfloat16 on a GPU, float32 on a CPU",
    )
    how.add_argument(
        "--growth",
        action="store_true",
        help="instead: seconds a sample of the first recipe against canvas, prompt, slots, budget "
        "and, with --model again, model size",
    )
    how.add_argument("--draw", type=Path, metavar="FILE", help="the growth as a page of HTML")
    how.add_argument(
        "--through-ray",
        type=int,
        nargs="+",
        metavar="N",
        help="the same rows through jobs.evaluate besides, with N actors and N times the rows",
    )
    how.add_argument(
        "--checkpoint",
        type=Path,
        metavar="DIR",
        help="write the shape there as a checkpoint and load it from there",
    )
    how.add_argument(
        "--tensor-parallel",
        type=int,
        default=1,
        metavar="N",
        help="split the models over N GPUs, or over N processes on CPUs (1)",
    )
    how.add_argument("--seed", type=int, default=0, help="of the prompts' order or tokens (0)")
    how.add_argument(
        "--json", action="store_true", help="one JSON object on standard output, nothing else there"
    )
    how.add_argument("--out", type=Path, metavar="FILE", help="writes the JSON object here, too")


def _entries(ordered: Sequence[tuple[str, Any]]) -> list[Entry]:
    model: str | None = None
    entries: list[Entry] = []
    for name, value in ordered:
        if name == "model":
            model = value
        elif name == "recipe":
            entries.append(Entry(value, model or _default_model(value)))
        elif not entries:
            raise UserError(f"--set {value} stands before any --recipe; put it after its recipe")
        else:
            key, setting = _setting(value)
            entries[-1].settings[key] = setting
    if not entries:
        names = ["fast-dllm", "ar"] if model is None else [_default_recipe(model)]
        entries = [Entry(name, model or _default_model(name)) for name in names]
    return entries


def _default_model(recipe: str) -> str:
    return "tiny-ar" if recipe == "ar" else "tiny-mdlm"


def _default_recipe(model: str) -> str:
    from decoders import find_checkpoint
    from decoders.models.families import generation_of
    from decoders.models.stated import PREFIX, find_shape

    found = find_shape(model) if model.startswith(PREFIX) else find_checkpoint(model)
    return "ar" if generation_of(found) == "autoregressive" else "fast-dllm"


def _setting(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"--set wants KEY=VALUE, got {text!r}; e.g. --set gen_length=128")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"--set {key}: the value is not valid YAML: {value!r}") from error
