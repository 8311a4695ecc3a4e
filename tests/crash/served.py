"""A tool server that is killed: `-m tests.crash.served FOLDER [deaf]`, MCP over stdio, by hand, to start at once.

Its tools `pay` and `look`, called for each of the numbers from 0 on, leave a line in the log of `effects.py` before
anything else, and answer a moment later. With `deaf` it ends neither with its input nor by SIGTERM, and neither does a
child that it starts.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from tests.crash.effects import Effects

MOMENT_S = 0.02
SCHEMA = {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]}
WORLD = Effects(Path(sys.argv[1]) if __name__ == "__main__" else Path())


def send(number: Any, **told: Any) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": number} | told) + "\n")
    sys.stdout.flush()


def answered(method: str, params: dict[str, Any]) -> dict[str, Any] | None:
    match method:
        case "initialize":
            about = {"name": "served", "version": "1"}
            return {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": about}
        case "tools/list":
            return {
                "tools": [{"name": name, "description": "Add one.", "inputSchema": SCHEMA} for name in ("pay", "look")]
            }
        case "tools/call":
            name, number = params["name"], params["arguments"]["number"]
            effects, key = (
                "once" if name == "pay" else "none",
                (params.get("_meta") or {}).get("planloom/idempotency_key", ""),
            )
            WORLD.note(f"calc.{name}", effects, number, step=f"{name}[{number}]", attempt=1, key=key)
            time.sleep(MOMENT_S)
            return {"content": [{"type": "text", "text": str(number + 1)}], "isError": False}
    return None


def mark() -> None:
    with (WORLD.folder / "pids").open("a", encoding="utf-8") as pids:
        pids.write(f"{os.getpid()}\n")


def main() -> None:
    is_deaf = "deaf" in sys.argv
    if is_deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.fork()
    mark()
    for line in sys.stdin:
        message = json.loads(line)
        result = answered(message["method"], message.get("params") or {})
        if result is not None:
            send(message["id"], result=result)
        elif "id" in message:
            send(message["id"], error={"code": -32601, "message": "no such method"})
    while is_deaf:
        time.sleep(3600)


if __name__ == "__main__":
    main()
