"""The numbers of traces and spans, which follow from the run and the path alone."""

from __future__ import annotations

import json
from hashlib import sha256


def trace_id_of(run_id: str) -> int:
    """Return the number of a run's trace, 16 bytes."""
    return int.from_bytes(sha256(f"planloom run {run_id}".encode()).digest()[:16], "big") or 1


def span_id_of(run_id: str, path: str) -> int:
    """Return the number of a span, 8 bytes."""
    return int.from_bytes(sha256(json.dumps([run_id, path]).encode()).digest()[:8], "big") or 1
