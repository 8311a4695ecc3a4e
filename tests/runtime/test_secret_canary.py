"""What is declared a secret is in nothing that planloom writes or tells, wherever it came from, in whatever form."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from planloom import Engine, RunResult, masking
from planloom.agents.reasoning import Reasoner
from planloom.cli.main import main
from planloom.core.chat import ToolCall
from planloom.core.events import ApprovalAnswered, CallEnded, OutputStreamed
from planloom.errors import SecretGivenError
from planloom.journal.sqlite import SqliteJournal
from planloom.observe import logs
from planloom.observe.metrics import Metrics
from planloom.observe.trace import Tracing
from planloom.ports import Recorded
from planloom.runtime.replay import diverges
from planloom.runtime.settings import Settings
from planloom.runtime.workers import on_workers
from planloom.testing.fakes import fake_tool
from planloom.testing.models import FunctionModel, ScriptedModel
from planloom.testing.provider import ProviderServer
from planloom.tools.load import load_tools
from planloom.tools.registry import ToolRegistry
from planloom.tools.tool import Tool
from planloom.transport.bus import EventBus
from planloom.transport.events_out import publish_run
from planloom.transport.pool import WorkerPool
from planloom.transport.setup import WorkerSetup
from tests.runtime.canary import files_of, leaks, new_secret
from tests.tools.mcp_servers import ServerFolder

TOOLS = str(Path(__file__).with_name("canary_tools.py"))
PLACES = ("PROMPT", "ARGUMENT", "RESULT", "ERROR", "HEADER", "ANSWER", "STREAM", "INNER", "LOG")


@pytest.fixture
def canaries(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return a new secret for each place, in a variable of its own."""
    made = {f"CANARY_{place}": new_secret() for place in PLACES}
    for name, value in made.items():
        monkeypatch.setenv(name, value)
    return made


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[Path]:
    """Return a file that all log lines go to, as JSON."""
    path = tmp_path / "log.jsonl"
    before = [(name, logging.getLogger(name).level, logging.getLogger(name).propagate) for name in ("planloom", "mcp")]
    with path.open("w", encoding="utf-8") as stream:
        handler = logs.configure(format="json", level="DEBUG", stream=stream, loggers=("planloom", "mcp"))
        yield path
    for name, level, propagate in before:
        logger = logging.getLogger(name)
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


@contextmanager
def echoing() -> Iterator[str]:
    """Serve what answers with the headers it is sent: with 200 at /fine, else with 401."""

    class Echo(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/fine" else 401)
            self.end_headers()
            self.wfile.write(json.dumps(dict(self.headers)).encode())

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


class Told:
    """All that is told beside the files: spans, metrics, events."""

    def __init__(self) -> None:
        self.spans = InMemorySpanExporter()
        tracers = TracerProvider(shutdown_on_exit=False)
        tracers.add_span_processor(SimpleSpanProcessor(self.spans))
        self.reader = InMemoryMetricReader()
        meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.telemetry = Tracing(tracers.get_tracer("test"), content=True, meter=meters.get_meter("test"))
        self.metrics = Metrics()
        self.events: list[str] = []

    async def publish(self, journal: Any, run_id: str) -> None:
        bus = EventBus()
        heard = bus.subscribe(buffer=10_000)
        await publish_run(bus, journal, run_id, source="test")
        async for event in heard:
            self.events.append(json.dumps(event.to_dict(), default=str))
            if event.type == "planloom.run.finished":
                return

    def all(self) -> Iterator[tuple[str, bytes]]:
        spans = "\n".join(span.to_json() for span in self.spans.get_finished_spans())
        read = self.reader.get_metrics_data()
        yield "spans", spans.encode()
        yield "instruments", (read.to_json() if read is not None else "").encode()
        yield "metrics", self.metrics.text().encode()
        yield "events", "\n".join(self.events).encode()


def agent(secret: str) -> Reasoner:
    """Return an agent whose model knows a secret, gives it to its tool, and is given it back."""
    plan = {"has_sufficient_info": True, "reasoning": secret, "tasks": [{"description": "s", "tool_name": "same"}]}
    done = {"is_complete": True, "reasoning": f"done with {secret}", "missing_steps": [], "next_action": None}

    def same(text: str) -> str:
        """Return the text."""
        return text

    tools = ToolRegistry([Tool.from_function(same, name="same", effects="once")])
    return Reasoner(name="clerk", model=ScriptedModel([plan, {"text": secret}, done]), tools=tools)


PLAN = {
    "planloom": 1,
    "name": "canary",
    "fail_fast": False,
    "inputs": {"url": {"type": "string"}},
    "steps": [
        {"id": "spill", "tool": "c.spill"},
        {"id": "fail", "tool": "c.fail", "retry": {"max_attempts": 2, "initial_delay": 0}, "on_error": "skip"},
        {"id": "say", "tool": "c.say", "with": {"text": "${{ steps.spill.output.CANARY_ARGUMENT.plain }}"}},
        {"id": "ask", "model": "echo", "prompt": "Repeat: ${{ steps.say.output }}"},
        {"id": "stream", "model": "leaky", "prompt": "go", "stream": True},
        {"id": "chat", "model": "caller", "prompt": "go", "tools": ["c.say"]},
        {"id": "agent", "agent": "clerk", "prompt": "go"},
        {"id": "fine", "tool": "c.call", "with": {"url": "${{ inputs.url }}/fine"}},
        {"id": "refused", "tool": "c.call", "with": {"url": "${{ inputs.url }}/no"}, "on_error": "skip"},
        {
            "id": "person",
            "approve": {
                "message": "Is it ${{ steps.say.output }}?",
                "form": {"type": "object", "properties": {"pin": {"type": "string"}}},
            },
        },
        {
            "id": "each",
            "tool": "c.say",
            "for_each": "${{ steps.spill.output.CANARY_RESULT.url }}",
            "with": {"text": "${{ item }}"},
        },
        {"id": "last", "tool": "c.say", "with": {"text": "${{ steps.person.output.pin }}"}},
    ],
}


COMMANDS = ("show r", "show r --json", "events r", "trace r --content", "explain r fail", "graph --run r", "list")


@pytest.mark.slow
def test_a_secret_in_any_place_is_in_nothing_that_is_written_or_told(
    canaries: dict[str, str], tmp_path: Path, log_file: Path, capfd: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    told = Told()
    models = {
        "echo": FunctionModel(lambda call: str(call.messages[-1].content)),
        "leaky": FunctionModel(lambda call: f"well then, {canaries['CANARY_STREAM']}, and so on " * 4),
        "caller": ScriptedModel([ToolCall("1", "c.say", {"text": canaries["CANARY_INNER"]}), canaries["CANARY_INNER"]]),
    }
    settings = Settings(secrets=tuple(canaries))
    undeclared = new_secret()
    monkeypatch.setenv("CANARY_OPEN", undeclared)
    journal_file = tmp_path / ".planloom" / "runs.db"

    async def main_(url: str) -> RunResult:
        async with (
            asyncio.timeout(60),
            Engine(
                journal_file,
                tools=load_tools(TOOLS),
                models=models,
                agents=[agent(canaries["CANARY_INNER"])],
                settings=settings,
                telemetry=told.telemetry,
                metrics=told.metrics,
            ) as engine,
        ):
            run = await engine.start(PLAN, {"url": url}, run_id="r")
            await run.result()
            (step,) = run.state_now().blocked
            elsewhere = SqliteJournal(journal_file)
            answer = {"pin": canaries["CANARY_ANSWER"]}
            binding = step.approval["binding"] if step.approval else None
            await elsewhere.post(
                "r", ApprovalAnswered("person", True, f"ann {canaries['CANARY_ANSWER']}", time.time(), answer, binding)
            )
            await elsewhere.close()
            while True:
                result = await run.result()
                if result.status.value != "waiting":
                    break
                await asyncio.sleep(0.05)
            await told.publish(engine.journal, "r")
        return result

    with echoing() as url:
        result = asyncio.run(main_(url))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "planloom.toml").write_text(f"secrets = {json.dumps(list(canaries))}\n", encoding="utf-8")
    shown = [CliRunner().invoke(main, [*command.split()], prog_name="planloom") for command in COMMANDS]

    captured = capfd.readouterr()
    written = [
        *files_of(tmp_path),
        *told.all(),
        ("result", repr(result.to_dict()).encode()),
        ("stdout", captured.out.encode()),
        ("stderr", captured.err.encode()),
        *((f"command {n}", f"{one.stdout}{one.stderr}".encode()) for n, one in enumerate(shown)),
    ]
    assert leaks(written, canaries) == []
    assert leaks(written, {"open": undeclared}), "the search finds what nobody hides"
    assert result.status.value == "partial", result.to_dict()
    assert {place for place, found in written if b"***" in found} >= {"rows of runs.db", "log.jsonl", "spans", "events"}
    record = asyncio.run(read(journal_file))
    pieces = [one.event.text for one in record if isinstance(one.event, OutputStreamed)]
    assert "".join(pieces) == result.step("stream").output
    assert any(isinstance(one.event, CallEnded) for one in record)
    assert diverges("r", record) is None
    assert [one.exit_code for one in shown] == [0] * len(shown), [one.stderr for one in shown]


async def read(path: Path) -> list[Recorded]:
    journal = SqliteJournal(path)
    try:
        return await journal.read("r")
    finally:
        await journal.close()


@pytest.mark.parametrize("where", ["plan", "input", "encoded"])
def test_a_run_that_would_begin_with_a_secret_does_not_begin(
    canaries: dict[str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str], where: str
) -> None:
    secret = canaries["CANARY_PROMPT"]
    given = {"plan": secret, "encoded": f"x{secret.encode().hex()}"}.get(where, "fine")
    plan = {"planloom": 1, "inputs": {"text": {}}, "steps": [{"id": "a", "tool": "c.say", "with": {"text": given}}]}
    inputs = {"text": {"deep": [f"say {secret}"]} if where == "input" else "fine"}

    async def submit() -> None:
        settings = Settings(secrets=tuple(canaries))
        async with Engine(tmp_path / "runs.db", tools=load_tools(TOOLS), settings=settings) as engine:
            await engine.start(plan, inputs, run_id="r")

    with pytest.raises(SecretGivenError) as refused:
        asyncio.run(submit())

    captured = capfd.readouterr()
    told = f"{refused.value}{refused.value.to_dict()}{captured.out}{captured.err}".encode()
    assert refused.value.facts["secret"] == "CANARY_PROMPT"
    assert leaks([*files_of(tmp_path), ("told", told)], canaries) == []


@pytest.mark.parametrize("command", ["check plan.json", "run plan.json", "run plan.json --json"])
def test_what_is_said_of_a_wrong_plan_quotes_no_secret(
    canaries: dict[str, str], tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "planloom.toml").write_text(f"secrets = {json.dumps(list(canaries))}\n", encoding="utf-8")
    plan = {"planloom": 1, "steps": [{"id": "a", "tool": f"x {canaries['CANARY_ARGUMENT']}"}]}
    (tmp_path / "plan.json").write_text(json.dumps(plan), encoding="utf-8")

    ended = CliRunner().invoke(main, command.split(), prog_name="planloom")

    assert ended.exit_code != 0
    assert "***" in ended.stdout + ended.stderr
    assert leaks([("told", f"{ended.stdout}{ended.stderr}".encode())], canaries) == []


def test_a_run_goes_on_after_a_crash_with_what_it_was_given_before(canaries: dict[str, str], tmp_path: Path) -> None:
    secret, seen, stuck = canaries["CANARY_RESULT"], [], asyncio.Event()

    async def look(text: str) -> str:
        seen.append(text)
        if len(seen) == 1:
            stuck.set()
            await asyncio.Event().wait()
        return text

    steps = [
        {"id": "get", "tool": "get"},
        {"id": "look", "tool": "look", "with": {"text": "a ${{ steps.get.output }}"}},
    ]
    tools = [fake_tool("get", [secret]), fake_tool("look", look, effects="none")]

    async def lives() -> Any:
        settings = Settings(secrets=tuple(canaries))
        async with Engine(tmp_path / "runs.db", tools=tools, settings=settings) as engine:
            await engine.start({"planloom": 1, "steps": steps}, run_id="r")
            await stuck.wait()
        async with Engine(tmp_path / "runs.db", tools=tools, settings=settings) as engine:
            return await engine.finish(await engine.resume("r"))

    result = asyncio.run(lives())

    assert seen == ["a ***", "a ***"]
    assert result.output == "a ***"


def test_an_answer_that_waits_in_the_journal_holds_no_secret(canaries: dict[str, str], tmp_path: Path) -> None:
    masking.declare(canaries)
    answer = ApprovalAnswered("ok", True, "ann", 1.0, {"pin": [canaries["CANARY_ANSWER"]]})

    async def leave() -> list[tuple[str, bytes]]:
        async with Engine(tmp_path / "runs.db", tools=()) as engine:
            await engine.start({"planloom": 1, "steps": [{"id": "ok", "approve": "Go on?"}]}, run_id="r")
            elsewhere = SqliteJournal(tmp_path / "runs.db")
            await elsewhere.post("r", answer)
            written = list(files_of(tmp_path))
            await elsewhere.close()
            return written

    written = asyncio.run(leave())

    assert any(b'{"pin":["***"]}' in found for _, found in written)
    assert leaks(written, canaries) == []


def test_a_call_with_a_secret_that_is_on_record_is_not_made_again_by_the_next_attempt(
    canaries: dict[str, str], tmp_path: Path
) -> None:
    secret, sent = canaries["CANARY_INNER"], []
    plan = {"has_sufficient_info": True, "reasoning": "", "tasks": [{"description": "s", "tool_name": "send"}]}
    done = {"is_complete": True, "reasoning": "sent", "missing_steps": [], "next_action": None}

    def send(to: str) -> str:
        """Send."""
        sent.append(to)
        return f"sent to {to}"

    tools = ToolRegistry([Tool.from_function(send, name="send", effects="idempotent")])
    model = ScriptedModel([plan, {"to": secret}, ConnectionError("gone"), done])
    clerk = Reasoner(name="clerk", model=model, tools=tools)
    step = {"id": "a", "agent": "clerk", "prompt": "go", "retry": {"max_attempts": 2, "initial_delay": 0}}

    async def both_attempts() -> RunResult:
        settings = Settings(secrets=tuple(canaries))
        async with Engine(tmp_path / "runs.db", tools=(), agents=[clerk], settings=settings) as engine:
            return await engine.run({"planloom": 1, "steps": [step]}, run_id="r")

    result = asyncio.run(both_attempts())

    assert (result.status.value, result.step("a").attempts) == ("success", 2)
    assert sent == [secret]
    assert leaks(files_of(tmp_path), canaries) == []


@pytest.mark.slow
def test_what_worker_processes_find_out_is_struck_out(
    canaries: dict[str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    steps = [
        {"id": "spill", "tool": "c.spill"},
        {"id": "fail", "tool": "c.fail", "on_error": "skip"},
        {"id": "say", "tool": "c.say", "with": {"text": "hello"}},
    ]
    settings, tools = Settings(secrets=tuple(canaries)), load_tools(TOOLS)

    async def on_a_pool() -> RunResult:
        async with (
            asyncio.timeout(60),
            WorkerPool(1, 1, setup=WorkerSetup(tools=(TOOLS,))) as pool,
            Engine(tmp_path / "runs.db", tools=tools, transport=on_workers(pool), settings=settings) as engine,
        ):
            return await engine.run({"planloom": 1, "fail_fast": False, "steps": steps}, run_id="r")

    result = asyncio.run(on_a_pool())

    captured = capfd.readouterr()
    told = f"{result.to_dict()}{captured.out}{captured.err}".encode()
    assert leaks([*files_of(tmp_path), ("told", told)], canaries) == []
    assert "***" in result.step("say").output
    assert "***" in str(result.step("fail").error)


@pytest.mark.slow
def test_keys_of_providers_and_of_mcp_servers_need_no_declaring(
    tmp_path: Path, log_file: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    key, token = f"sk-{new_secret()}".replace(" ", "_"), new_secret()
    monkeypatch.setenv("CANARY_PROVIDER", key)
    monkeypatch.setenv("CANARY_MCP_TOKEN", token)
    (tmp_path / "served").mkdir()
    server = ServerFolder(tmp_path / "served").server(env={"TOKEN": "CANARY_MCP_TOKEN"})
    steps = [
        {"id": "ask", "model": "hosted", "prompt": "go", "on_error": "skip"},
        {"id": "mcp", "tool": "calc.secret"},
        {"id": "spill", "tool": "c.spill", "needs": ["mcp"]},
    ]
    plan = {"planloom": 1, "fail_fast": False, "steps": steps}

    async def ask(url: str) -> RunResult:
        tools = ToolRegistry([*load_tools(TOOLS), *await server.load(trust_first=True)])
        models = {"hosted": f"openai://gpt-4o?base_url={url}&key_env=CANARY_PROVIDER"}
        async with asyncio.timeout(60), Engine(tmp_path / "runs.db", tools=tools, models=models) as engine:
            return await engine.run(plan, run_id="r")

    with ProviderServer([], key="another") as provider:
        result = asyncio.run(ask(provider.openai_url))

    captured = capfd.readouterr()
    told = f"{result.to_dict()}{captured.out}{captured.err}".encode()
    kept = [(name, found) for name, found in files_of(tmp_path) if not name.startswith("served")]
    assert leaks([*kept, ("told", told)], {"key": key, "token": token}) == []
    assert result.step("ask").status.value == "skipped"
    assert set(result.step("spill").output) >= {"CANARY_PROVIDER", "CANARY_MCP_TOKEN"}
