"""What tests of the broker share: links to it, and a trial of the streams."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from planloom.transport.nats.link import Broker, BrokerLink
from planloom.transport.nats.streams import StreamTerms, ensure_streams

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.cluster.servers import Nats


USUAL = StreamTerms()


@asynccontextmanager
async def linked(server: Nats, *, terms: StreamTerms | None = USUAL, **options: Any) -> AsyncIterator[BrokerLink]:
    """Return a link; the streams are made first, unless `terms` is None."""
    link = BrokerLink(Broker((server.url,), name="test"), **options)
    await link.open(wait_s=5)
    try:
        if terms is not None:
            await ensure_streams(link, terms)
        yield link
    finally:
        await link.close()
