"""Makes finished rows durable within seconds, and tells the ledger which are."""

import contextlib
import threading
import time

from cluster.desk import Leases
from cluster.parts import PartWriter
from cluster.rows import Row
from cluster.store import Store

RETRY_S = 2.0

WAIT_S = 900.0
"""How long rows wait in memory for a store that does not take them, as a full disk does not."""


class Keeper:
    """Finished rows on their way to the store. Any thread may call."""

    def __init__(self, store: Store, leases: Leases) -> None:
        self._writer, self._leases = PartWriter(store), leases
        self._flushing = threading.Lock()
        self._refused_s: float | None = None
        """Since when the store has not taken rows."""

    def start(self) -> None:
        """Flushes now and then from a thread of its own, since a pass or a judge may take longer
        than rows should wait."""
        threading.Thread(target=self._flush_when_due, name="flush", daemon=True).start()

    def add(self, sample: Row, steps: list[Row]) -> None:
        self._writer.add(sample, steps)
        if self._writer.is_full:
            self.flush()

    def flush(self) -> bool:
        """Whether every row so far is durable, and the ledger knows it: False if the store does not
        take them now.

        Raises:
            OSError: it has not taken them for `WAIT_S`.
        """
        # Locked to the end: who finds nothing to write may end the process the moment it returns.
        with self._flushing:
            try:
                statuses = self._writer.flush()
            except OSError as error:
                now_s = time.monotonic()
                since_s = self._refused_s = self._refused_s or now_s
                if now_s - since_s > WAIT_S:
                    raise OSError(f"no rows could be written for {WAIT_S:g} s: {error}") from error
                return False
            self._refused_s = None
            if statuses:
                self._leases.done(statuses)
            return True

    def _flush_when_due(self) -> None:
        while True:
            time.sleep(1.0)
            if self._writer.is_late:
                with contextlib.suppress(OSError):  # the end of the block tells
                    self.flush()
