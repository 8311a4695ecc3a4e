"""Models for tests: answers from a list or a function, and a gate that keeps every test off the real ones.

Rule 1: what a test asks here is asked through the same `LLM` as any model.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from planloom.models.guard import refuse_hosts
from planloom.models.scripted import FunctionModel, ScriptedModel, register, unregister

__all__ = ["FunctionModel", "ScriptedModel", "no_real_models", "register", "unregister"]


def no_real_models() -> AbstractContextManager[None]:
    """Return a context in which no hosted model can be reached on another machine; it costs no call that is not made.

    As a fixture for every test of a project, in its ``conftest.py``::

        @pytest.fixture(autouse=True)
        def _no_real_models():
            with no_real_models():
                yield
    """
    return refuse_hosts()
