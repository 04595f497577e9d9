"""A process of its own that makes the report of one run and says where its time went.

`python -m tests.report_scale.phases RUN` prints one JSON object. A phase is a public function that
a module of `reports` or `jobs` defines, with what it calls but for other phases.
"""

import functools
import importlib
import json
import pkgutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import reports


class Watch:
    """Seconds and CPU seconds of functions, without those of watched functions that they call."""

    def __init__(self) -> None:
        self.spent: dict[str, list[float]] = {}
        self._running: list[list[float]] = []

    def watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        name = f"{function.__module__}.{function.__name__}"

        @functools.wraps(function)
        def timed(*arguments: Any, **options: Any) -> Any:
            began, inner = (time.perf_counter(), time.process_time()), [0.0, 0.0]
            self._running.append(inner)
            try:
                return function(*arguments, **options)
            finally:
                self._running.pop()
                took = time.perf_counter() - began[0], time.process_time() - began[1]
                total = self.spent.setdefault(name, [0.0, 0.0])
                for at in range(2):
                    total[at] += took[at] - inner[at]
                    if self._running:
                        self._running[-1][at] += took[at]

        return timed


def watch_reports(watch: Watch) -> None:
    """Every module of `reports` calls the watched form of the phases from now on."""
    for found in pkgutil.walk_packages(reports.__path__, "reports."):
        importlib.import_module(found.name)
    modules = [module for name, module in sys.modules.items() if name.startswith("reports")]
    forms = {
        value: watch.watched(value)
        for module in modules
        for value in vars(module).values()
        if _is_phase(value, module)
    }
    for module in (*modules, importlib.import_module("jobs.report")):
        for name, value in list(vars(module).items()):
            if isinstance(value, FunctionType) and value in forms:
                setattr(module, name, forms[value])


def _is_phase(value: Any, module: ModuleType) -> bool:
    """A function of a run, which is called a few times and not once a cell."""
    return (
        isinstance(value, FunctionType)
        and value.__module__ == module.__name__
        and not value.__name__.startswith("_")
        and (value.__name__ in ("page", "write_page") or _takes_run(value))
    )


def _takes_run(value: FunctionType) -> bool:
    kinds = " ".join(map(str, value.__annotations__.values()))
    return any(word in kinds for word in ("Run", "Path", "Analysis"))


def main(run: str) -> None:
    watch = Watch()
    began = time.perf_counter()
    watch_reports(watch)
    report = importlib.import_module("jobs.report")
    imported = time.perf_counter() - began
    code = watch.watched(report.main)([run])
    facts = {
        "code": code,
        "imports_s": imported,
        "wall_s": time.perf_counter() - began,
        "cpu_s": time.process_time(),
        "peak_bytes": _peak_bytes(),
        "phases": watch.spent,
    }
    print(json.dumps(facts), file=sys.stderr)


def _peak_bytes() -> int:
    """The most memory that this process held at once; Linux says so."""
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM")


if __name__ == "__main__":
    main(sys.argv[1])
