"""What each language is made of, for the engine that knows no grammar: it puts these words together."""

from __future__ import annotations

FIELDS: tuple[str, ...] = (
    "planloom",
    "steps",
    "id",
    "tool",
    "model",
    "prompt",
    "with",
    "needs",
    "when",
    "for_each",
    "retry",
    "limits",
)
FIELDS += ("inputs", "outputs", "plan", "agent", "code", "approve", "wait", "task", "cache", "verify", "speculate")
FIELDS += ("step_id", "tool_name", "parameters", "condition", "retry_policy", "request_id", "final_synthesis", "input")
JSON = ('{"', '":', "[", "]", "}", '","', "null", "true", "1e308", "-0.0", "\\ud800", "NaN", "1" * 320, "[[[[[[[[")
YAML = (
    "&a",
    "*a",
    "!!str ",
    "- ",
    ": ",
    "<<: ",
    "|\n ",
    ">\n ",
    "---\n",
    "...\n",
    "%YAML 1.1\n",
    "? ",
    "\t",
    "#",
    "~",
)
WORDS: tuple[str, ...] = (
    "steps.a.output",
    "inputs.n",
    "item",
    "index",
    "run.id",
    " and ",
    " or ",
    "not ",
    " in ",
    " not in ",
    "==",
)
WORDS += ("!=", "<=", "default(", "exists(", "len(", "json(", "text(", "round(", "sum(", "split(", "join(", "number(")
WORDS += ("inputs.big", "inputs.long", "inputs.wide", '"\\""', "first(", "values(", "inputs.list[-1]", "((((((((", ",")
REFERENCES = ("${{", "}}", "$${{", "{{", "step:a.x", "${{ inputs.n }}")
LINES = ("\na. ", "\nb. ", "(requires steps a and b)", " after a", "[mail.send to=a]", '="', "inputs.", "  ", "Do:\n")
EVENTS: tuple[str, ...] = (
    "run_started 1\n",
    "attempt_succeeded 1\n",
    "step_dispatched 1\n",
    '"run_id":',
    '"at":1.0',
    '"plan@blob":"p"',
)
EVENTS += ('"step":"a"', '"attempt":1', '"output":', '"usage":{"input_tokens":1}', '"inputs":{}', '"tools":{}')
