"""What an MCP server answers to a call, as JSON or as an error.

Rule 1: structured content comes first; text stays text, whatever it looks like; what is neither is described, and its
    bytes are dropped.
"""

from __future__ import annotations

import base64
import binascii
from hashlib import sha256
from typing import Any

from planloom.errors import McpToolError, OutputError

MAX_TOLD = 2_000
"""Characters of a server's own words in an error."""


def output_of_answer(tool: str, answer: dict[str, Any], *, is_structured: bool) -> Any:
    """Return what a call came to.

    Args:
        tool: Its name here.
        answer: A `CallToolResult` in the spelling of the wire.
        is_structured: Whether the server gave structured content, be it null.

    Raises:
        McpToolError: The tool says that it failed.
    """
    blocks: list[dict[str, Any]] = answer.get("content") or []
    if answer.get("isError"):
        raise McpToolError(f"tool {tool!r} failed: {_words(blocks) or 'it does not say why'}", tool=tool)
    if is_structured:
        return answer["structuredContent"]
    texts = [block["text"] for block in blocks if block.get("type") == "text"]
    if len(texts) == len(blocks):
        return texts[0] if len(texts) == 1 else texts or None
    return [described(block) for block in blocks]


def check_is_structured(tool: str, *, is_structured: bool) -> None:
    """Refuse an answer without what the tool's schema describes.

    Raises:
        OutputError: It is one.
    """
    if not is_structured:
        raise OutputError(
            f"tool {tool!r} declares the form of its result, and its server gave none", remedy="tell whoever wrote it"
        )


def described(block: dict[str, Any]) -> dict[str, Any]:
    """Return a block of content without its bytes."""
    kind = block.get("type", "")
    if kind in {"image", "audio"}:
        return {"type": kind, "mime_type": block.get("mimeType"), **_measured(block.get("data", ""))}
    if kind == "resource":
        held = block.get("resource") or {}
        told = {"type": kind, "uri": held.get("uri"), "mime_type": held.get("mimeType")}
        return told | ({"text": held["text"]} if "text" in held else _measured(held.get("blob", "")))
    if kind == "resource_link":
        return {"type": kind, "uri": block.get("uri"), "name": block.get("name"), "mime_type": block.get("mimeType")}
    return {"type": kind, "text": block.get("text")}


def _measured(encoded: str) -> dict[str, Any]:
    try:
        raw = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return {"size_bytes": None}
    return {"size_bytes": len(raw), "sha256": sha256(raw).hexdigest()}


def _words(blocks: list[dict[str, Any]]) -> str:
    text = " ".join(block["text"] for block in blocks if block.get("type") == "text").strip()
    return text if len(text) <= MAX_TOLD else f"{text[: MAX_TOLD - 1]}…"
