"""Under what terms one call of a hosted model is made."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

KEY_VARIABLES = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GOOGLE_API_KEY", "GEMINI_API_KEY")
"""Where providers' keys are looked for unless an address says otherwise; see `hosted.HOSTS`."""
LEAST_KEY = 16
"""Characters of a provider's key: what is shorter only stands in for one, as in "not-needed"."""
MAX_READ = 4_000
"""Characters of a provider's own words that are looked at."""
MAX_TOLD = 300
"""Characters of a provider's own words that go into a message."""
_KEYS = re.compile(r"\b(sk|rk|pk)-[A-Za-z0-9_*.-]{6,}|\bAIza[A-Za-z0-9_-]{10,}|Bearer\s+\S+", re.I)


@dataclass(frozen=True, slots=True)
class Terms:
    """How a model is asked, and what a message about it may say.

    Attributes:
        uri: Its address as text.
        provider: As in `LLMResponse.provider`.
        family: Whose options it takes, see `translate.OPTIONS`.
        key: Never shown.
        key_env: The variable the key came from.
    """

    uri: str
    provider: str
    family: str
    key: str = field(repr=False)
    key_env: str
    timeout_s: float

    def shown(self, words: str) -> str:
        """Return what a provider said as a message may show it: one line, not long, and no key in it."""
        words = words[:MAX_READ]
        if self.key:
            words = words.replace(self.key, "***")
        printable = "".join(one if one.isprintable() else " " for one in _KEYS.sub("***", words))
        line = " ".join(printable.split())
        return line if len(line) <= MAX_TOLD else f"{line[: MAX_TOLD - 1]}…"
