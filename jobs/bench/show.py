"""What was measured, as a table."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

LOG_WIDTH = 150


def show(found: Mapping[str, Any], console: Console) -> None:
    """Prints what `jobs.bench` measured."""
    if not console.is_terminal:
        console = Console(highlight=False, width=LOG_WIDTH, color_system=None)
    if "points" in found:
        console.print(f"{found['device']}, {found['dtype']}", soft_wrap=True)
        console.print(_growth(found))
        return
    least, median, most = found["prompts"]["tokens"]
    threads = f", {found['threads']} threads" if found["threads"] else ""
    console.print(
        f"{found['device']}, {found['dtype']}{threads}: copy {found['copy_bytes_s'] / 1e9:,.1f} "
        f"GB/s, matrix product {found['matrix_flops_s'] / 1e12:,.3g} TFLOP/s",
        soft_wrap=True,
    )
    split = " on each device" if found["tensor_parallel"] > 1 else ""
    for source, model in found["models"].items():
        console.print(
            f"{source}: {model['parameters'] / 1e6:,.1f} million parameters{split}, ready after "
            f"{model['load_s']:.1f} s, {model['load_host_bytes'] / 1e9:.2f} GB of host memory",
            soft_wrap=True,
        )
    console.print(
        f"prompts: {found['prompts']['source']}; {least} to {most} tokens, median {median}"
    )
    console.print(_speeds(found))
    if found["dtype"] != "float32" and found.get("tokens_equal") is False:
        console.print(
            f"in {found['dtype']} sums of other shapes round otherwise, so that tokens part at "
            "near ties; --dtype float32 compares exactly",
            soft_wrap=True,
        )
    console.print(_passes(found))
    rows = found["prompts"]["task_rows"]
    if rows is not None:
        times = [f"{r['recipe']} {rows / r['samples_s']:,.0f} s" for r in found["results"]]
        console.print(f"at this rate all {rows:,} of the task: {', '.join(times)}")
    memory = [f"host {found['peak_memory']['host_bytes'] / 1e9:.2f} GB"]
    if "device_bytes" in found["peak_memory"]:
        memory.append(f"GPU {found['peak_memory']['device_bytes'] / 1e9:.2f} GB")
    console.print(f"peak memory: {', '.join(memory)}")
    for run in found.get("through_ray", ()):
        console.print(
            f"through Ray, {run['actors']} actor(s): {run['samples']} samples, "
            f"{run['samples_s']:.3g} samples/s, {run['times_bench']:.3f} times this process; the "
            f"first actor ends {run['tail_s']:.1f} s before the last",
            soft_wrap=True,
        )


def _growth(found: Mapping[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("varied", "value"):
        table.add_column(name, no_wrap=True)
    for name in ("s a sample", "exponent", "of the last two"):
        table.add_column(name, justify="right", no_wrap=True)
    last = ""
    for point in found["points"]:
        fitted = found["exponents"].get(point["axis"], {}) if point["axis"] != last else {}
        table.add_row(
            point["axis"] if point["axis"] != last else "",
            f"{point['value']:,.6g}",
            f"{point['seconds']:.4g}" if "seconds" in point else point["refused"].split(";")[0],
            f"{fitted['whole']:.2f}" if fitted else "",
            f"{fitted['last']:.2f}" if fitted else "",
        )
        last = point["axis"]
    return table


def _speeds(found: Mapping[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("recipe", "model"):
        table.add_column(name, no_wrap=True)
    columns = ["slots", "samples/s", "tokens/s", "latency s", "of floor", "in passes", "warm-up s"]
    compared = "speedup_over_reference" in found
    for name in columns + ([found["against"], "speedup", "same tokens"] if compared else []):
        table.add_column(name, justify="right", no_wrap=True)
    for result in found["results"]:
        cells = [
            result["recipe"],
            result["model"],
            f"{result['slots']}",
            f"{result['samples_s']:.3g}",
            f"{result['tokens_s']:,.0f}",
            f"{result['latency_s']['median']:.3g}",
            _share(result["share_of_floor"]),
            _share(result["share_in_passes"]),
            f"{result['warm_up_s']:.1f}",
        ]
        if compared:
            cells += [
                f"{result['reference']['samples_s']:.3g}/s",
                f"{result['speedup_over_reference']:.1f}x",
                f"{result['samples_equal']} of {result['samples_compared']}",
            ]
        table.add_row(*cells)
    return table


def _passes(found: Mapping[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("recipe", "pass"):
        table.add_column(name, no_wrap=True)
    for name in ("ms", "rows", "positions", "passes"):
        table.add_column(name, justify="right", no_wrap=True)
    for result in found["results"]:
        for kind, step in result["steps"].items():
            table.add_row(
                result["recipe"],
                kind,
                f"{step['ms']:.3g}",
                f"{step['rows']:.1f}",
                f"{step['positions']:,.0f}",
                f"{step['passes']:,}",
            )
    return table


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"
