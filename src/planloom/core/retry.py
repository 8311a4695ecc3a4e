"""How long to wait before the next attempt, if there is to be one. The only retry decision in planloom."""

from __future__ import annotations

from zlib import crc32

from planloom.core.events import AttemptFailed
from planloom.plan.policy import Effects, FailureKind, RetryPolicy

NEVER = frozenset(
    {
        FailureKind.INPUT,
        FailureKind.NOT_ALLOWED,
        FailureKind.REFUSED,
        FailureKind.CANCELLED,
        FailureKind.LIMIT,
        FailureKind.LOST,
    }
)
"""Kinds of failure that no policy mends: most of them cannot be mended, and a lost attempt is made again anyway."""


def worth_retrying(policy: RetryPolicy, failure: AttemptFailed, *, failures: int, effects: Effects) -> bool:
    """Return whether policy, failure and effects allow another attempt after `failures` failed ones.

    A `once` step is tried again only if its tool said that nothing had happened (`NotDoneError`).
    """
    if failures >= policy.max_attempts or failure.kind in NEVER:
        return False
    if failure.kind is FailureKind.NOT_DONE:
        return True
    if effects is Effects.ONCE:
        return False
    return not set(policy.retryable_exceptions).isdisjoint(failure.error_types)


def delay_s(policy: RetryPolicy, failures: int, seed: str, *, retry_after_s: float | None = None) -> float:
    """Return the seconds before retry number `failures` (1, 2, …).

    Args:
        seed: Names the attempt; the same seed gives the same jitter.
        retry_after_s: What the server asked for; it wins, up to `max_delay`.
    """
    if retry_after_s is not None:
        return min(policy.max_delay, max(0.0, retry_after_s))
    exponent = min(failures - 1, 62)  # base ** exponent could overflow, and 2 ** 62 s is past any ceiling
    try:
        delay = min(policy.max_delay, policy.initial_delay * policy.exponential_base**exponent)
    except OverflowError:
        delay = policy.max_delay
    if policy.jitter:
        delay *= crc32(seed.encode()) / 0xFFFF_FFFF  # not random(): a replayed run must wait as long
    return delay
