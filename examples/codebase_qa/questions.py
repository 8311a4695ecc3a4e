"""Questions about planloom's own source, each with the lines that an answer needs, and in which module they stand.

Rule 1: questions and evidence were written down before anything was measured, and none was taken out since.
Rule 2: a question is found once every one of its lines is in the prompt; half of the evidence counts for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Question:
    """A question.

    Attributes:
        evidence: By module, the line that has to be read.
    """

    text: str
    evidence: dict[str, str]


QUESTIONS = (
    Question(
        "How is it made sure that two processes never drive one run at the same time?",
        {"journal/ownership.py": "def claim(", "journal/sqlite.py": "async def take("},
    ),
    Question(
        "How long does the engine wait before a failed step is tried again, and which failures are not tried again at "
        "all?",
        {
            "core/retry.py": "def delay_s(",
            "plan/policy.py": "class RetryPolicy(",
            "executors/classify.py": "def kind_of(",
        },
    ),
    Question(
        "Why can a model step not spend more money than the limits of its run allow?",
        {
            "core/budget.py": "def take(",
            "core/prices.py": "def ceiling_usd(",
            "core/asking.py": "def prompt_ceiling(",
        },
    ),
    Question(
        "How is text that nobody has read kept from looking like an instruction when a judge is asked for its verdict?",
        {
            "verify/fence.py": "def fenced(",
            "verify/asking.py": "async def ask_for_verdict(",
            "verify/judge.py": "async def judge(",
        },
    ),
    Question(
        "Which system calls may a program in the cpython sandbox not make, and how are these rules put in place?",
        {"sandbox/seccomp.py": "def seccomp_program(", "sandbox/bubblewrap.py": "def command_of("},
    ),
    Question(
        "How does a worker in another process prove that it may take attempts?",
        {"transport/handshake.py": "def proof(", "transport/reception.py": "async def open("},
    ),
    Question(
        "How does a plan written in YAML become a checked plan, and how does an error know its line?",
        {
            "plan/load.py": "def parse_plan(",
            "plan/yaml_text.py": "def yaml_positions(",
            "plan/document.py": "def locate(",
        },
    ),
    Question(
        "When a tool's result carries a label, who decides whether it may leave?",
        {
            "plan/flow.py": "def decide(",
            "executors/labels.py": "def refuse_flow(",
            "core/flow.py": "def flowed_in(",
        },
    ),
)
