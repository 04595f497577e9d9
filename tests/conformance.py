"""Holds the engine to recorded runs of the authors' code.

    python -m tests.conformance --cases DIR --models DIR

runs every case of a folder, prints each difference and closes with `N passed, N failed`.
"""

import argparse
import functools
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from decoders import DecoderError, Model, Request, Result, make_decoder, make_engine
from decoders.diffusion import DiffusionEngine
from decoders.likelihood import masked_likelihood
from decoders.noise import Noise
from tests.decoders.decoding import decoded

HERE = Path(__file__).resolve().parent / "decoders"
Case = dict[str, Any]


def load(folder: Path) -> Model:
    """A recorded model: a stock checkpoint that the cases read as a diffusion model."""
    network = AutoModelForCausalLM.from_pretrained(
        folder, local_files_only=True, dtype=torch.float32, attn_implementation="sdpa"
    )
    config = network.config
    return Model(
        name=folder.name,
        digest="",
        family=config.model_type,
        visibility="bidirectional",
        network=network.eval().requires_grad_(False),
        mask_id=199,
        eos_id=198,
        eot_id=197,
        stop_ids=frozenset({198}),
        vocabulary=config.vocab_size,
        max_length=config.max_position_embeddings,
        shift=0 if folder.name.startswith("llada") else 1,
    )


class Replay:
    """The reference's draws: torch's generator, in its order and shapes.

    LLaDA draws for whole rows [B, T(, V)], Dream for the masks of the canvas alone.
    """

    def __init__(self, seed: int, rows: int, length: int, masks_only: bool) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._shape, self._masks_only = (rows, length), masks_only

    def race(
        self, seeds: Tensor, steps: Tensor, positions: Tensor, vocabulary: int, wanted: Tensor
    ) -> Tensor:
        if self._masks_only:
            drawn = torch.ones(*positions.shape, vocabulary)
            shape = (int(wanted.sum()), vocabulary)
            drawn[wanted] = torch.empty(shape).exponential_(generator=self._generator)
            return drawn
        shape = (*self._shape, vocabulary)
        drawn = torch.rand(shape, dtype=torch.float64, generator=self._generator)
        return -drawn[torch.arange(len(positions))[:, None], positions].log()

    def uniform(self, seeds: Tensor, steps: Tensor, positions: Tensor, wanted: Tensor) -> Tensor:
        if self._masks_only:
            drawn = torch.ones(positions.shape)
            drawn[wanted] = torch.rand(int(wanted.sum()), generator=self._generator)
            return drawn
        drawn = torch.rand(self._shape, generator=self._generator)
        return drawn[torch.arange(len(positions))[:, None], positions]

    def exponential(
        self, seeds: Tensor, steps: Tensor, positions: Tensor, wanted: Tensor
    ) -> Tensor:
        drawn = torch.empty(self._shape).exponential_(generator=self._generator)
        return drawn[torch.arange(len(positions))[:, None], positions]


def run(
    model: Model,
    recipe: str,
    settings: Sequence[Mapping[str, Any]],
    prompts: Sequence[Sequence[int]],
    noise: Noise | None = None,
    partner: Model | None = None,
) -> list[Result]:
    """Decodes one request a prompt, all at once, with a trace."""
    decoders = [make_decoder(recipe, s) for s in settings]
    if noise is None:
        engine = make_engine(model, decoders[0], len(prompts), partner)
    else:
        engine = DiffusionEngine(model, len(prompts), noise)
    asked = [
        Request(str(row), tuple(prompt), decoder, trace=True)
        for row, (decoder, prompt) in enumerate(zip(decoders, prompts, strict=True))
    ]
    results = decoded(engine, asked)
    return [results[request.sid] for request in asked]


def stripped(case: Case) -> list[list[int]]:
    """The prompts without their left padding."""
    if case.get("prompts"):
        return [list(prompt) for prompt in case["prompts"]]
    masks = case["attention_mask"] or [[1] * len(p) for p in case["prompt_ids"]]
    return [
        [token for token, kept in zip(prompt, mask, strict=True) if kept]
        for prompt, mask in zip(case["prompt_ids"], masks, strict=True)
    ]


def replay(case: Case, masks_only: bool) -> Noise | None:
    if case["seed"] is None:
        return None
    rows, length = len(case["output_ids"]), len(case["output_ids"][0])
    return Replay(case["seed"], rows, length, masks_only)


def commits(results: Sequence[Result], prompt: int) -> list[set[tuple[int, int, int]]]:
    """(row, position, token) written by each step, positions as in the padded recording."""
    steps = max(result.nfe for result in results)
    written: list[set[tuple[int, int, int]]] = [set() for _ in range(steps)]
    for row, result in enumerate(results):
        assert result.trace is not None
        for step, committed in enumerate(result.trace.committed):
            for place in committed.nonzero()[0]:
                token = int(result.trace.tokens[step, place])
                written[step].add((row, prompt + int(place), token))
    return written


class Differences(list[str]):
    """What is not as recorded."""

    def equal(self, name: str, ours: object, recorded: object) -> None:
        if ours != recorded:
            self.append(f"{name}: {_short(ours)} instead of {_short(recorded)}")


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 160 else text[:160] + " ..."


def compare(case: Case, results: Sequence[Result]) -> Differences:
    """Tokens, forwards, positions fed and commits of each step against the recording."""
    found = Differences()
    prompt = len(case["prompt_ids"][0])
    for row, (result, recorded) in enumerate(zip(results, case["output_ids"], strict=True)):
        found.equal(f"tokens of row {row}", list(result.output_ids), recorded[prompt:])
    lockstep = len(results) == 1 or len({result.nfe for result in results}) == 1
    if lockstep:
        found.equal("forwards", results[0].nfe, case["nfe"])
    elif max(result.nfe for result in results) > case["nfe"]:
        found.append(f"forwards: more than the batch's {case['nfe']}")
    if case.get("steps") and lockstep:
        recorded_steps = [{tuple(entry) for entry in s["committed"]} for s in case["steps"]]
        for step, (ours, theirs) in enumerate(
            zip(commits(results, prompt), recorded_steps, strict=False), 1
        ):
            found.equal(f"commits of step {step}", sorted(ours), sorted(theirs))
    return found


def fed(case: Case) -> int:
    """Positions that the reference pushed through its model for one row."""
    return sum(stop - start for start, stop in (step["range"] for step in case["steps"]))


def pick(case: Case, *names: str, **renamed: str) -> dict[str, Any]:
    """The parameters of these names, ours by theirs; None is the recipe's own default."""
    wanted = {name: name for name in names} | renamed
    found = {ours: case["params"].get(theirs) for ours, theirs in wanted.items()}
    return {ours: value for ours, value in found.items() if value is not None}


LLADA = ("steps", "gen_length", "block_length", "temperature", "remasking", "cfg_scale")
SWITCHES = ("logits_eos_inf", "confidence_eos_eot_inf")


def llada(case: Case, model: Model, models: Callable[[str], Model]) -> Differences:
    prompts = stripped(case)
    settings = pick(case, *LLADA, *SWITCHES)
    noise = replay(case, masks_only=False)
    return compare(case, run(model, "llada", [settings] * len(prompts), prompts, noise))


def prophet(case: Case, model: Model, models: Callable[[str], Model]) -> Differences:
    params, prompts = case["params"], stripped(case)
    gaps = params.get("early_exit_thresholds", dict.fromkeys(("early", "mid", "late"), 1e9))
    settings = pick(case, *LLADA, "answer_offset", "answer_length") | {
        f"gap_{when}": gap for when, gap in gaps.items()
    }
    given = params.get("constraints") or {}
    settings["constraints"] = "|".join(f"{place}:{token}" for place, token in given.items())
    settings["region"] = "constraints" if given else "masked"
    if "answer_offset" in settings:
        settings["region"] = "offset"
    elif not given:  # the reference then knows no answer and never ends early
        settings |= dict.fromkeys(("gap_early", "gap_mid", "gap_late"), 1e9)
    results = run(model, "prophet", [settings], prompts)
    found = compare(case, results)
    if "exit_info" in case:
        recorded = case["exit_info"]["exit_decision_step"]
        found.equal("early commit", results[0].early_commit_step, recorded)
    return found


def dream(case: Case, model: Model, models: Callable[[str], Model]) -> Differences:
    prompts = stripped(case)
    settings = pick(
        case,
        *("steps", "temperature", "alg", "alg_temp", "top_p", "top_k", "eps"),
        gen_length="max_new_tokens",
    )
    noise = replay(case, masks_only=True)
    return compare(case, run(model, "dream", [settings] * len(prompts), prompts, noise))


def freecache(case: Case, model: Model, models: Callable[[str], Model]) -> Differences:
    settings = pick(
        case,
        *("steps", "alg", "alg_temp", "eps", "top_p", "top_k", "temperature"),
        *("early_stop", "early_stop_consecutive"),
        gen_length="max_new_tokens",
        block_length="block_size",
    )
    results = run(model, "freecache", [settings], stripped(case))
    found = compare(case, results)
    found.equal("positions fed", results[0].token_forwards, sum(case["call_lengths"]))
    return found


def fast_dllm(case: Case, model: Model, models: Callable[[str], Model]) -> Differences:
    params = case["params"]
    settings = pick(case, "steps", "block_length", "threshold", "factor", "cache", "top_p")
    settings |= pick(case, "gen_length", "temperature")
    if case["decoder"] == "fastdllm_v1_dream":
        settings["gen_length"] = params["max_new_tokens"]
        settings["cache"] = "none"
        if params["block_variant"]:
            settings["cache"] = "dual" if params["dual_cache"] else "prefix"
        settings["rule"] = "threshold" if params["alg"] == "confidence_threshold" else "fixed"
        if settings["cache"] == "none" and settings["rule"] == "fixed":
            return dream(case, model, models)
    elif params["factor"] is not None:
        settings["rule"] = "factor"
    else:
        settings["rule"] = "fixed" if params["threshold"] is None else "threshold"
    results = run(model, "fast-dllm", [settings], stripped(case))
    found = compare(case, results)
    found.equal("positions fed", results[0].token_forwards, fed(case))
    return found


def fast_dllm_v2(case: Case, model: Model, models: Callable[[str], Model]) -> Differences:
    size, prompts = case["params"]["block_size"], stripped(case)
    model = replace(
        model, visibility="block-causal", block=size, stop_ids=frozenset({case["stop_token"]})
    )
    # In a batch the reference grants every row the blocks of the longest prompt.
    blocks = case["params"]["max_new_tokens"] // size + max(map(len, prompts)) // size
    settings = [
        pick(case, "threshold", sub_block="small_block_size", block_cache="use_block_cache")
        | {"gen_length": (blocks - len(prompt) // size) * size}
        for prompt in prompts
    ]
    results = run(model, "fast-dllm-v2", settings, prompts)
    found = Differences()
    for row, (result, prompt) in enumerate(zip(results, prompts, strict=True)):
        recorded = case["output_ids"][row][len(prompt) :]
        while recorded and recorded[-1] == case["pad_id"]:
            recorded = recorded[:-1]
        found.equal(f"tokens of row {row}", list(result.output_ids), recorded)
    if len(prompts) == 1:
        found.equal("forwards", results[0].nfe, case["forwards"])
        positions = sum(length for _, length, _ in case["calls"])
        found.equal("positions fed", results[0].token_forwards, positions)
    return found


def llada2(case: Case, model: Model, models: Callable[[str], Model]) -> Differences:
    size, prompts = case["params"]["block_size"], stripped(case)
    model = replace(model, visibility="block-causal", block=size, stop_ids=frozenset())
    settings = pick(
        case,
        "threshold",
        "max_post_steps",
        gen_length="max_new_tokens",
        steps="steps_per_block",
        edit_threshold="editing_threshold",
    )
    recipe = "llada2.1" if case["decoder"] == "llada21" else "llada2"
    results = run(model, recipe, [settings] * len(prompts), prompts)
    found = compare(case, results)
    if len(prompts) == 1:
        found.equal("edits", results[0].edited_tokens, case["edits"])
    return found


def guided(case: Case, model: Model, models: Callable[[str], Model]) -> Differences:
    guider = replace(models(case["ar_model"]), visibility="causal", shift=0, mask_id=None)
    params = case["params"]
    settings = pick(
        case, "strategy", "top_k", "relative", "threshold", gen_length="max_new_tokens"
    ) | {
        "guider": guider.name,
        "verify_length": params["verify_batch_size"],
    }
    results = run(model, "guided", [settings], stripped(case), partner=guider)
    found = compare(case, results)
    found.equal("guider's forwards", results[0].nfe_ar, case["ar_calls"])
    trace = results[0].trace
    if trace is not None:
        written = [int(step.sum()) for step in trace.committed]
        found.equal("written a step", written, case["unmasked_per_step"])
    return found


def likelihood(case: Case, model: Model, models: Callable[[str], Model]) -> Differences:
    found, (prompt,) = Differences(), stripped(case)
    generator = torch.Generator().manual_seed(case["seed"])
    value, nfe = masked_likelihood(
        model,
        prompt,
        case["answer_ids"],
        mc_num=case["params"]["mc_num"],
        batch=case["params"]["batch_size"],
        generator=generator,
        cfg_scale=case["params"].get("cfg_scale", 0.0),
    )
    if abs(value - case["loglik"]) > 1e-4 * abs(case["loglik"]):
        found.append(f"log-likelihood: {value} instead of {case['loglik']}")
    found.equal("forwards", nfe, case["nfe"])
    return found


ADAPTERS: dict[str, Callable[[Case, Model, Callable[[str], Model]], Differences]] = {
    "llada_generate": llada,
    "llada_generate_constrained": prophet,
    "llada_loglikelihood": likelihood,
    "prophet": prophet,
    "dream_diffusion_generate": dream,
    "freecache_dream": freecache,
    "fastdllm_v1_llada": fast_dllm,
    "fastdllm_v1_dream": fast_dllm,
    "fastdllm_v2": fast_dllm_v2,
    "llada2": llada2,
    "llada21": llada2,
    "guided_diffusion": guided,
}


@functools.cache
def corrections() -> dict[str, Case]:
    """Cases whose recorded steps were wrong, by the digest of these: our copies hold what the
    reference does when it is run again, and say so."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in cases(HERE / "goldens")]
    return {case["replaces_steps"]: case for case in found if "replaces_steps" in case}


def corrected(case: Case) -> Case:
    """The case, with the steps of the reference's second run where the recorded ones are wrong."""
    text = json.dumps(case.get("steps"), sort_keys=True)
    known = corrections().get(hashlib.sha256(text.encode()).hexdigest())
    if known is None or known["id"] != case["id"]:
        return case
    return {**case, "steps": known["steps"], "note": known["note"]}


def check(case: Case, models: Callable[[str], Model]) -> list[str]:
    """What differs from the recording; empty if nothing does."""
    adapter = ADAPTERS.get(case["decoder"])
    if adapter is None:
        return [f"no recipe for decoder {case['decoder']!r}"]
    try:
        return adapter(case, models(case["model"]), models)
    except (DecoderError, KeyError, TypeError) as error:
        return [f"{type(error).__name__}: {error}"]


def cases(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json"))


def loader(folder: Path) -> Callable[[str], Model]:
    return functools.cache(lambda name: load(folder / name))


def main(arguments: Iterable[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("--cases", type=Path, default=HERE / "goldens", help="folder of *.json")
    parser.add_argument("--models", type=Path, default=HERE / "models", help="folder of models")
    parser.add_argument("--verbose", action="store_true", help="name the cases that pass, too")
    options = parser.parse_args(None if arguments is None else list(arguments))
    paths = cases(options.cases)
    if not paths:
        print(f"{options.cases} holds no cases")
        return 2
    torch.set_num_threads(1)
    models, passed, failed = loader(options.models), 0, 0
    for path in paths:
        case = json.loads(path.read_text(encoding="utf-8"))
        if case.get("excluded"):
            print(f"{path.stem}: excluded: {case['excluded']}")
            continue
        case = corrected(case)
        if "note" in case:
            print(f"{path.stem}: {case['note']}")
        differences = check(case, models)
        passed, failed = passed + (not differences), failed + bool(differences)
        for difference in differences:
            print(f"{path.stem}: {difference}")
        if options.verbose and not differences:
            print(f"{path.stem}: passed")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
