"""Worker processes for an engine: ``Engine(transport=on_workers(pool))``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planloom.runtime.wire import JsonWire
from planloom.transport.local import LocalTransport
from planloom.transport.processes import ProcessTransport

if TYPE_CHECKING:
    from collections.abc import Iterable

    from planloom.ports import Clock, MakeAttempt, MakeTransport
    from planloom.transport.pool import WorkerPool


def on_workers(
    pool: WorkerPool,
    *,
    here: Iterable[str] = (),
    max_per_run: int | None = None,
    linger_s: float = 0.0,
    patience_s: float = 5.0,
) -> MakeTransport:
    """Return what has an engine's attempts made by the workers of a pool, which stays its caller's to close.

    Args:
        here: Kinds of step that are done in this process all the same, e.g. ``("model",)``.
        max_per_run: Workers that one run may have at a time; None: as many as there are.
        linger_s: Seconds a run keeps a worker for which it has nothing to do. ``inf``: until its end, so that a worker
            serves one program from start to end.
        patience_s: Seconds that a step waits for a worker with the labels it asks for (``require.region: eu``), or,
            where the pool starts none, for one to join.
    """
    kinds_here = frozenset(here)

    def make(attempts: MakeAttempt, clock: Clock) -> ProcessTransport:
        return ProcessTransport(
            pool,
            JsonWire(),
            clock,
            LocalTransport(attempts, clock),
            kinds_here=kinds_here,
            max_per_run=max_per_run,
            linger_s=linger_s,
            patience_s=patience_s,
        )

    return make
