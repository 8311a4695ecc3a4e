"""Runs as spans: the right parents, the recorded times, nothing secret, and nothing at all where nobody asks."""

from __future__ import annotations

import asyncio
import importlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace as otel
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes

from planloom import Engine, MemoryJournal, RunResult
from planloom.core.chat import ToolCall
from planloom.core.events import AttemptSucceeded
from planloom.core.prices import ModelPrice
from planloom.core.result import Usage
from planloom.errors import ConfigError
from planloom.observe import genai
from planloom.observe.trace import Tracing
from planloom.testing.fakes import fake_tool
from planloom.testing.models import ScriptedModel

USAGE = Usage(100, 10, 1)
SECRET = "sk-live-4f1c09ab77d2"


class Backend:
    """What takes spans."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("test")

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def named(self, name: str) -> ReadableSpan:
        (span,) = [span for span in self.spans if span.name == name]
        return span

    def tree(self) -> list[str]:
        """Return the way to every span, by names."""
        return sorted(self.ways())

    def ways(self) -> list[str]:
        """Return the same, in the order of the spans."""
        by_id = {context(span).span_id: span for span in self.spans}

        def way(span: ReadableSpan) -> str:
            if span.parent is None:
                return span.name
            return f"{way(by_id[span.parent.span_id])} > {span.name}"

        return [way(span) for span in self.spans]


def context(span: ReadableSpan) -> otel.SpanContext:
    assert span.context is not None
    return span.context


def about(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


@pytest.fixture
def backend() -> Iterator[Backend]:
    backend = Backend()
    yield backend
    backend.provider.shutdown()


def run(backend: Backend, steps: list[dict[str, Any]], *, content: bool | None = None, **options: Any) -> RunResult:
    plan = {"planloom": 1, "name": "p", "fail_fast": False, "steps": steps}

    async def main() -> RunResult:
        telemetry = Tracing(backend.tracer, content=content)
        async with asyncio.timeout(10), Engine(telemetry=telemetry, **options) as engine:
            return await engine.run(plan, run_id="r")

    return asyncio.run(main())


def test_a48_spans_of_steps_side_by_side_have_the_right_parents(backend: Backend) -> None:
    both = asyncio.Event()
    under_way: list[str] = []

    async def meet(who: str) -> str:
        under_way.append(who)
        if len(under_way) == 2:
            both.set()
        await both.wait()
        return who

    steps = [
        {"id": "a", "tool": "meet", "with": {"who": "a"}},
        {"id": "b", "model": "m", "prompt": "p", "tools": ["meet"]},
        {"id": "each", "tool": "echo", "for_each": [1, 2], "needs": ["a"]},
        {"id": "sub", "plan": {"steps": [{"id": "in", "tool": "echo"}]}, "needs": ["b"]},
    ]
    model = ScriptedModel([ToolCall("1", "meet", {"who": "b"}), "done"])
    run(backend, steps, tools=[fake_tool("meet", meet), fake_tool("echo")], models={"m": model})

    top = "invoke_workflow p"
    assert backend.tree() == sorted(
        [
            top,
            f"{top} > step a",
            f"{top} > step a > attempt 1",
            f"{top} > step a > attempt 1 > execute_tool meet",
            f"{top} > step b",
            f"{top} > step b > attempt 1",
            f"{top} > step b > attempt 1 > chat scripted",
            f"{top} > step each",
            *[
                f"{top} > step each > step each[{n}]{more}"
                for n in (0, 1)
                for more in ("", " > attempt 1", " > attempt 1 > execute_tool echo")
            ],
            f"{top} > step sub",
            *[
                f"{top} > step sub > step sub/in{more}"
                for more in ("", " > attempt 1", " > attempt 1 > execute_tool echo")
            ],
        ]
    )
    assert len({context(span).trace_id for span in backend.spans}) == 1


def test_two_runs_at_once_are_two_traces_each_with_its_own_spans(backend: Backend) -> None:
    async def main() -> None:
        plan = {"planloom": 1, "steps": [{"id": name, "tool": "t"} for name in ("a", "b", "c")]}
        async with Engine(tools=[fake_tool("t")], telemetry=backend.tracer) as engine:
            await asyncio.gather(*[engine.run(plan, run_id=f"r{n}") for n in range(5)])

    asyncio.run(main())

    by_trace: dict[int, int] = {}
    for span in backend.spans:
        by_trace[context(span).trace_id] = by_trace.get(context(span).trace_id, 0) + 1
    assert list(by_trace.values()) == [10] * 5
    assert len({context(span).span_id for span in backend.spans}) == 50


def test_a_span_says_what_was_recorded_and_lasts_as_long(backend: Backend) -> None:
    journal = MemoryJournal()
    model = ScriptedModel(["hello"], usage=USAGE, price=ModelPrice(1.0, 1.0))

    run(backend, [{"id": "a", "model": "m", "prompt": "p"}], models={"m": model}, journal=journal)

    record = asyncio.run(journal.read("r"))
    (answer,) = [one.event for one in record if isinstance(one.event, AttemptSucceeded)]
    chat, attempt = backend.named("chat scripted"), backend.named("attempt 1")
    assert about(chat)[genai.OPERATION] == "chat"
    assert (about(chat)[genai.INPUT_TOKENS], about(chat)[genai.OUTPUT_TOKENS]) == (100, 10)
    assert genai.INPUT_TOKENS not in about(attempt)  # or it would be counted twice
    assert about(attempt)[genai.COST_USD] == answer.cost_usd
    assert chat.kind is otel.SpanKind.CLIENT
    assert (chat.start_time, chat.end_time) == (round(answer.started_at * 1e9), round(answer.at * 1e9))
    assert about(backend.named("invoke_workflow p"))[genai.RUN_STATUS] == "success"


def test_a_chat_says_how_it_was_asked_and_how_the_answer_ended(backend: Backend) -> None:
    asked = {"prompt": "p", "max_tokens": 50, "temperature": 0.5, "stream": True}

    run(backend, [{"id": "a", "model": "m", **asked}], models={"m": ScriptedModel(["hello"])}, content=True)

    chat = about(backend.named("chat scripted"))
    names = (genai.REQUEST_MAX_TOKENS, genai.REQUEST_TEMPERATURE, genai.REQUEST_STREAM)
    assert [chat[name] for name in names] == [50, 0.5, True]
    assert (chat[genai.OUTPUT_TYPE], chat[genai.RESPONSE_MODEL]) == ("text", "scripted")
    assert chat[genai.FINISH_REASONS] == ("stop",)
    (message,) = json.loads(chat[genai.OUTPUT_MESSAGES])
    assert (message["role"], message["finish_reason"]) == ("assistant", "stop")


def test_every_name_of_the_conventions_is_one() -> None:
    known = {value for value in vars(gen_ai_attributes).values() if isinstance(value, str)}

    ours = {value for value in vars(genai).values() if isinstance(value, str) and value.startswith("gen_ai.")}

    assert ours - known == set()


def test_retries_are_attempts_of_one_step_and_a_failure_is_the_status_of_its_spans(backend: Backend) -> None:
    retry = {"max_attempts": 2, "initial_delay": 0}
    steps = [{"id": "a", "tool": "t", "retry": retry}, {"id": "b", "tool": "bad", "on_error": "fail"}]

    run(backend, steps, tools=[fake_tool("t", [ConnectionError("x"), "fine"]), fake_tool("bad", [ValueError("y")])])

    top = "invoke_workflow p > step a"
    tree = backend.tree()
    assert (f"{top} > attempt 1" in tree, f"{top} > attempt 2" in tree) == (True, True)
    status = {name: backend.named(name).status.status_code.name for name in ("step a", "step b", "invoke_workflow p")}
    assert status == {"step a": "UNSET", "step b": "ERROR", "invoke_workflow p": "ERROR"}
    assert [event.name for event in backend.named("step a").events] == ["retry"]
    assert about(backend.named("execute_tool bad"))[genai.ERROR_TYPE] == "error"


def test_what_is_not_asked_for_is_not_told(backend: Backend) -> None:
    async def bad(token: str) -> None:
        raise ValueError(f"the token {token} is wrong")

    steps = [
        {"id": "a", "tool": "bad", "with": {"token": SECRET}},
        {"id": "b", "model": "m", "prompt": f"Use {SECRET}."},
    ]
    model = ScriptedModel([f"I used {SECRET}."])

    run(backend, steps, tools=[fake_tool("bad", bad)], models={"m": model})

    told = "\n".join(span.to_json() for span in backend.spans)
    assert len(backend.spans) == 7
    assert SECRET not in told
    assert "I used" not in told


def test_a48_content_that_is_asked_for_is_told_without_secrets(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", SECRET)
    monkeypatch.setenv(genai.CAPTURE_CONTENT, "true")

    async def bad(token: str) -> None:
        raise ValueError(f"the token {token} is wrong")

    steps = [
        {"id": "a", "tool": "bad", "with": {"token": SECRET}},
        {"id": "b", "model": "m", "prompt": "p"},
        {"id": "c", "tool": "look"},
    ]
    model = ScriptedModel([f"I used {SECRET}."])
    tools = [fake_tool("bad", bad), fake_tool("look", [{"password": "hidden", "user": "ann"}])]

    run(backend, steps, tools=tools, models={"m": model})

    told = "\n".join(span.to_json() for span in backend.spans)
    assert SECRET not in told
    assert "hidden" not in told
    assert about(backend.named("execute_tool look"))[genai.TOOL_RESULT] == '{"user": "ann"}'
    (message,) = json.loads(about(backend.named("chat scripted"))[genai.OUTPUT_MESSAGES])
    assert message["parts"][0]["content"].startswith("I used ")
    assert "is wrong" in str(backend.named("step a").status.description)


def test_a_resumed_run_goes_on_in_the_same_trace_and_nothing_is_told_twice(backend: Backend, tmp_path: Path) -> None:
    async def main() -> None:
        stuck, go_on = asyncio.Event(), asyncio.Event()

        async def wait() -> str:
            stuck.set()
            await go_on.wait()
            return "done"

        steps = [{"id": "a", "tool": "t"}, {"id": "b", "tool": "wait", "needs": ["a"]}]
        tools = [fake_tool("t"), fake_tool("wait", wait)]
        async with Engine(tmp_path / "runs.db", tools=tools, telemetry=backend.tracer) as engine:
            await engine.start({"planloom": 1, "name": "p", "steps": steps}, run_id="r")
            await stuck.wait()
            while not any(span.name == "step a" for span in backend.spans):
                await asyncio.sleep(0.001)
        go_on.set()
        async with Engine(tmp_path / "runs.db", tools=tools, telemetry=backend.tracer) as engine:
            await engine.finish(await engine.resume("r"))

    asyncio.run(main())

    top = "invoke_workflow p"
    tree = backend.tree()
    assert len({context(span).trace_id for span in backend.spans}) == 1
    assert tree.count(f"{top} > step a > attempt 1") == 1
    assert tree.count(f"{top} > step b") == 1
    lost, made = [
        span for span in backend.spans if span.name.startswith("attempt") and about(span)["planloom.step"] == "b"
    ]
    assert about(lost)[genai.ERROR_TYPE] == "lost"
    assert made.status.status_code is otel.StatusCode.UNSET
    assert [event.name for event in backend.named(top).events] == ["resumed"]


def test_a_run_inside_somebody_s_span_belongs_to_that(backend: Backend) -> None:
    async def main() -> None:
        async with Engine(tools=[fake_tool("t")], telemetry=backend.tracer) as engine:
            with backend.tracer.start_as_current_span("request"):
                await engine.run({"planloom": 1, "name": "p", "steps": [{"id": "a", "tool": "t"}]})

    asyncio.run(main())

    assert "request > invoke_workflow p > step a" in backend.tree()


def test_a_tracer_that_breaks_changes_nothing_for_the_run(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(otel.NoOpTracer):
        def start_span(self, *args: Any, **options: Any) -> otel.Span:
            raise RuntimeError("no such exporter")

    async def main() -> RunResult:
        async with Engine(tools=[fake_tool("t")], telemetry=Broken()) as engine:
            return await engine.run({"planloom": 1, "steps": [{"id": "a", "tool": "t"}]})

    assert asyncio.run(main()).status.value == "success"
    assert "no such exporter" in caplog.text


@pytest.mark.slow
def test_an_exporter_that_takes_its_time_or_never_returns_holds_up_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planloom.observe.trace.CLOSE_S", 0.2)
    for_ever = threading.Event()

    class Hanging(InMemorySpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            for_ever.wait()
            return SpanExportResult.SUCCESS

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(Hanging()))

    async def main() -> float:
        began = asyncio.get_running_loop().time()
        async with Engine(tools=[fake_tool("t")], telemetry=provider.get_tracer("test")) as engine:
            steps = [{"id": f"s{n}", "tool": "t"} for n in range(20)]
            result = await engine.run({"planloom": 1, "steps": steps})
        assert result.status.value == "success"
        return asyncio.get_running_loop().time() - began

    assert asyncio.run(main()) < 3
    for_ever.set()


def test_letting_go_of_a_run_that_waits_does_not_hold_up_the_engine(backend: Backend) -> None:
    async def main() -> float:
        steps = [{"id": "a", "approve": {"message": "May I?"}}]
        async with Engine(telemetry=backend.tracer) as engine:
            run = await engine.start({"planloom": 1, "steps": steps})
            await run.result()
            begin = asyncio.get_running_loop().time()
        return asyncio.get_running_loop().time() - begin

    assert asyncio.run(main()) < 2
    assert backend.spans == []


def test_telemetry_that_is_no_tracer_is_refused() -> None:
    with pytest.raises(ConfigError, match="is no tracer"):
        Engine(telemetry="yes")  # type: ignore[arg-type]


@pytest.mark.slow
def test_where_the_api_is_not_installed_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("otel", "otel_metrics", "trace"):
        monkeypatch.delitem(sys.modules, f"planloom.observe.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)

    for module in ("trace", "otel_metrics"):
        with pytest.raises(ConfigError, match="not installed") as raised:
            importlib.import_module(f"planloom.observe.{module}")
        assert raised.value.remedy == "pip install 'planloom[otel]'"


def test_a48_where_nobody_asks_for_telemetry_none_of_it_is_even_loaded() -> None:
    program = """
import asyncio, sys
from planloom import Engine, tool
@tool(effects="none")
def add(a: int, b: int) -> int:
    return a + b
async def main():
    async with Engine() as engine:
        return await engine.run({"planloom": 1, "steps": [{"id": "a", "tool": "add", "with": {"a": 1, "b": 2}}]})
assert asyncio.run(main()).output == 3
print([name for name in sys.modules if name.startswith(("opentelemetry", "planloom.observe.trace"))])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
