"""Room for models that take several GPUs: one placement group for each actor, all on one node."""

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

from cluster.session import Pool, ResourceError

LOOK_S = 10.0

RemoteArgs = Callable[[], dict[str, Any]]


@contextlib.contextmanager
def reserved(pool: Pool, wait_s: float) -> Iterator[RemoteArgs | None]:
    """Reserves the GPUs of each actor of a tensor-parallel pool, STRICT_PACK, and gives what makes
    the options of one actor after the other; None for a pool whose actors need no more than one.

    Raises:
        ResourceError: not even the first actor's GPUs became free within `wait_s` seconds.
    """
    if pool.tensor_parallel == 1 or not pool.num_gpus:
        yield None
        return
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    bundle = {"GPU": float(pool.tensor_parallel)}
    if pool.accelerator_type:
        bundle[f"accelerator_type:{pool.accelerator_type}"] = 0.001
    groups = [placement_group([bundle], strategy="STRICT_PACK") for _ in range(pool.size)]
    ended = threading.Event()
    watcher = threading.Thread(target=_give_way, args=(groups, bundle["GPU"], ended), daemon=True)
    turn = itertools.cycle(groups)

    def remote_args() -> dict[str, Any]:
        return {"scheduling_strategy": PlacementGroupSchedulingStrategy(next(turn), 0)}

    try:
        ready, _ = ray.wait([group.ready() for group in groups], timeout=wait_s)
        if not ready:
            raise ResourceError(
                f"no node had {pool.tensor_parallel} GPUs free at once within {wait_s:g} s "
                "(cluster.tensor_parallel); other jobs hold them: wait, raise cluster.wait_s, or "
                "stop those"
            )
        watcher.start()
        yield remote_args
    finally:
        ended.set()
        for group in groups:
            with contextlib.suppress(Exception):
                remove_placement_group(group)


def _give_way(groups: list[Any], gpus: float, ended: threading.Event) -> None:
    """Gives up the room of an actor that has ended while another actor lost its node: a group keeps
    its GPUs though nobody uses them, and the rows of the lost actor would wait for ever."""
    import ray
    from ray.util.placement_group import placement_group_table, remove_placement_group

    idle_before: set[str] = set()
    while not ended.wait(LOOK_S):
        with contextlib.suppress(Exception):  # the session may end meanwhile
            states = {g.id.hex(): placement_group_table(g)["state"] for g in groups}
            free = ray.available_resources()
            idle = {
                name
                for name, state in states.items()
                if state == "CREATED" and free.get(f"GPU_group_{name}", 0.0) >= gpus
            }
            if "RESCHEDULING" in states.values():
                for group in groups:
                    if group.id.hex() in idle & idle_before:
                        remove_placement_group(group)
            idle_before = idle
