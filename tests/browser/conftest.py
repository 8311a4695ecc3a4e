"""A real server in a process of its own, and a real browser that looks at it.

Rule 1: a test fails if any of its pages wrote an error to the console, threw one, or asked anybody but the server;
pages come from the fixtures `watched` and `watch` only, which see to that.
Rule 2: whatever the browser itself wants from elsewhere goes to a proxy of ours, which answers nobody and remembers.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, BrowserContext, Page

PICTURES = Path(__file__).resolve().parents[2] / "docs" / "pictures"
TOOLS = Path(__file__).with_name("tools.py")
START_S = 30.0
FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><include ignore_missing="yes">/etc/fonts/fonts.conf</include>
<match target="pattern"><test name="family"><string>system-ui</string></test>
<edit name="family" mode="prepend" binding="strong"><string>Liberation Sans</string></edit></match>
<match target="pattern"><test name="family"><string>ui-sans-serif</string></test>
<edit name="family" mode="prepend" binding="strong"><string>Liberation Sans</string></edit></match>
</fontconfig>
"""
"""Letters of about the width that most people's systems have, so that pictures look as the page does there."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--pictures", action="store_true", help="draw the pictures of docs/pictures anew")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Server:
    """`planloom serve` on one port and one journal, through any number of its lives."""

    def __init__(self, folder: Path, *, settings: str = "") -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.token: str | None = None
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "planloom.toml").write_text(settings)

    def start(self) -> None:
        command = [sys.executable, "-m", "planloom", "serve", "--journal", "runs.db", "--tools", str(TOOLS)]
        log = (self.folder / "server.log").open("ab")
        self._process = subprocess.Popen(
            [*command, "--port", str(self.port)], cwd=self.folder, stdout=log, stderr=log, start_new_session=True
        )
        log.close()
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            try:
                with urllib.request.urlopen(f"{self.url}/readyz", timeout=2):
                    return
            except OSError as error:
                if isinstance(error, urllib.error.HTTPError):
                    error.close()
                assert self._process.poll() is None, (self.folder / "server.log").read_text()
                time.sleep(0.05)
        raise AssertionError((self.folder / "server.log").read_text())

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """End it as a service manager would."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=START_S)
            self._process = None

    def call(self, path: str, body: Any = None) -> Any:
        headers = {"content-type": "application/json"}
        if self.token is not None:
            headers["authorization"] = f"Bearer {self.token}"
        sent = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/v1{path}", sent, headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def submit(self, *steps: dict[str, Any], name: str = "plan", **more: Any) -> str:
        plan = {"planloom": 1, "name": name, "steps": list(steps), **more}
        return str(self.call("/runs", {"plan": plan})["run_id"])

    def until_ended(self, run_id: str) -> None:
        """Return once a run has ended: so does the stream of its events."""
        request = urllib.request.Request(f"{self.url}/v1/runs/{run_id}/events", headers={"accept": "text/event-stream"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            for _ in answer:
                pass

    def events(self, run_id: str) -> list[int]:
        return [event["seq"] for event in self.call(f"/runs/{run_id}/events")["events"]]


SETTINGS = """
[server]
plans = ["plans"]

[models]
slow = "scripted://slow"
quick = "scripted://quick"

[prices.slow]
input = 2.5
output = 10.0

[prices.quick]
input = 0.5
output = 1.0
"""


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a server that all tests share, without tokens; its folder of plans is theirs to fill."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "plans").mkdir()
    found = Server(folder, settings=SETTINGS)
    found.start()
    yield found
    found.kill()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """Return a server for this test alone: to be killed, or with nothing on record yet."""
    found = Server(tmp_path)
    found.start()
    yield found
    found.kill()


BROWSERS_OWN = (".google.com", ".googleapis.com", ".gstatic.com", ".gvt1.com", ".googleusercontent.com")
"""Where Chromium calls home by itself, whatever it shows. Its pages may not go there either: see `Watched`."""


class Elsewhere:
    """Stands for the whole world but this machine: where the browser would go, it comes here and is remembered."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                caller, _ = self._socket.accept()
            except OSError:  # closed
                return
            with caller:
                target = caller.recv(1_000).decode("latin-1").split(" ")[1]
                host = urlsplit(target if "//" in target else f"//{target}").hostname or target
                if not host.endswith(BROWSERS_OWN):
                    self.asked.append(host)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(scope="session")
def elsewhere() -> Iterator[Elsewhere]:
    found = Elsewhere()
    yield found
    found.close()


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory, elsewhere: Elsewhere) -> Iterator[Browser]:
    """Return Debian's Chromium, without a window."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("not installed: chromium")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=15_000)
    fonts = tmp_path_factory.mktemp("fonts") / "fonts.conf"
    fonts.write_text(FONTS)
    with sync_playwright() as playwright:
        # As root it has no sandbox; it looks at nothing but the server beside it.
        environment: dict[str, str | float | bool] = {**os.environ, "FONTCONFIG_FILE": str(fonts)}
        arguments = ["--no-sandbox", f"--proxy-server={elsewhere.address}", "--proxy-bypass-list=127.0.0.1"]
        browser = playwright.chromium.launch(executable_path=path, args=arguments, env=environment)
        yield browser
        browser.close()


class Watched:
    """A page, and what it did that it must not do."""

    def __init__(self, page: Page, server: Server) -> None:
        self.page = page
        self.wrong: list[str] = []
        self.asked: set[str] = set()
        self.allowed: tuple[str, ...] = ()
        page.on("console", lambda said: self._said(said.type, said.text))
        page.on("pageerror", lambda error: self.wrong.append(f"threw: {error}"))
        page.on("request", lambda request: self.asked.add(urlsplit(request.url).netloc))
        page.on("websocket", lambda opened: self.asked.add(urlsplit(opened.url).netloc))
        page.on("popup", lambda opened: self.wrong.append(f"opened a window: {opened.url}"))
        page.on("crash", lambda _: self.wrong.append("crashed"))
        self._here = urlsplit(server.url).netloc

    def _said(self, kind: str, text: str) -> None:
        if kind in ("error", "warning") and not any(part in text for part in self.allowed):
            self.wrong.append(f"{kind}: {text}")

    def check(self) -> None:
        assert self.wrong == []
        assert self.asked <= {self._here, ""}, "a request left for elsewhere"


@pytest.fixture
def watch(chromium: Browser, elsewhere: Elsewhere) -> Iterator[Callable[..., Watched]]:
    """Return what opens pages; the test fails if one of them did what a page must not do."""
    contexts: list[BrowserContext] = []
    pages: list[Watched] = []

    def opened(server: Server, **options: Any) -> Watched:
        context = chromium.new_context(**{"viewport": {"width": 1360, "height": 860}, **options})
        context.set_default_timeout(15_000)
        contexts.append(context)
        pages.append(Watched(context.new_page(), server))
        return pages[-1]

    yield opened
    for context in contexts:
        context.close()
    for page in pages:
        page.check()
    assert elsewhere.asked == [], "the browser wanted something from elsewhere"


@pytest.fixture
def watched(watch: Callable[..., Watched], server: Server) -> Watched:
    """Return a page at the server that all share."""
    return watch(server)
