"""Decoding as published code does it: one sample, the head over every fed position, the softmax
over the whole vocabulary, the host asked at every step, and the caches of the published modelling
file. Beside it the plain loop, which differs in its forward alone: stock modules, and keys that are
kept rotated. The tokens are the engine's in float32.

Legend: L positions, Q positions fed, V vocabulary; a batch of 1 leads every tensor.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache

from decoders import Decoder, Model, Request
from decoders.recipes import FastDllm, Llada
from decoders.recipes.autoregressive import Autoregressive
from decoders.selection import share_of
from jobs.bench.published import Kept, Published, is_published
from jobs.errors import UserError

Loop = Callable[[Model, Request], tuple[int, ...]]


def reference_for(model: Model, decoder: Decoder, plain: bool = False) -> Loop:
    """The loop of a recipe as published, or the plain one, where they differ: with a cache.

    Raises:
        UserError: there is none for the recipe, or not for these settings or this model.
    """
    loop: Loop
    if isinstance(decoder, Autoregressive):
        loop, fits = _autoregressive, decoder.temperature == 0
    elif type(decoder) is Llada:
        loop = _llada
        fits = decoder == Llada(
            gen_length=decoder.gen_length, steps=decoder.steps, block_length=decoder.block_length
        )
    elif isinstance(decoder, FastDllm):
        loop = partial(_fast_dllm, plain=plain)
        fits = decoder.temperature == 0 and decoder.rule in ("threshold", "fixed")
        fits = fits and not decoder.early_stop and decoder.top_p is None
    else:
        raise UserError(
            f"--against reference: there is no plain loop for {decoder.recipe}; "
            "there are loops for llada, fast-dllm and ar"
        )
    if not fits or model.shift or model.time_conditioned:
        raise UserError(
            f"--against reference: the plain loop of {decoder.recipe} takes temperature 0, its "
            "published settings (fast-dllm: rules threshold and fixed) and a model without shift"
        )
    return loop


class SpanCache(Cache):
    """Keys and values by layer. A pass over everything replaces them; a pass over a part puts its
    own over those at its place, or, if `cut`, after those before its place."""

    def __init__(self, cut: bool) -> None:
        super().__init__(layers=[])
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}
        self._cut = cut
        self.start = 0

    def update(
        self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        if self.start and self._cut:
            old = (kept[:, :, : self.start] for kept in self._kept[layer_idx])
            keys, values = (
                torch.cat([o, n], dim=2) for o, n in zip(old, (keys, values), strict=True)
            )
            return keys, values
        if self.start:
            stop = self.start + keys.shape[2]
            for kept, new in zip(self._kept[layer_idx], (keys, values), strict=True):
                kept[:, :, self.start : stop] = new
        else:
            self._kept[layer_idx] = keys, values
        return self._kept[layer_idx]


def _llada(model: Model, request: Request) -> tuple[int, ...]:
    """Blocks left to right; each step one full forward that commits its quota."""
    decoder = request.decoder
    assert isinstance(decoder, Llada)
    mask = _mask(model)
    x, prompt, size = _canvas(model, request), len(request.prompt_ids), decoder.size
    for stop in range(prompt + size, x.shape[1] + 1, size):
        masks = int((x[:, stop - size : stop] == mask).sum())
        for step in range(decoder.steps_per_block):
            logits = _logits(model, x)
            best = logits.argmax(-1)
            sure = logits.softmax(-1).gather(-1, best[..., None])[..., 0]
            sure[:, stop:] = -torch.inf
            sure = torch.where(x == mask, sure, -torch.inf)
            count = share_of(masks, decoder.steps_per_block, step)
            place = sure[0].topk(count).indices
            x[0, place] = best[0, place]
    return tuple(x[0, prompt:].tolist())


def _fast_dllm(model: Model, request: Request, plain: bool) -> tuple[int, ...]:
    """Blocks that end when they are full; each begins with a full forward, and the ones after it
    feed everything (no cache), the rest (prefix) or the block alone (dual)."""
    decoder = request.decoder
    assert isinstance(decoder, FastDllm)
    mask = _mask(model)
    x, prompt, size = _canvas(model, request), len(request.prompt_ids), decoder.block_length
    forward = _forward(model, x.shape[1], decoder.cache, plain)
    for start in range(prompt, x.shape[1], size):
        stop, step = start + size, 0
        while True:
            low, high = 0, x.shape[1]
            if decoder.cache != "none" and step:
                low, high = start, (stop if decoder.cache == "dual" else high)
            logits = forward(x, low, high, start)
            fed, edge = x[0, low:high], stop - low
            best, taken = _transfer(model, decoder, fed, logits, edge, step)
            x[0, low:high] = torch.where(taken, best, fed)
            step += 1
            full = int((x[:, start:stop] == mask).sum()) == 0
            if full and (decoder.cache == "none" or step > 1):
                break
    return tuple(x[0, prompt:].tolist())


def _forward(
    model: Model, length: int, cache: str, plain: bool
) -> Callable[[Tensor, int, int, int], Tensor]:
    """Logits [1, Q, V] of positions [low, high) of a row, in a block that begins at `start`."""
    if cache == "none":
        return lambda x, low, high, start: _logits(model, x)
    if plain or not is_published(model):
        kept = SpanCache(cut=cache == "prefix")
        return lambda x, low, high, start: _logits(model, x[:, low:high], kept, low)
    network = Published(model, length)
    past: Kept = []
    block = torch.zeros(1, length, dtype=torch.bool, device=model.device)

    def published(x: Tensor, low: int, high: int, start: int) -> Tensor:
        nonlocal past, block
        fed = x[:, low:high]
        if not low:
            logits, past = network(fed)
            if cache == "prefix":
                past = [(keys[:, :, :start], values[:, :, :start]) for keys, values in past]
        elif cache == "prefix":
            logits, _ = network(fed, past)
        else:
            block = torch.zeros_like(block)
            block[:, low:high] = True
            logits, _ = network(fed, past, block)
        return logits

    return published


def _transfer(
    model: Model, decoder: FastDllm, fed: Tensor, logits: Tensor, edge: int, step: int
) -> tuple[Tensor, Tensor]:
    """Best tokens and which to write, [Q] each: the quota's, or all above the threshold and the
    best one."""
    best = logits.argmax(-1)[0]
    sure = logits[0].double().softmax(-1).gather(-1, best[:, None])[:, 0]
    masked = fed == _mask(model)
    masked[edge:] = False
    sure = torch.where(masked, sure, -torch.inf)
    fixed = decoder.rule == "fixed"
    count = share_of(decoder.block_length, decoder.steps_per_block, step) if fixed else None
    left = int(masked.sum())
    place = sure.topk(left if count is None else min(count, left)).indices
    taken = torch.zeros_like(masked)
    taken[place] = True
    if not fixed:
        for k in range(1, left):
            if sure[place[k]].item() < decoder.threshold:
                taken[place[k]] = False
    return best, taken


def _autoregressive(model: Model, request: Request) -> tuple[int, ...]:
    """transformers' own greedy `generate`."""
    prompt = torch.tensor([request.prompt_ids], device=model.device)
    text = model.network.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=request.decoder.gen_length,
        do_sample=False,
        eos_token_id=sorted(model.stop_ids),
        pad_token_id=model.eos_id,
        past_key_values=DynamicCache(config=model.network.config),
    )
    return tuple(text[0, len(request.prompt_ids) :].tolist())


def _mask(model: Model) -> int:
    assert model.mask_id is not None, "make_engine has refused models without one"
    return model.mask_id


def _canvas(model: Model, request: Request) -> Tensor:
    masks = [_mask(model)] * request.decoder.gen_length
    return torch.tensor([[*request.prompt_ids, *masks]], device=model.device)


def _logits(model: Model, tokens: Tensor, cache: SpanCache | None = None, start: int = 0) -> Tensor:
    """Logits [1, Q, V] of every fed position; each sees everything."""
    if cache is None:
        keys = tokens.shape[1]
        bias = torch.zeros(1, 1, 1, keys, device=tokens.device, dtype=model.dtype)
        return model.head(model.hidden(tokens, bias))
    cache.start = start
    positions = torch.arange(start, start + tokens.shape[1], device=tokens.device)[None]
    bias = torch.zeros(1, 1, 1, 1, device=tokens.device, dtype=model.dtype)
    return model.head(model.cached_hidden(tokens, positions, bias, cache))
