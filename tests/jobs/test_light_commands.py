"""Commands that decode nothing, or have yet to read their arguments, do not wait for torch."""

import json
import subprocess
import sys

COMMANDS = (
    "bench.__main__",
    "compare",
    "evaluate",
    "report",
    "schedule",
    "serve.__main__",
    "submit",
)
HEAVY = ("ray", "torch", "transformers")

PROGRAM = f"""
import importlib, json, sys
for name in {COMMANDS}:
    importlib.import_module("jobs." + name)
print(json.dumps([name for name in {HEAVY} if name in sys.modules]))
"""


def test_no_command_brings_torch_before_it_is_needed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == []
