"""Tools that the browser tests serve: quick, slow, flaky, and one that only people may allow."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from planloom import tool
from planloom.core.chat import ModelCall
from planloom.testing.models import register


@tool(effects="none")
def fetch(url: str) -> dict[str, Any]:
    """Return a page that needs no network."""
    return {"url": url, "title": f"What {url} says", "words": 1_840}


@tool(effects="none")
def echo(value: Any) -> Any:
    """Return what it is given."""
    return value


@tool(effects="none")
async def nap(seconds: float) -> str:
    """Take a while."""
    await asyncio.sleep(seconds)
    return f"slept {seconds} s"


@tool(effects="none")
async def linger(value: Any, seconds: float) -> Any:
    """Return what it is given, after a while."""
    await asyncio.sleep(seconds)
    return value


@tool(effects="none")
async def flaky(marker: str) -> str:
    """Fail unless the marker is there; leave it behind."""
    await asyncio.sleep(0.2)
    path = Path(marker)
    if not path.exists():
        path.write_text("seen")
        raise ConnectionError("the far side said 503: try again later")
    return "went well"


@tool(effects="none")
async def until(marker: str) -> str:
    """Wait until somebody puts a file there."""
    while not Path(marker).exists():
        await asyncio.sleep(0.02)
    return "it is there"


@tool(effects="once", needs_approval=True)
def send(to: str, text: str) -> str:
    """Send a letter, if a person allows it."""
    return f"sent to {to}: {text}"


async def _slow(call: ModelCall) -> str:
    asked = json.loads(call.messages[-1].content)
    while not Path(asked["until"]).exists():
        await asyncio.sleep(0.02)
    return str(asked["say"])


async def _quick(call: ModelCall) -> str:
    await asyncio.sleep(0.1)
    return str(json.loads(call.messages[-1].content)["draft"])


# Asked with {"until": a file, "say": a text, "draft": a text}: one answers when the file is there, the other at once.
register("slow", _slow)
register("quick", _quick)
