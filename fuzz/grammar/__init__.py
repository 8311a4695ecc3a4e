"""Hostile inputs by grammar: nearly right plans, expressions, rows and messages, and what people try against parsers.

Rule 1: mostly right: an input that fails at its first field tries nothing behind it.
Rule 2: every field of a step and of a plan, every operator and every function can come up.
"""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st

from fuzz.grammar.bombs import bombs
from fuzz.grammar.expressions import EXPRESSIONS, REFERENCES, SOUND_EXPRESSIONS
from fuzz.grammar.messages import ANSWERS, ARGS, answers, facts, frames, requests, rows
from fuzz.grammar.plans import SCHEMAS, lettered, plans, sound
from fuzz.grammar.values import TEXTS, VALUES, as_json_text, documents

Make = st.SearchStrategy[bytes]


def _utf8(texts: st.SearchStrategy[str]) -> Make:
    return texts.map(lambda text: text.encode("utf-8", "surrogatepass"))


PLANS = st.one_of(*[documents(sound())] * 9, *[documents(plans())] * 6, bombs(), lettered(), documents(VALUES))
MAKES: dict[str, Callable[[], Make]] = {
    "plan": lambda: PLANS,
    "lettered": lettered,
    "model_answer": lambda: st.one_of(
        st.builds(as_json_text, sound(levels=0, tool="mail.quiet")), st.builds(as_json_text, plans(levels=0)), answers()
    ),
    "expression": lambda: _utf8(st.one_of(SOUND_EXPRESSIONS, SOUND_EXPRESSIONS, EXPRESSIONS, REFERENCES)),
    "references": lambda: st.one_of(
        _utf8(REFERENCES), st.builds(as_json_text, st.dictionaries(TEXTS, REFERENCES)), bombs()
    ),
    "schema": lambda: st.one_of(st.builds(as_json_text, SCHEMAS), bombs()),
    "row": rows,
    "frames": frames,
    "request": requests,
    "fact": facts,
    "answer": answers,
    "arguments": lambda: st.builds(as_json_text, st.one_of(ARGS, ANSWERS, VALUES)),
}
"""Target → what makes inputs for it."""
