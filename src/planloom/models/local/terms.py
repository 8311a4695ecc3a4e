"""On what terms a model in this process is asked. Imports neither torch nor transformers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planloom.core.result import Usage
from planloom.errors import ModelTimeoutError

if TYPE_CHECKING:
    from planloom.core.model_uri import ModelUri
    from planloom.models.local.place import ModelPlace, Speculate


@dataclass(frozen=True, slots=True)
class LocalTerms:
    """Who asks how.

    Attributes:
        uri: Of the model.
        speculate: Where the call does not say it.
        is_stopped: Whether nobody waits for the answer any more.
        deadline: By `time.monotonic`; None: there is none.
        timeout_s: What it was set from, for messages.
        hear: Gets each piece of text.
    """

    uri: ModelUri
    place: ModelPlace
    speculate: Speculate
    is_stopped: Callable[[], bool]
    deadline: float | None
    timeout_s: float | None
    hear: Callable[[str], None]

    @property
    def left_s(self) -> float | None:
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def is_over(self) -> bool:
        """Return whether the model is to stop before its next token."""
        return self.is_stopped() or self.left_s == 0.0

    def late(self, usage: Usage) -> ModelTimeoutError:
        """Return the error of an answer that took too long."""
        error = ModelTimeoutError(
            f"{self.uri} did not answer within {self.timeout_s or 0:g} s",
            remedy="give it more time: timeout= in its address; reading its weights and waiting its turn count",
        )
        error.usage = usage
        return error
