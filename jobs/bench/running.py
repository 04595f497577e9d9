"""What `python -m jobs.bench` does: the recipes in turns, their growth, or the same through Ray."""

import gc
import json
import logging
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console

from cluster.facts import device_name, versions
from decoders import Decoder, Model, make_decoder, make_engine
from decoders.models.stated import PREFIX
from decoders.ranks import Ranks
from jobs.bench.draw import draw
from jobs.bench.growth import Base, exponents, measure
from jobs.bench.measure import Contender, run_reference, run_round, summary, warm_up
from jobs.bench.memory import peak_memory
from jobs.bench.rates import Rates, measure_rates
from jobs.bench.reference import Loop, reference_for
from jobs.bench.show import show
from jobs.bench.through import Evaluation, evaluate, rows_of
from jobs.bench.work import (
    Ask,
    Loaded,
    load,
    parse_prompts,
    prompt_ids,
    requests,
    task_rows,
    write_shape,
)
from jobs.errors import UserError

SLOTS = 8
GROWTH_PROMPT = 256


def run(options: Namespace) -> int:
    """Measures what the options ask for, shows it and returns the exit code.

    Raises:
        UserError: there is no such device, or `--out` cannot be written.
    """
    # What transformers warns of would stand between the lines; errors are raised besides.
    logging.getLogger("transformers").setLevel(logging.ERROR)
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here; use --device cpu")
    dtype = options.dtype or ("bfloat16" if device.type == "cuda" else "float32")
    try:
        if options.growth:
            found = grow(options, device, dtype)
        elif options.through_ray:
            found = bench_through_ray(options, device, dtype)
        else:
            found = bench(options, device, dtype)
    except torch.OutOfMemoryError as error:
        raise UserError(
            "the device's memory does not hold this; fewer --slots, a shorter gen_length or one "
            f"recipe a run need less ({str(error).partition('. ')[0]})"
        ) from error
    text = json.dumps(found, indent=None if options.json else 2)
    if options.out is not None:
        try:
            options.out.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"--out {options.out} cannot be written: {error.strerror}") from error
    if options.draw is not None:
        draw(found, options.draw)
    if options.json:
        print(text)
    else:
        show(found, Console())
    return 0


def bench(
    options: Namespace,
    device: torch.device,
    dtype: str,
    rows: Sequence[Ask] | None = None,
) -> dict[str, Any]:
    """Measures every recipe in turns; JSON-serialisable. `rows` are prompts to take instead of
    those that the options name."""
    loaded: dict[str, Loaded] = {}
    with _ranks(options, device) as ranks:
        return _measured(options, device, dtype, loaded, rows, ranks)


@contextmanager
def _ranks(options: Namespace, device: torch.device) -> Iterator[Ranks | None]:
    """What models are split over, if they are."""
    size: int = options.tensor_parallel
    if size == 1:
        yield None
        return
    if device.type == "cuda" and torch.cuda.device_count() < size:
        raise UserError(f"--tensor-parallel {size}: torch sees {torch.cuda.device_count()} GPUs")
    ranks = Ranks(size, device.type, max(1, torch.get_num_threads() // size))
    try:
        yield ranks
    finally:
        ranks.close()


def _measured(
    options: Namespace,
    device: torch.device,
    dtype: str,
    loaded: dict[str, Loaded],
    rows: Sequence[Ask] | None,
    ranks: Ranks | None,
) -> dict[str, Any]:
    contenders = _contenders(options, device, dtype, loaded, rows, ranks)
    rates = measure_rates(device, getattr(torch, dtype))
    for contender in contenders:
        samples = contender.engine.slots if options.warm_up is None else options.warm_up
        warm_up(contender, samples)
        if samples and contender.loop is not None:
            run_reference(contender, 1)
            contender.reference.clear()
    for _ in range(options.rounds):
        for contender in contenders:
            run_round(contender, options.seconds)
            if contender.loop is not None:
                run_reference(contender, options.reference_samples)
    return _report(options, contenders, loaded, rates, dtype)


def grow(options: Namespace, device: torch.device, dtype: str) -> dict[str, Any]:
    """Seconds a sample around the first recipe's point; JSON-serialisable."""
    entry, wanted = options.entries[0], parse_prompts(options.prompts, options.prompt_length)
    base = Base(
        recipe=entry.recipe,
        model=entry.model,
        settings=entry.settings,
        prompt=wanted.low or GROWTH_PROMPT,
        slots=_slots(options),
        models=tuple(dict.fromkeys(options.models)) if len(set(options.models)) > 1 else (),
    )
    points = measure(base, device, dtype, options.seed)
    return {
        **_machine(device, dtype),
        "recipe": entry.recipe,
        "settings": make_decoder(entry.recipe, entry.settings).settings(),
        "model": entry.model,
        "prompt": base.prompt,
        "slots": base.slots,
        "points": points,
        "exponents": exponents(points),
    }


def bench_through_ray(options: Namespace, device: torch.device, dtype: str) -> dict[str, Any]:
    """The first recipe alone, and then its rows through `jobs.evaluate`; JSON-serialisable."""
    entry, prompts = options.entries[0], parse_prompts(options.prompts, options.prompt_length)
    options.entries, slots = [entry], _slots(options)
    if entry.model.startswith(PREFIX) and options.checkpoint is None:
        raise UserError("--through-ray with a shape needs --checkpoint DIR to write it to")
    source = entry.model
    if source.startswith(PREFIX):
        write_shape(source, options.checkpoint, str(device), dtype, options.tokenizer)
        entry.model = source = str(options.checkpoint)
    evaluation = Evaluation(
        source,
        dtype,
        slots,
        entry.recipe,
        entry.settings,
        prompts,
        on_gpu=device.type == "cuda",
        warm_up=slots if options.warm_up is None else options.warm_up,
        tensor_parallel=options.tensor_parallel,
    )
    samples = options.samples or 2 * slots
    with TemporaryDirectory() as folder:
        rows = rows_of(evaluation.config(samples, 1, options.seed), Path(folder))
    found = bench(options, device, dtype, rows)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    found["through_ray"] = []
    for pool in options.through_ray:
        with TemporaryDirectory() as folder:
            config = evaluation.config(samples * pool, pool, options.seed)
            run = evaluate(config, Path(folder))
        share = run["samples_s"] / found["results"][0]["samples_s"]
        found["through_ray"].append({"actors": pool, **run, "times_bench": share})
    return found


def _contenders(
    options: Namespace,
    device: torch.device,
    dtype: str,
    loaded: dict[str, Loaded],
    rows: Sequence[Ask] | None,
    ranks: Ranks | None,
) -> list[Contender]:
    """The recipes with their models; one model is loaded once."""
    wanted, slots = parse_prompts(options.prompts, options.prompt_length), _slots(options)
    pairs = [(entry, make_decoder(entry.recipe, entry.settings)) for entry in options.entries]
    contenders = []
    make = make_engine if ranks is None else ranks.engine
    for entry, decoder in pairs:
        if entry.model not in loaded:
            loaded[entry.model] = load(
                entry.model, str(device), dtype, options.checkpoint, options.tokenizer, ranks
            )
        one = loaded[entry.model]
        same = [d for e, d in pairs if e.model == entry.model]
        count = options.samples or 2 * slots
        prompts = rows or prompt_ids(wanted, one, same, count, options.seed)
        contenders.append(
            Contender(
                model=one.model,
                decoder=decoder,
                engine=make(one.model, decoder, slots),
                requests=requests(prompts, decoder),
                loop=_loop(options.against, one.model, decoder),
            )
        )
    return contenders


def _loop(against: str | None, model: Model, decoder: Decoder) -> Loop | None:
    return reference_for(model, decoder, plain=against == "plain") if against else None


def _slots(options: Namespace) -> int:
    slots: int | None = options.slots
    if options.mode == "latency":
        if slots not in (None, 1):
            raise UserError(f"--mode latency has one slot, got --slots {slots}")
        return 1
    return slots or SLOTS


def _report(
    options: Namespace,
    contenders: Sequence[Contender],
    loaded: Mapping[str, Loaded],
    rates: Rates,
    dtype: str,
) -> dict[str, Any]:
    device = contenders[0].model.device
    lengths = sorted(len(r.prompt_ids) for c in contenders for r in c.requests)
    results = [summary(contender, rates) for contender in contenders]
    wanted = parse_prompts(options.prompts, options.prompt_length)
    found: dict[str, Any] = {
        **_machine(device, dtype, options.tensor_parallel),
        "mode": options.mode,
        "models": {
            source: {
                "parameters": one.model.parameters,
                "load_s": one.load_s,
                "load_host_bytes": one.host_bytes,
            }
            for source, one in loaded.items()
        },
        "prompts": {
            "source": wanted.describe(),
            "task_rows": task_rows(wanted),
            "tokens": [lengths[0], lengths[len(lengths) // 2], lengths[-1]],
        },
        "copy_bytes_s": rates.copy_bytes_s,
        "matrix_flops_s": rates.matrix_flops_s,
        "peak_memory": peak_memory(device),
        "results": results,
    }
    if options.against:
        found["against"] = options.against
        found["speedup_over_reference"] = results[0]["speedup_over_reference"]
        found["tokens_equal"] = all(result["tokens_equal"] for result in results)
    return found


def _machine(device: torch.device, dtype: str, ranks: int = 1) -> dict[str, Any]:
    return {
        "device": device_name(device.type, ranks),
        "tensor_parallel": ranks,
        "dtype": dtype,
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "versions": versions(),
    }
