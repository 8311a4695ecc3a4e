"""JSON values that people try against parsers, and their texts."""

from __future__ import annotations

import json
from typing import Any

import yaml
from hypothesis import strategies as st

IDS = ("a", "b", "c", "d", "fetch", "7", "a-b", "ü")

NASTY_TEXTS = (
    *("", " ", "\0", "\t", "\r", "\x85", "\u2028", "\ufeff", "\u202e", "\ud800", "\U0001f600", "é" * 50, "x" * 3_000),
    *(
        "${{",
        "}}",
        "$${{",
        "${{ }}",
        "${{ inputs.n }}",
        "${{ steps.a.output }} and ${{ steps.b }}",
        "{{x}}",
        "step:a.x",
    ),
    *("on", "no", "~", "null", "1.10", "010", "0x1F", "2026-12-01", "<<", "*a", "&a b", "!!python/object:os.system x"),
    *("- a", "a: b", "# x", "%YAML 1.1", "---", "'", '"', "\\", "../../etc/passwd", "plan.yaml", "__class__", "a.b[0]"),
)
NASTY_NUMBERS: tuple[float, ...] = (
    0,
    -1,
    1,
    2**31,
    2**63,
    -(2**63) - 1,
    10**299,
    10**310,
    0.0,
    -0.0,
    5e-324,
    1.8e308,
    -1e-300,
    0.1,
)
NASTY_NUMBERS += (float("inf"), float("nan"), 1e15, 2.5)
TEXTS = st.one_of(st.sampled_from(NASTY_TEXTS), st.sampled_from(IDS), st.text(max_size=12))
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-3, 9), st.sampled_from(NASTY_NUMBERS), TEXTS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=12,
)


def nested(draw: st.DrawFn) -> Any:
    """Return a value of up to hundreds of levels."""
    levels = draw(st.sampled_from((1, 8, 38, 41, 62, 63, 64, 65, 66, 199, 201, 900, 3_000)))
    value: Any = draw(SCALARS)
    for _ in range(levels):
        value = [value] if levels % 2 else {"a": value}
    return value


FEW = st.integers(0, 3)
NUMBERS = st.one_of(st.sampled_from((1, 2, 5, 0.5, 30, 1.0)), st.sampled_from(NASTY_NUMBERS))


def as_json_text(value: Any, *, ascii_only: bool = True) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    except (RecursionError, ValueError):
        return b"[" * 5_000


def as_yaml_text(value: Any, *, flow: bool) -> bytes:
    dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    try:
        text: str = yaml.dump(value, Dumper=dumper, default_flow_style=flow, allow_unicode=True, sort_keys=False)
        return text.encode("utf-8", "surrogatepass")
    except (yaml.YAMLError, UnicodeError, RecursionError, ValueError):
        return as_json_text(value)


@st.composite
def documents(draw: st.DrawFn, of: st.SearchStrategy[Any]) -> bytes:
    """Return a value as JSON or YAML text."""
    value = draw(of)
    form = draw(st.integers(0, 3))
    return as_yaml_text(value, flow=form == 1) if form < 2 else as_json_text(value, ascii_only=form == 2)
