"""The shape of the tree: rooms, one-way imports, nothing of any machine."""

import ast
import subprocess
from pathlib import Path

import pytest

MAY_IMPORT = {
    "decoders": {"decoders"},
    "evaluators": {"evaluators"},
    "reports": {"reports"},
    "cluster": {"cluster", "decoders", "evaluators", "reports.schema"},
    "jobs": {"jobs", "cluster", "decoders", "evaluators", "reports"},
}
"""What each room may know of the project; `reports.schema` is where the tables are written."""

BRIDGE = "evaluators/lm_eval"
"""Gives lm-eval's users the decoders, and so is the one place where evaluators know them."""

TOP = {
    "pyproject.toml",
    "cluster",
    "evaluators",
    "decoders",
    "jobs",
    "reports",
    "tests",
    "README.md",
    "LICENSE",
    "constraints.txt",
    "CHANGELOG.md",
}


def imported(path: Path) -> set[str]:
    """Modules that a file imports, as dotted names of the project."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            module = node.module or ""
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.partition(".")[0] in MAY_IMPORT}


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_run_one_way(root: Path, room: str) -> None:
    files = sorted((root / room).rglob("*.py"))
    assert files
    for path in files:
        for name in imported(path):
            parts = name.split(".")
            prefixes = {".".join(parts[: n + 1]) for n in range(len(parts))}
            allowed = MAY_IMPORT[room]
            if path.parent == root / BRIDGE:
                allowed = allowed | {"decoders"}
            deeper = any(entry.startswith(f"{name}.") for entry in allowed)
            assert prefixes & allowed or deeper, f"{path.relative_to(root)} imports {name}"


def test_decoders_and_evaluators_know_no_ray(root: Path) -> None:
    for room in ("decoders", "evaluators", "reports"):
        for path in (root / room).rglob("*.py"):
            tree = ast.parse(path.read_text())
            for node in ast.walk(tree):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    module = getattr(node, "module", None) or node.names[0].name
                    assert module.partition(".")[0] != "ray", path


def tracked(root: Path) -> list[str]:
    if not (root / ".git").exists():
        pytest.skip("no git checkout: the list of tracked files is git's")
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True
    )
    return [name for name in listing.stdout.split("\0") if name]


def test_the_top_level_is_the_agreed_one(root: Path) -> None:
    top = {name.partition("/")[0] for name in tracked(root)}
    assert {name for name in top if not name.startswith(".")} == TOP


def test_the_tree_stays_small(root: Path) -> None:
    files = [root / name for name in tracked(root)]
    assert sum(path.stat().st_size for path in files) <= 36 * 2**20
    weights = [path for path in files if path.match("decoders/bundled/*/*.safetensors")]
    assert sum(path.stat().st_size for path in weights) <= 26e6
