"""Decodes the same requests again and again and keeps what it took."""

import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from decoders import Decoder, Engine, Model, Request, Result
from decoders.slots import Observed, Ran
from jobs.bench.floor import Costs, floor_s
from jobs.bench.rates import Rates, synchronize
from jobs.bench.reference import Loop


@dataclass
class Contender:
    """One recipe on one model, with everything that its rounds measured."""

    model: Model
    decoder: Decoder
    engine: Engine
    requests: list[Request]
    loop: Loop | None = None
    """The plain loop beside it."""
    warm_up_s: float = 0.0
    rounds: list["Round"] = field(default_factory=list)
    reference: list["Round"] = field(default_factory=list)
    passes: list[Ran] = field(default_factory=list)


@dataclass(frozen=True)
class Round:
    """Some samples, all submitted at once, until the last of them ended."""

    wall_s: float
    outputs: dict[str, tuple[int, ...]]
    tokens: int
    """Generated, up to and with the first stop token."""
    latency_s: tuple[float, ...]
    """From entering a slot to leaving it."""
    nfe: int = 0
    token_forwards: int = 0

    @property
    def samples_s(self) -> float:
        return len(self.outputs) / self.wall_s


def warm_up(contender: Contender, samples: int) -> None:
    """Decodes a few samples unmeasured: kernels, graphs and caches are made."""
    chosen = [
        replace(request, sid=f"warm-up {n}")
        for n, request in enumerate(contender.requests[:samples])
    ]
    if chosen:
        began = time.perf_counter()
        _decode(contender, chosen)
        contender.warm_up_s = time.perf_counter() - began


def run_round(contender: Contender, limit_s: float | None = None) -> None:
    """Decodes the requests; with `limit_s` over and over, none begun after that many seconds."""
    engine = contender.engine
    if isinstance(engine, Observed):
        engine.observer = contender.passes.append
    contender.rounds.append(_decode(contender, contender.requests, limit_s))
    if isinstance(engine, Observed):
        engine.observer = None


def run_reference(contender: Contender, samples: int) -> None:
    """The same samples, one after the other, by the plain loop."""
    assert contender.loop is not None
    outputs, latency = {}, []
    device = contender.model.device
    began = time.perf_counter()
    with torch.inference_mode():
        for request in contender.requests[:samples]:
            entered = time.perf_counter()
            outputs[request.sid] = contender.loop(contender.model, request)
            synchronize(device)
            latency.append(time.perf_counter() - entered)
    wall_s = time.perf_counter() - began
    tokens = sum(written(contender.model, text) for text in outputs.values())
    contender.reference.append(Round(wall_s, outputs, tokens, tuple(latency)))


def _decode(
    contender: Contender, requests: Sequence[Request], limit_s: float | None = None
) -> Round:
    engine, device = contender.engine, contender.model.device
    synchronize(device)
    began, lap = time.perf_counter(), 0
    results: list[Result] = []
    for request in requests:
        engine.submit(request)
    while engine.load:
        results += engine.step()
        due = limit_s is not None and time.perf_counter() - began < limit_s
        if due and engine.load < 2 * engine.slots:
            lap += 1
            for request in requests:
                engine.submit(replace(request, sid=f"{request.sid} lap {lap}"))
    synchronize(device)
    wall_s = time.perf_counter() - began
    return Round(
        wall_s=wall_s,
        outputs={result.sid: result.output_ids for result in results},
        tokens=sum(written(contender.model, result.output_ids) for result in results),
        latency_s=tuple(result.latency_s for result in results),
        nfe=sum(result.nfe for result in results),
        token_forwards=sum(result.token_forwards for result in results),
    )


def written(model: Model, output: Sequence[int]) -> int:
    """Tokens up to and with the first stop token."""
    return next((n for n, token in enumerate(output, 1) if token in model.stop_ids), len(output))


def summary(contender: Contender, rates: Rates) -> dict[str, Any]:
    """What the rounds come to; JSON-serialisable. Rates are medians over the rounds."""
    rounds, slots = contender.rounds, contender.engine.slots
    latency = sorted(second for one in rounds for second in one.latency_s)
    wall_s = sum(one.wall_s for one in rounds)
    samples = sum(len(one.outputs) for one in rounds)
    samples_s = statistics.median(one.samples_s for one in rounds)
    floor = floor_s(contender.passes, Costs.of(contender.model), rates, slots)
    found: dict[str, Any] = {
        "recipe": contender.decoder.recipe,
        "settings": contender.decoder.settings(),
        "model": contender.model.name,
        "slots": slots,
        "samples": samples,
        "rounds": len(rounds),
        "samples_s": samples_s,
        "samples_s_of_rounds": [one.samples_s for one in rounds],
        "tokens_s": statistics.median(one.tokens / one.wall_s for one in rounds),
        "latency_s": {
            "median": statistics.median(latency),
            "p90": latency[int(0.9 * (len(latency) - 1))],
        },
        "nfe": sum(one.nfe for one in rounds) / samples,
        "token_forwards": sum(one.token_forwards for one in rounds) / samples,
        "steps": _steps(contender.passes),
        "floor_s": floor / samples if contender.passes else None,
        "share_of_floor": floor / wall_s if contender.passes else None,
        "share_in_passes": _busy_s(contender.passes) / wall_s if contender.passes else None,
        "warm_up_s": contender.warm_up_s,
    }
    if contender.reference:
        found |= _comparison(contender, samples_s)
    return found


def _steps(passes: Sequence[Ran]) -> dict[str, Any]:
    """Of each kind of pass: how many, milliseconds and rows."""
    kinds: dict[str, list[Ran]] = defaultdict(list)
    for ran in passes:
        kinds[ran.kind].append(ran)
    return {
        kind: {
            "passes": len(ran),
            "ms": 1e3 * statistics.median(one.timing.seconds() for one in ran),
            "rows": statistics.mean(len(one.spans) for one in ran),
            "positions": statistics.mean(sum(s.fed for s in one.spans) for one in ran),
        }
        for kind, ran in sorted(kinds.items())
    }


def _busy_s(passes: Sequence[Ran]) -> float:
    return sum(ran.timing.seconds() for ran in passes)


def _comparison(contender: Contender, samples_s: float) -> dict[str, Any]:
    """The engine against the plain loop: speed, and whether the tokens are the same."""
    ours = contender.rounds[0].outputs
    theirs = contender.reference[0].outputs
    equal = sum(ours[sid] == text for sid, text in theirs.items())
    reference_s = statistics.median(one.samples_s for one in contender.reference)
    return {
        "reference": {
            "samples": sum(len(one.outputs) for one in contender.reference),
            "samples_s": reference_s,
            "tokens_s": statistics.median(one.tokens / one.wall_s for one in contender.reference),
            "latency_s": statistics.median(
                second for one in contender.reference for second in one.latency_s
            ),
        },
        "speedup_over_reference": samples_s / reference_s,
        "tokens_equal": equal == len(theirs),
        "samples_equal": equal,
        "samples_compared": len(theirs),
    }
