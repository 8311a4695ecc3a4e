"""Requests over bare JetStream, as one would write them by hand with nats-py: the reference of a cluster's hop.

``python -m benchmarks.bare_broker URL`` is its worker: it takes a request from a work queue, stores an answer in
another stream, and acknowledges the request. `asked` asks so many, each once the one before it is answered.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter
from typing import Any

REQUESTS, ANSWERS = "BARE_REQUESTS", "BARE_ANSWERS"
BODY = b"x" * 400
"""As long as the command of a small step."""
WORKER_READY = "at work"


async def streams(context: Any) -> None:
    """Have both streams there."""
    from nats.js.api import RetentionPolicy

    for name, subject in ((REQUESTS, "bare.requests.>"), (ANSWERS, "bare.answers.>")):
        await context.add_stream(name=name, subjects=[subject], retention=RetentionPolicy.WORK_QUEUE)


async def serve(url: str) -> None:
    """Answer requests until killed."""
    import nats

    client = await nats.connect(url)
    context = client.jetstream()
    requests = await context.pull_subscribe("bare.requests.>", durable="worker", stream=REQUESTS)
    print(WORKER_READY, flush=True)
    while True:
        with suppress(asyncio.TimeoutError):  # nothing came for a while
            for message in await requests.fetch(1, timeout=30):
                await context.publish(message.subject.replace("requests", "answers"), message.data)
                await message.ack()


async def asked(url: str, count: int, *, commit: Callable[[], None] | None = None) -> list[float]:
    """Return the seconds that each of so many requests took.

    Args:
        commit: What is done, in a thread, with each answer before the next request: writing it down, for instance.
    """
    import nats

    client = await nats.connect(url)
    context = client.jetstream()
    answers = await context.pull_subscribe("bare.answers.>", durable="asker", stream=ANSWERS)
    took = []
    for number in range(count):
        began = perf_counter()
        await context.publish(f"bare.requests.{number}", BODY)
        [answer] = await answers.fetch(1, timeout=30)
        if commit is not None:
            await asyncio.to_thread(commit)
        await answer.ack()
        took.append(perf_counter() - began)
    await client.close()
    return took


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
