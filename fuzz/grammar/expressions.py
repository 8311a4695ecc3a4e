"""Expressions and references: of the right types, of any shape, and far too long."""

from __future__ import annotations

from hypothesis import strategies as st

from fuzz.grammar.values import TEXTS
from planloom.plan.terms import FUNCTIONS

_ATOMS = st.sampled_from(
    (
        *("inputs", "inputs.n", "inputs.list", "inputs.wide", "inputs.long", "inputs.deep", "inputs.missing", "item"),
        *("steps.a.output", "steps.a.output.x[0]", "steps.b", "steps.fetch.status", "steps['a-b'].output", "index"),
        *("context.n", "run.id", "inputs.big", "inputs.huge", "inputs.tiny", "inputs.quotes", "inputs.obj.b.c[-1]"),
        *("1", "-1", "0", "2.5", "1e308", "9" * 300, "-99999999", "1e-300", "true", "false", "null", "True", "None"),
        *(
            '"x"',
            "'x'",
            '"\\""',
            "'\\\\'",
            '"\\u00e9"',
            '"\\ud800"',
            '""',
            '"}}"',
            '"' + "y" * 200 + '"',
            "[]",
            "[1, 2]",
        ),
        *("unknown", "steps.zzz.output", "inputs.__class__", "steps", "inputs[0]", "inputs['x']", "len", "and"),
    )
)
_SIGNS = st.sampled_from((" == ", " != ", " < ", "<=", ">", ">=", " in ", " not in ", " and ", " or ", ", ", " ", "."))


def _deeper(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.builds(lambda left, sign, right: f"{left}{sign}{right}", inner, _SIGNS, inner),
        st.builds(lambda name, given: f"{name}({', '.join(given)})", st.sampled_from(sorted(FUNCTIONS)), _some(inner)),
        st.builds(lambda one: f"({one})", inner),
        st.builds(lambda one: f"not {one}", inner),
        st.builds(lambda many: f"[{', '.join(many)}]", _some(inner)),
        st.builds(lambda one, key: f"{one}[{key}]", inner, inner),
    )


def _some(inner: st.SearchStrategy[str]) -> st.SearchStrategy[list[str]]:
    return st.lists(inner, min_size=0, max_size=3)


@st.composite
def _long(draw: st.DrawFn) -> str:
    """Return an expression of one thing many times: chains, parentheses, nested calls."""
    atom = draw(_ATOMS)
    count = draw(st.sampled_from((2, 10, 37, 39, 40, 41, 100, 600)))
    name = draw(st.sampled_from(sorted(FUNCTIONS)))
    rest = draw(st.sampled_from((")", ")", ")", ", 1)", ", -1)", ", inputs.n)")))
    form = draw(st.integers(0, 9))
    chains = (" and ", " or ", " == ", ", ")
    if form < 4:
        return chains[form].join([atom] * count)
    if form == 4:
        return "(" * count + atom + ")" * count
    if form == 5:
        return "[" * count + atom + "]" * count
    if form == 6:
        return f"{name}(" * count + atom + rest * count
    if form == 9:
        grows = draw(st.sampled_from(("json", "text", "upper", "join", "first")))
        return (
            f"{grows}(" * min(count, 38)
            + draw(st.sampled_from(('"\\""', "inputs.quotes", "[inputs.quotes]")))
            + ")" * min(count, 38)
        )
    if form == 7:
        return "not " * count + atom
    return f"{name}([{', '.join([atom] * count)}])"


_NUMBER: st.SearchStrategy[str] = st.deferred(
    lambda: st.one_of(
        st.sampled_from(("1", "-2.5", "inputs.n", "inputs.f", "steps.a.attempts", "inputs['list'][0]")),
        st.sampled_from(("1", "-99999999", "inputs.big", "inputs.huge", "5e-324", "steps.a.output.x[-1]")),
        st.builds(lambda one: f"len({one})", _LIST | _TEXT),
        st.builds(lambda name, one: f"{name}({one})", st.sampled_from(("abs", "round", "number")), _NUMBER),
        st.builds(lambda one, digits: f"round({one}, {digits})", _NUMBER, _NUMBER),
        st.builds(lambda name: f"{name}(inputs.numbers)", st.sampled_from(("sum", "min", "max", "first", "last"))),
    )
)
_TEXT: st.SearchStrategy[str] = st.deferred(
    lambda: st.one_of(
        st.sampled_from(
            ("'x'", '"\\""', "inputs.s", "inputs['a-b']", "steps.a.status", "inputs.quotes", "inputs.long")
        ),
        st.builds(
            lambda name, one: f"{name}({one})", st.sampled_from(("lower", "upper", "trim", "json", "text")), _TEXT
        ),
        st.builds(lambda name, one: f"{name}({one})", st.sampled_from(("json", "text")), _LIST | _NUMBER | _TRUTH),
        st.builds(lambda one, other: f"join({one}, {other})", _LIST, _TEXT),
    )
)
_LIST: st.SearchStrategy[str] = st.deferred(
    lambda: st.one_of(
        st.sampled_from(("inputs.list", "inputs.numbers", "[]", "inputs.wide", "values(inputs.obj)", "keys(inputs)")),
        st.builds(lambda one, other: f"split({one}, {other})", _TEXT, _TEXT),
        st.builds(lambda many: f"[{', '.join(many)}]", st.lists(_NUMBER | _TEXT | _LIST, max_size=3)),
        st.builds(lambda one: f"default(inputs.no.such, {one})", _LIST),
    )
)
_ORDERS = st.sampled_from(("<", "<=", ">", ">=", "=="))
_TRUTH: st.SearchStrategy[str] = st.deferred(
    lambda: st.one_of(
        st.sampled_from(("true", "inputs.yes", "exists(inputs.no)", "steps.a.output.y == 'z'", "all(inputs.list)")),
        st.builds(
            lambda one, sign, other: f"{one} {sign} {other}",
            _NUMBER,
            st.sampled_from(["<", "<=", ">", ">=", "=="]),
            _NUMBER,
        ),
        st.builds(
            lambda one, sign, other: f"{one} {sign} {other}", _TEXT, st.sampled_from(("in", "not in", "!=")), _TEXT
        ),
        st.builds(lambda one, other: f"{one} in {other}", _NUMBER | _TEXT | _LIST, _LIST),
        st.builds(lambda one, sign, other: f"({one} {sign} {other})", _TRUTH, st.sampled_from(("and", "or")), _TRUTH),
        st.builds(lambda one: f"not {one}", _TRUTH),
    )
)
SOUND_EXPRESSIONS = _TRUTH | _NUMBER | _TEXT | _LIST
"""Expressions of the right types, most of which can be worked out."""
EXPRESSIONS = st.one_of(st.recursive(_ATOMS, _deeper, max_leaves=8), _long())
REFERENCES = st.one_of(
    st.builds(lambda before, one: f"{before}${{{{ {one} }}}}", st.sampled_from(("", "so ")), SOUND_EXPRESSIONS),
    st.builds(lambda one: f"${{{{ {one} }}}}", EXPRESSIONS),
    st.builds(lambda before, one, behind: f"{before}${{{{{one}}}}}{behind}", TEXTS, EXPRESSIONS, TEXTS),
)
