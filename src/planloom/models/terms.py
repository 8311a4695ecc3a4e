"""Under what terms one call of a hosted model is made."""

from __future__ import annotations

from dataclasses import dataclass, field


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
