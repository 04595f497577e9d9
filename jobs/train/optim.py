"""Muon for matrices, AdamW for the rest, and the learning rate over a run."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from jobs.train.config import TrainConfig

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Nearest semi-orthogonal matrices of [M, rows, columns], roughly, by Newton-Schulz.

    The quintic of Muon (Jordan et al. 2024): singular values end between 0.7 and 1.2.
    """
    a, b, c = _NEWTON_SCHULZ
    x = matrices.to(torch.bfloat16) if matrices.is_cuda else matrices
    tall = x.size(1) > x.size(2)
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = (x.mT if tall else x).to(matrices.dtype)
    return result


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised; all matrices of one shape are handled as one batch.

    Updates are scaled to AdamW's usual size (0.2 of the larger side's root), so that both
    optimisers share a learning rate.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, weight_decay: float, momentum: float = 0.95
    ) -> None:
        by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
        for param in params:
            by_shape[param.shape].append(param)
        groups = [{"params": listed} for listed in by_shape.values()]
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        with torch.no_grad():
            self._update()

    def _update(self) -> None:
        for group in self.param_groups:
            params = group["params"]
            grads = torch.stack([param.grad for param in params])
            state = self.state[params[0]]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(grads)
            momentum = state["momentum"]
            momentum.lerp_(grads, 1 - group["momentum"])
            update = orthogonalise(grads.lerp(momentum, group["momentum"]))
            scale = 0.2 * max(update.shape[1:]) ** 0.5
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(params, list(update.unbind()), alpha=-group["lr"] * scale)


def make_optimizers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Embeddings and norms do not decay."""
    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in named if p.ndim != 2 or "embed" in name]
    groups: list[dict[str, Any]] = [{"params": others, "weight_decay": 0.0}]
    optimizers: list[torch.optim.Optimizer] = []
    if config.optimizer == "muon":
        optimizers.append(Muon(matrices, config.lr, config.weight_decay))
    else:
        groups.append({"params": matrices, "weight_decay": config.weight_decay})
    fused = others[0].is_cuda
    adamw = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.95), fused=fused)
    return [*optimizers, adamw]


def rate_factor(config: TrainConfig, step: int, progress: float) -> float:
    """Part of the peak learning rate at a step; `progress` runs from 0 to 1 over the run."""
    warm = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    return warm * min(1.0, max(0.0, 1.0 - progress) / (1.0 - min(config.hold, 0.99)))
