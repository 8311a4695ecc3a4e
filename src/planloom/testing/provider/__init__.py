"""A provider of language models on this machine: real sockets, and the answers a test decides on."""

from planloom.testing.provider.answers import (
    Answer,
    Drop,
    Failing,
    Garbage,
    Hang,
    RecordedRequest,
    Reply,
    Slow,
    Status,
    Truncated,
)
from planloom.testing.provider.server import ProviderServer

__all__ = [
    "Answer",
    "Drop",
    "Failing",
    "Garbage",
    "Hang",
    "ProviderServer",
    "RecordedRequest",
    "Reply",
    "Slow",
    "Status",
    "Truncated",
]
