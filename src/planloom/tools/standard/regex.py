"""`text.regex`: search a text with a pattern nobody has read.

Rule 1: Python's `re` can neither be interrupted nor gives way to other threads, and no look at a pattern tells how long
    it takes. So it runs in a process of its own, without environment, within limits, and is killed when its time is up.
Rule 2: pattern, text and result are capped. A call costs about 30 ms, the start of that process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

from planloom.errors import ArgumentsError, StepError
from planloom.tools.tool import Tool

MAX_PATTERN = 1_000
MAX_TEXT = 1_000_000
MAX_MATCHES = 1_000
MAX_SECONDS = 2.0
MAX_MEMORY_BYTES = 512_000_000
MAX_RESULT = 10_000_000
"""Characters of all matches and groups together."""

_PROGRAM = f"""
import json, sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, ({MAX_MEMORY_BYTES}, {MAX_MEMORY_BYTES}))
    resource.setrlimit(resource.RLIMIT_CPU, (4, 4))
except (ImportError, OSError, ValueError):
    pass
import re
given = json.loads(sys.stdin.buffer.read())
try:
    found, left, size = [], given["limit"], 0
    for match in re.finditer(given["pattern"], given["text"], re.IGNORECASE if given["ignore_case"] else 0):
        if not left:
            break
        left -= 1
        size += len(match[0]) + sum(len(group or "") for group in match.groups())
        if size > {MAX_RESULT}:
            raise MemoryError
        start, end = match.span()
        found.append(dict(match=match[0], groups=match.groups(), named=match.groupdict(), start=start, end=end))
    answer = dict(found=found)
except (re.error, RecursionError, OverflowError) as error:
    answer = dict(error=str(error) or type(error).__name__)
except MemoryError:
    answer = dict(error="it needs too much memory")
sys.stdout.write(json.dumps(answer))
"""


def regex(pattern: str, text: str, ignore_case: bool = False, limit: int = 100) -> list[dict[str, object]]:
    """Find what matches a regular expression: a list of {match, groups, named, start, end}.

    Args:
        pattern: A regular expression as Python's `re` reads it.
        text: The text to search.
        ignore_case: True: upper and lower case are the same.
        limit: At most this many matches.
    """
    if len(pattern) > MAX_PATTERN or len(text) > MAX_TEXT:
        raise ArgumentsError(
            f"a pattern may have {MAX_PATTERN:,} characters and a text {MAX_TEXT:,}", remedy="search a smaller text"
        )
    if not 1 <= limit <= MAX_MATCHES:
        raise ArgumentsError(f"limit={limit} is not between 1 and {MAX_MATCHES:,}", remedy="give a limit between them")
    request = json.dumps({"pattern": pattern, "text": text, "ignore_case": ignore_case, "limit": limit})
    try:
        done = subprocess.run(  # noqa: S603 - our own program; pattern and text go in as JSON
            [sys.executable, "-I", "-S", "-c", _PROGRAM],
            input=request.encode(),
            capture_output=True,
            timeout=MAX_SECONDS,
            env={name: os.environ[name] for name in ("SYSTEMROOT",) if name in os.environ},
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ArgumentsError(
            f"the pattern took longer than {MAX_SECONDS:g} s on this text",
            remedy="avoid repeats inside repeats, such as (a+)+, or search a smaller text",
        ) from error
    if done.returncode != 0:
        raise StepError(f"the search ended with exit status {done.returncode}", remedy="search a smaller text")
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise ArgumentsError(f"the pattern cannot be used: {answer['error']}", remedy="see Python's re module")
    found: list[dict[str, object]] = answer["found"]
    return found


def regex_tool() -> Tool:
    """Return `text.regex`."""
    return Tool.from_function(regex, name="text.regex", effects="none")
