"""What answers in place of OpenAI: it reads the receipts as a model would, and bills what was said by its length.

Rule 1: it looks at nothing but the request: what it answers was in there to be read.
Rule 2: tokens are the bytes of what was really sent and answered, by four; a tokenizer comes to about the same.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from receipts import NOT_PAID, SHOPS

from planloom import Usage
from planloom.testing.provider import RecordedRequest, Reply

PLAN = (Path(__file__).resolve().parent / "plan.json").read_text(encoding="utf-8")
BYTES_PER_TOKEN = 4
_LINE = re.compile(r"^(?P<item>\S.*?) +(?P<whole>\d+)\.(?P<cents>\d\d)$", re.MULTILINE)


def answer(request: RecordedRequest) -> Reply:
    """Return what a model answers to this."""
    text = _said(request)
    asked = "".join(message.content for message in request.messages)
    if request.output_schema is not None:
        asked += json.dumps(request.output_schema)
    return Reply(text=text, usage=Usage(tokens(asked), tokens(text), 1))


def tokens(text: str) -> int:
    return -(-len(text.encode()) // BYTES_PER_TOKEN)


def _said(request: RecordedRequest) -> str:
    prompt = request.prompt
    if prompt.startswith("Read this receipt"):
        return json.dumps(_read(prompt.partition("\n\n")[2]))
    if prompt.startswith("What was this purchase for"):
        return json.dumps({"category": _category(re.search(r"^Merchant: (.*)$", prompt, re.MULTILINE))})
    if prompt.startswith("The company pays"):
        lines = json.loads(prompt.partition("Items: ")[2])
        return json.dumps({"not_paid": [line["item"] for line in lines if line["item"] in NOT_PAID]})
    return PLAN


def _read(paper: str) -> dict[str, Any]:
    head, _, rest = paper.partition("-" * 40 + "\n")
    body, _, foot = rest.partition("-" * 40 + "\n")
    found = re.search(r"Receipt (\S+) +Date (\S+)", head)
    total = _LINE.search(foot)
    assert found is not None and total is not None, paper
    return {
        "number": found[1],
        "merchant": head.splitlines()[0].strip().title(),
        "date": found[2],
        "lines": [{"item": line["item"], "cents": _cents(line)} for line in _LINE.finditer(body)],
        "total_cents": _cents(total),
    }


def _cents(line: re.Match[str]) -> int:
    return int(line["whole"]) * 100 + int(line["cents"])


def _category(merchant: re.Match[str] | None) -> str:
    assert merchant is not None
    return next(category for category, (names, _) in SHOPS.items() if merchant[1].lower() in map(str.lower, names))
