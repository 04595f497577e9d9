"""Checkpoints to go on from: model, optimisers, step and place in the data."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from jobs.train.config import TrainError


def save_checkpoint(
    folder: Path, model: Any, optimizers: list[torch.optim.Optimizer], state: dict[str, Any]
) -> None:
    """Writes a new folder and then puts it in the old one's place."""
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    save_file(_contiguous(dict(model.named_parameters())), fresh / "model.safetensors")
    for number, optimizer in enumerate(optimizers):
        tensors = {}
        for at, param in enumerate(_params(optimizer)):
            for key, value in optimizer.state.get(param, {}).items():
                tensors[f"{at}|{key}"] = value
        save_file(_contiguous(tensors), fresh / f"optimizer{number}.safetensors")
    (fresh / "state.json").write_text(json.dumps(state), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


def load_checkpoint(
    folder: Path, model: Any, optimizers: list[torch.optim.Optimizer]
) -> dict[str, Any]:
    """Restores what `save_checkpoint` wrote; returns its `state`."""
    try:
        state: dict[str, Any] = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "model.safetensors")
        with torch.no_grad():
            for name, param in model.named_parameters():
                param.copy_(weights[name])
        for number, optimizer in enumerate(optimizers):
            params = _params(optimizer)
            for name, value in load_file(folder / f"optimizer{number}.safetensors").items():
                at, _, key = name.partition("|")
                param = params[int(at)]
                on = param.device if value.ndim or param.is_cuda else value.device
                optimizer.state[param][key] = value.to(on)
    except (OSError, ValueError, KeyError, IndexError, RuntimeError, SafetensorError) as error:
        raise TrainError(f"cannot resume from {folder}: {error}") from None
    return state


def _params(optimizer: torch.optim.Optimizer) -> list[Any]:
    return [param for group in optimizer.param_groups for param in group["params"]]


def _contiguous(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
