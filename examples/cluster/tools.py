"""Tools of the cluster example, beside those of the contacts example: many pages, each weighed by itself."""

from __future__ import annotations

import asyncio
from zlib import crc32

from planloom import tool


@tool(name="pages.list", effects="none")
def list_pages(count: int) -> list[str]:
    """Return the names of so many pages."""
    return [f"page-{number:03}" for number in range(count)]


@tool(name="pages.weigh", effects="none")
async def weigh(page: str) -> int:
    """Return what a page weighs; it takes a moment."""
    await asyncio.sleep(0.15)
    return crc32(page.encode()) % 1_000


@tool(name="pages.total", effects="none")
def total(weights: list[int]) -> int:
    """Return what all of them weigh."""
    return sum(weights)
