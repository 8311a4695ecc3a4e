"""`planloom check` lists where labelled values go, and its exit code says whether that is all right."""

from __future__ import annotations

from typing import Any

import pytest

from cli.conftest import Folder

TOOLS = """
from planloom import tool

@tool("web.get", effects="none", source="web")
def get() -> str:
    return "page"

@tool("vault.read", effects="none", secret=True)
def read() -> str:
    return "hunter2"

@tool("mail.send", effects="once")
def send(text: str) -> str:
    with open("sent.log", "a") as log:
        log.write(text)
    return "sent"
"""
FETCH = {"id": "fetch", "tool": "web.get"}
SUM = {"id": "sum", "model": "scripted://echo", "prompt": "${{ steps.fetch.output }}"}
SEND = {"id": "send", "tool": "mail.send", "with": {"text": "${{ steps.sum.output }}"}}
TELL = {"id": "tell", "model": "scripted://echo", "prompt": "${{ steps.key.output }}"}
KEY = {"id": "key", "tool": "vault.read"}


@pytest.fixture
def flow(folder: Folder) -> Folder:
    folder.write("tools.py", TOOLS)
    return folder


def ways(folder: Folder, *steps: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = folder.call("check", folder.plan("p.json", *steps), "--json").value["flows"]
    return found


def test_each_way_is_a_line_with_its_verdict(flow: Folder) -> None:
    ended = flow.call("check", flow.plan("p.json", FETCH, SUM, SEND))

    lines = [line.split() for line in ended.out.splitlines()]
    assert ended.code == 0
    assert lines[-2] == ["label", "from", "through", "to", "verdict"]
    assert lines[-1] == ["web", "fetch", "(web.get)", "sum", "send", "(mail.send)", "needs", "approval"]


def test_as_json_a_way_has_all_there_is_to_know(flow: Folder) -> None:
    [way] = ways(flow, FETCH, SUM, SEND)

    assert way == {
        "label": "web",
        "source": "fetch",
        "source_tool": "web.get",
        "through": ["sum"],
        "sink": "send",
        "tool": "mail.send",
        "verdict": "needs_approval",
        "why": way["why"],
        "certain": True,
    }
    assert "others (web)" in way["why"]


def test_where_nothing_leads_anywhere_nothing_is_told(flow: Folder) -> None:
    ended = flow.call("check", flow.plan("p.json", FETCH))

    assert ended.out.splitlines() == ["p.json: p, 1 step, no problems"]


def test_strict_flow_fails_where_somebody_would_be_asked(flow: Folder) -> None:
    name = flow.plan("p.json", FETCH, SUM, SEND)

    ended = flow.call("check", name, "--strict-flow", "--json")

    assert (ended.code, ended.value["ok"]) == (8, False)
    assert flow.call("check", flow.plan("q.json", FETCH, SUM), "--strict-flow").code == 0


def test_strict_flow_fails_where_a_model_s_call_would_be_refused(flow: Folder) -> None:
    name = flow.plan("p.json", SUM | {"prompt": "?", "tools": ["web.get", "mail.send"]})

    ended = flow.call("check", name, "--strict-flow")

    assert ended.code == 8
    assert ended.out.splitlines()[-1].endswith("refused if it happens")


def test_a_way_that_is_refused_is_a_problem_like_any_other(flow: Folder) -> None:
    flow.write("p.yaml", f"planloom: 1\nsteps:\n  - {KEY}\n  - {TELL}\n")

    ended = flow.call("check", "p.yaml")

    assert ended.code == 2
    assert ended.err.startswith("p.yaml:4:")
    assert "error[plan.flow]: what step 'key' gives is 'secret'" in ended.err


def test_the_settings_decide(flow: Folder) -> None:
    flow.write("planloom.toml", 'tools = ["tools.py"]\n[flow]\nuntrusted = "allow"\nmodels_accept = "secret"\n')
    verdicts = [way["verdict"] for way in ways(flow, FETCH, SUM, SEND, KEY, TELL)]

    assert verdicts == ["allowed", "allowed"]
    assert flow.call("check", "p.json", "--strict-flow").code == 0
    assert flow.call("run", flow.plan("q.json", FETCH, SUM, SEND)).code == 0


def test_settings_that_are_wrong_are_told(flow: Folder) -> None:
    flow.write("planloom.toml", '[flow]\nuntrusted = "maybe"\n')

    ended = flow.call("check", flow.plan("p.json", FETCH))

    assert ended.code == 7
    assert "flow.untrusted" in ended.err


def test_a_run_waits_for_a_person_and_sends_nothing(flow: Folder) -> None:
    ended = flow.call("run", flow.plan("p.json", FETCH, SUM, SEND))

    assert ended.code == 4
    assert not (flow.path / "sent.log").exists()
