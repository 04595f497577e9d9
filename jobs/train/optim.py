"""Muon for matrices, AdamW for the rest, and the learning rate over a run."""

from typing import Any

import torch
from torch import nn

from jobs.train.config import TrainConfig


def make_optimizers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Embeddings and norms do not decay."""
    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in named if p.ndim != 2 or "embed" in name]
    groups: list[dict[str, Any]] = [{"params": others, "weight_decay": 0.0}]
    optimizers: list[torch.optim.Optimizer] = []
    if config.optimizer == "muon":
        # Updates scaled to AdamW's usual size, so that both optimisers share a learning rate.
        muon = torch.optim.Muon(
            matrices,
            lr=config.lr,
            weight_decay=config.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        )
        optimizers.append(muon)
    else:
        groups.append({"params": matrices, "weight_decay": config.weight_decay})
    fused = others[0].is_cuda
    adamw = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.95), fused=fused)
    return [*optimizers, adamw]


def rate_factor(config: TrainConfig, step: int, progress: float) -> float:
    """Part of the peak learning rate at a step; `progress` runs from 0 to 1 over the run."""
    warm = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    return warm * min(1.0, max(0.0, 1.0 - progress) / (1.0 - min(config.hold, 0.99)))
