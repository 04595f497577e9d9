"""What a run ran on: hardware, and the versions of what decides its numbers."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("ray", "torch", "transformers", "tokenizers", "lm-eval", "pyarrow", "numpy")


def versions() -> dict[str, str]:
    """Python's, the packages' and the project's own; a checkout has its commit too."""
    found = {"python": platform.python_version()}
    for package in (*_PACKAGES, "unmask"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    commit = _commit(Path(__file__).resolve().parent.parent)
    return {**found, "commit": commit} if commit else found


def hardware() -> dict[str, Any]:
    """Of the cluster that Ray sees, or of this machine if no session is up."""
    import ray
    import torch

    facts: dict[str, Any] = {"cpu": _cpu(), "cores": os.cpu_count(), "machine": platform.machine()}
    if torch.cuda.is_available():
        count = range(torch.cuda.device_count())
        facts["gpus"] = [torch.cuda.get_device_name(index) for index in count]
    if ray.is_initialized():
        total = ray.cluster_resources()
        facts["cluster"] = {
            "nodes": sum(node["Alive"] for node in ray.nodes()),
            "cpus": total.get("CPU", 0.0),
            "gpus": total.get("GPU", 0.0),
        }
    return facts


def device_name(device: str, count: int = 1) -> str:
    """What speed is compared within: the kind of GPU, or of processor, and how many of them decode
    together."""
    import torch

    name = torch.cuda.get_device_name() if device == "cuda" else f"cpu {_cpu()}".strip()
    return name if count == 1 else f"{name} x{count}"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _commit(root: Path) -> str | None:
    """The checked-out commit, read from git's own files; None outside a checkout."""
    try:
        head = (root / ".git" / "HEAD").read_text(encoding="utf-8").strip()
        if not head.startswith("ref: "):
            return head[:12]
        return (root / ".git" / head[5:]).read_text(encoding="utf-8").strip()[:12]
    except OSError:
        return None
