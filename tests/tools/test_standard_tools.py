"""The standard tools, given what a plan may hold: good input, wrong input and hostile input."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planloom.errors import ArgumentsError, ConfigError, NotAllowedError, PlanloomError
from planloom.plan.values import as_json
from planloom.tools import ToolRegistry
from planloom.tools.standard import file_tools, get_default_tools

TOOLS = ToolRegistry.of(get_default_tools())


def call(name: str, **args: Any) -> Any:
    return TOOLS.get(name).call(args)


def test_the_standard_set_declares_its_effects_and_describes_every_parameter(tmp_path: Path) -> None:
    tools = get_default_tools(tmp_path, allow_hosts=["*"])

    assert {one.name.partition(".")[0] for one in tools} == {"math", "text", "json", "time", "files", "http"}
    for one in tools:
        assert one.effects is not None
        assert one.description
        jsonschema.Draft202012Validator.check_schema(one.schema)
        undescribed = [name for name, entry in one.schema["properties"].items() if not entry.get("description")]
        assert one.name == "text.count_words" or undescribed == []


def test_without_a_root_and_hosts_nothing_reads_files_or_reaches_out() -> None:
    assert not [name for name in TOOLS.names() if name.startswith(("files.", "http."))]


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("2 ** 10", 1024),
        ("7 // 2 - -1", 4),
        ("7 % 4", 3),
        ("1 / 4", 0.25),
        ("2 ** -1", 0.5),
        ("sqrt(16) + abs(-2)", 6.0),
        ("round(2.567, 1)", 2.6),
        ("max(1, 2, 3) - min(4, 5)", -1),
        ("round(pi, 2)", 3.14),
        ("1e3", 1000.0),
        (" 1 ", 1),
        ("1 ** 100000", 1),
        ("log(8, 2)", 3.0),
    ],
)
def test_arithmetic_gives_what_a_person_would(expression: str, value: float) -> None:
    assert call("math.calculate", expression=expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "1 +",
        "2 ** 99999999",
        "9 ** 9 ** 9 ** 9",
        "10 ** 400",
        "1e308 * 10",
        "1 / 0",
        "0 ** -1",
        "(-8) ** 0.5",
        "sqrt(-1)",
        "().__class__",
        "__import__('os')",
        "open('x')",
        "'a' * 9",
        "[1] * 9",
        "lambda: 1",
        "x",
        "abs",
        "abs()",
        "abs(1, 2)",
        "True + 1",
        "1 if 1 else 2",
        "max(*[1, 2])",
        "round(1.5, ndigits=1)",
        "round(1, 10 ** 9)",
        "1j",
        "f'{1}'",
        "1 < 2",
        "a.b",
        "-" * 490 + "1" + "x",
        "(" * 240 + "1" + ")" * 240,
        "1" * 501,
        "\0",
        "1 << 99",
        "factorial(9)",
        "exp(1e9)",
        "2 ^ 3",
        "9" * 490 + " * " + "9",
        "1e400",
        "(x := 1)",
        "\ud800",
    ],
)
def test_arithmetic_refuses_everything_else_at_once(expression: str) -> None:
    begun = time.monotonic()

    with pytest.raises(ArgumentsError):
        call("math.calculate", expression=expression)

    assert time.monotonic() - begun < 0.5


@pytest.mark.slow
@given(st.text(alphabet="0123456789.+-*/%() esqrtlogab,_'[]{}:\\\n", max_size=60))
@settings(max_examples=300)
def test_arithmetic_gives_a_number_or_refuses(expression: str) -> None:
    try:
        value = call("math.calculate", expression=expression)
    except ArgumentsError:
        return
    assert as_json(value) == value


def test_text_tools_do_what_they_say() -> None:
    assert call("text.split", text="a,b,c", separator=",", max_parts=2) == ["a", "b,c"]
    assert call("text.split", text=" a  b ") == ["a", "b"]
    assert call("text.join", parts=["a", "b"], separator="-") == "a-b"
    assert call("text.replace", text="aXbX", old="X", new="") == "ab"
    assert call("text.truncate", text="abcdef", max_length=4) == "abc…"
    assert call("text.truncate", text="abcdef", max_length=1) == "a"
    assert call("text.truncate", text="abc", max_length=3) == "abc"
    assert call("text.count_words", text=" two\nwords ") == 2


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("text.split", {"text": "a", "separator": ""}),
        ("text.split", {"text": "a", "max_parts": 0}),
        ("text.replace", {"text": "a", "old": "", "new": "b"}),
        ("text.replace", {"text": "a" * 100_000, "old": "a", "new": "b" * 1_000}),
        ("text.join", {"parts": [""] * 100_000, "separator": "x" * 1_000}),
        ("text.truncate", {"text": "a", "max_length": -1}),
        ("text.regex", {"pattern": "(", "text": "a"}),
        ("text.regex", {"pattern": "a" * 1_001, "text": "a"}),
        ("text.regex", {"pattern": "a", "text": "a", "limit": 0}),
    ],
)
def test_text_tools_refuse_what_makes_no_sense_or_no_end(name: str, args: dict[str, Any]) -> None:
    with pytest.raises(ArgumentsError):
        call(name, **args)


def test_a_regular_expression_finds_matches_and_groups() -> None:
    found = call("text.regex", pattern=r"(?P<word>[a-z]+)(\d)?", text="Ab1 ÄC", ignore_case=True, limit=5)

    assert found[0] == {"match": "Ab1", "groups": ["Ab", "1"], "named": {"word": "Ab"}, "start": 0, "end": 3}
    assert [one["match"] for one in found] == ["Ab1", "C"]


@pytest.mark.slow
def test_a_pattern_that_backtracks_for_ever_is_stopped() -> None:
    begun = time.monotonic()

    with pytest.raises(ArgumentsError, match="longer than 2 s"):
        call("text.regex", pattern="(a+)+$", text="a" * 40 + "b")

    assert time.monotonic() - begun < 4


def test_json_is_found_in_messy_text() -> None:
    text = 'Sure! [note] {broken: 1} Here: ```json\n{"items": [{"name": "tea {x}"}], "n": 1}\n``` and {"other": 2}'

    assert call("json.extract", text=text, path="items[0].name") == "tea {x}"
    assert call("json.extract", text=text)["n"] == 1
    assert call("json.extract", text="x [1, 2] y") == [1, 2]


@pytest.mark.parametrize(
    "text", ["", "no json", "{", "[" * 100_000, '{"a":' * 50_000, "[NaN", "[" + "9" * 5_000 + "]", '["\ud800"]']
)
def test_text_without_json_is_refused_soon(text: str) -> None:
    begun = time.monotonic()

    with pytest.raises(PlanloomError):
        call("json.extract", text=text)

    assert time.monotonic() - begun < 2


def test_a_path_into_json_finds_the_value_or_says_what_is_there() -> None:
    value = {"a": [{"b c": 1}, None]}

    assert call("json.get", value=value, path='a[0]["b c"]') == 1
    assert call("json.get", value=value, path="a[-1]") is None
    assert call("json.get", value=value, path="") == value
    assert call("json.get", value=value, path="a[7].x", default=None) is None
    with pytest.raises(ArgumentsError, match=r"(?s)a has no 7.*a list of 2"):
        call("json.get", value=value, path="a[7]")
    for path in ("a[", "a[x]", "..", "a]", 'a["', "__class__", "a[0].__len__", "a.0"):
        with pytest.raises(ArgumentsError):
            call("json.get", value=value, path=path)


def test_times_are_read_written_and_moved() -> None:
    moment = call("time.parse", text="02.01.2026 03:04", pattern="%d.%m.%Y %H:%M")

    assert moment == "2026-01-02T03:04:00+00:00"
    assert call("time.add", time=moment, days=1, hours=-3) == "2026-01-03T00:04:00+00:00"
    assert call("time.format", time=moment, pattern="%Y/%m") == "2026/01"
    assert call("time.parse", text="2026-01-02") == "2026-01-02T00:00:00+00:00"
    assert call("time.parse", text="2026-01-02T00:00:00+02:00") == "2026-01-02T00:00:00+02:00"
    assert call("time.now").endswith("+00:00")


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("time.now", {"timezone": "../../etc/passwd"}),
        ("time.now", {"timezone": "/etc/passwd"}),
        ("time.now", {"timezone": "Nowhere/None"}),
        ("time.now", {"timezone": "\0"}),
        ("time.parse", {"text": "soon"}),
        ("time.parse", {"text": "x", "pattern": "%d"}),
        ("time.parse", {"text": "x", "pattern": "%"}),
        ("time.format", {"time": "2026-01-02", "pattern": "%999999999d"}),
        ("time.format", {"time": "2026-01-02", "pattern": "x" * 201}),
        ("time.format", {"time": "2026-01-02", "pattern": "\ud800\0"}),
        ("time.format", {"time": "0001-01-01", "pattern": "%d", "timezone": "Pacific/Honolulu"}),
        ("time.add", {"time": "2026-01-02", "days": 1e300}),
        ("time.add", {"time": "9999-12-31", "weeks": 9}),
    ],
)
def test_times_that_make_no_sense_are_refused(name: str, args: dict[str, Any]) -> None:
    with pytest.raises(ArgumentsError):
        call(name, **args)


@pytest.fixture
def files(tmp_path: Path) -> Any:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    registry = ToolRegistry.of(file_tools(root))
    return lambda name, **args: registry.get(f"files.{name}").call(args)


def test_files_are_written_read_listed_and_found(files: Any, tmp_path: Path) -> None:
    assert files("write", path="a/b/one.txt", content="eins") == {"path": "a/b/one.txt", "size_bytes": 4}
    files("write", path="a/b/one.txt", content="ein")
    files("append", path="a/b/one.txt", content="s")
    files("write", path="a/two.bin", content="/wA=", encoding="base64")

    assert files("read", path="a/b/one.txt") == "eins"
    assert files("read", path="a/two.bin", encoding="base64") == "/wA="
    assert files("list", path="a") == [
        {"name": "b", "kind": "folder", "size_bytes": 0},
        {"name": "two.bin", "kind": "file", "size_bytes": 2},
    ]
    assert [files("glob", pattern=one) for one in ("**/*.txt", "*/*.bin", "a/**", "*.txt", "a/b/one.txt")] == [
        ["a/b/one.txt"],
        ["a/two.bin"],
        ["a/b/one.txt", "a/two.bin"],
        [],
        ["a/b/one.txt"],
    ]
    assert [files("exists", path=one) for one in ("a", "a/b/one.txt", "c", "c/d", "a/two.bin/x")] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert sorted(os.listdir(tmp_path / "root" / "a" / "b")) == ["one.txt"]


@pytest.mark.parametrize(
    "path",
    ["../secret.txt", "a/../../secret.txt", "/etc/passwd", "a\\..\\secret.txt", "C:/x", "x\0y", "./../secret.txt"],
)
@pytest.mark.parametrize("name", ["read", "write", "append", "exists", "list", "glob"])
def test_no_path_leads_out_of_the_root(files: Any, tmp_path: Path, name: str, path: str) -> None:
    args = {"pattern": path} if name == "glob" else {"path": path}
    if name in {"write", "append"}:
        args["content"] = "x"

    with pytest.raises(NotAllowedError):
        files(name, **args)

    assert (tmp_path / "secret.txt").read_text() == "secret"


def test_no_link_leads_out_of_the_root_or_anywhere(files: Any, tmp_path: Path) -> None:
    (tmp_path / "root" / "folder").symlink_to(tmp_path)
    (tmp_path / "root" / "file").symlink_to(tmp_path / "secret.txt")

    for name, args in (
        ("read", {"path": "file"}),
        ("read", {"path": "folder/secret.txt"}),
        ("append", {"path": "file", "content": "x"}),
        ("append", {"path": "folder/new", "content": "x"}),
        ("write", {"path": "folder/secret.txt", "content": "x"}),
        ("write", {"path": "folder/new/deep", "content": "x"}),
        ("list", {"path": "folder"}),
        ("exists", {"path": "folder/secret.txt"}),
    ):
        with pytest.raises(NotAllowedError, match="through a link"):
            files(name, **args)
    files("write", path="file", content="mine")

    assert files("list") == [{"name": "file", "kind": "file", "size_bytes": 4}]
    assert files("glob", pattern="**") == ["file"]
    assert (tmp_path / "secret.txt").read_text() == "secret"
    assert sorted(os.listdir(tmp_path)) == ["root", "secret.txt"]


def test_what_is_no_plain_file_is_refused_without_waiting(files: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "root" / "pipe")
    (tmp_path / "root" / "folder").mkdir()

    for name, args in (
        ("read", {"path": "pipe"}),
        ("read", {"path": "folder"}),
        ("write", {"path": "folder", "content": "x"}),
        ("read", {"path": "."}),
        ("read", {"path": ""}),
        ("write", {"path": "x" * 300, "content": "x"}),
        ("write", {"path": "a/" * 60 + "b", "content": "x"}),
        ("write", {"path": "x", "content": "x" * 10_000_001}),
        ("write", {"path": "x", "content": "no base64!", "encoding": "base64"}),
        ("read", {"path": "x", "encoding": "rot13"}),
        ("write", {"path": "x", "content": "ü", "encoding": "ascii"}),
    ):
        with pytest.raises((ArgumentsError, FileNotFoundError)):
            files(name, **args)
    with pytest.raises(FileNotFoundError, match="nowhere/at/all"):
        files("read", path="nowhere/at/all")
    assert os.listdir(tmp_path / "root" / "folder") == []


def test_files_over_the_cap_are_not_read_and_patterns_do_not_backtrack(files: Any, tmp_path: Path) -> None:
    with (tmp_path / "root" / "large").open("wb") as large:
        large.truncate(10_000_001)
    begun = time.monotonic()

    with pytest.raises(ArgumentsError, match="more than 10,000,000 bytes"):
        files("read", path="large")
    with pytest.raises(ArgumentsError, match="more than 10,000,000 bytes"):
        files("append", path="large", content="x")
    assert files("glob", pattern="**/" * 20 + "*a" * 100 + "b") == []
    assert time.monotonic() - begun < 2


def test_a_root_that_is_no_folder_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        get_default_tools(tmp_path / "none")
