"""What `planloom serve` stands beside: a bare FastAPI app, as one would write it for one purpose, run as a process.

Rule 1: it is served by the same uvicorn with the same options, and answers and streams as many bytes.
Rule 2: it knows nothing of planloom: no plan, no run, no record, no tokens, no limits.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sqlite3
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from threading import Lock
from typing import Any

import uvicorn
from fastapi import FastAPI, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

ANSWER = {
    "run_id": "20261120-093015-4f1c09ab",
    "plan": "hi",
    "plan_hash": "9" * 64,
    "status": "running",
    "started_at": 1790000000.123456,
    "updated_at": 1790000000.123456,
    "last_seq": 2,
    "from_run": None,
    "edited": "",
    "paused": False,
}
"""As long as what is answered to a submission."""
MARK = b"@AT@"
"""Stands in each event to be sent where its moment goes."""


class Submitted(BaseModel):
    """A request with a body."""

    name: str
    inputs: dict[str, Any] = {}


class Feed:
    """Sends frames to all who listen, at given moments: one queue for each."""

    def __init__(self) -> None:
        self._queues: set[asyncio.Queue[bytes]] = set()

    async def play(self, frames: list[bytes], moments_s: list[float]) -> None:
        """Send each frame its seconds after now."""
        began = time.monotonic()
        for frame, moment_s in zip(frames, moments_s, strict=True):
            early_s = began + moment_s - time.monotonic()
            if early_s > 0:  # else it is late: what is due by now goes out together
                await asyncio.sleep(early_s)
            told = frame.replace(MARK, f"{time.time():.6f}".encode(), 1)
            for queue in self._queues:
                queue.put_nowait(told)
        for queue in self._queues:
            queue.put_nowait(b"")

    async def frames(self) -> AsyncIterator[bytes]:
        """Yield what comes for one listener; all that is there goes out at once."""
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._queues.add(queue)
        try:
            yield b"retry: 1000\n\n"
            while True:
                found = [await queue.get()]
                while not queue.empty():
                    found.append(queue.get_nowait())
                told = b"".join(found)
                if told:
                    yield told
                if not found[-1]:
                    return
        finally:
            self._queues.discard(queue)


def make_app(folder: Path) -> FastAPI:
    app, feed, lock = FastAPI(), Feed(), Lock()
    database = sqlite3.connect(folder / "bare.db", isolation_level=None, check_same_thread=False)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("CREATE TABLE IF NOT EXISTS submitted (number INTEGER PRIMARY KEY, body TEXT)")

    @app.post("/nothing", status_code=201)
    async def nothing(body: Submitted) -> dict[str, Any]:
        return ANSWER

    @app.post("/insert", status_code=201)
    def insert(body: Submitted) -> dict[str, Any]:
        with lock:
            database.execute("INSERT INTO submitted (body) VALUES (?)", (body.model_dump_json(),))
        return ANSWER

    @app.get("/count")
    def count() -> dict[str, int]:
        return {"inserted": database.execute("SELECT count(*) FROM submitted").fetchone()[0]}

    @app.get("/events")
    async def events() -> Response:
        return StreamingResponse(feed.frames(), media_type="text/event-stream")

    @app.get("/stored")
    async def stored() -> Response:
        async def told() -> AsyncIterator[bytes]:
            yield b"retry: 1000\n\n"
            yield app.state.stored

        return StreamingResponse(told(), media_type="text/event-stream")

    @app.post("/play", status_code=202)
    async def play() -> dict[str, int]:
        told = json.loads((folder / "frames.json").read_text(encoding="utf-8"))
        frames = [frame.encode() for frame in told["frames"]]
        app.state.stored = b"".join(frames).replace(MARK, b"1790000000.123456")
        app.state.playing = asyncio.create_task(feed.play(frames, told["moments_s"]))
        return {"frames": len(frames)}

    return app


def main() -> None:
    """Serve from a folder on any free port, which is told on stderr."""
    app = make_app(Path(sys.argv[1]))
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named, so asyncio sends at once
    listening.bind(("127.0.0.1", 0))
    listening.listen(2048)
    print(f"listening on http://127.0.0.1:{listening.getsockname()[1]}", file=sys.stderr, flush=True)
    config = uvicorn.Config(app, log_config=None, access_log=False, proxy_headers=False, server_header=False, ws="none")
    asyncio.run(uvicorn.Server(config).serve(sockets=[listening]))


if __name__ == "__main__":
    main()
