"""What the tests of models in this process share: they are skipped without torch, and use one core.

Rule 1: nothing is fetched: the hub of models is told that there is no network.
Rule 2: models are made in the tests (`tests/local/tiny.py`).
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

MISSING = next((name for name in ("torch", "transformers") if find_spec(name) is None), None)
if MISSING is None:
    import torch

    torch.set_num_threads(1)


class _NotInstalled(pytest.Module):
    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        pytest.skip(f"not installed: {MISSING}, pip install 'planloom[transformers]'", allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Skip a test file before it is imported: each imports torch at its top."""
    if MISSING is None:
        return None
    skipped: pytest.Module = _NotInstalled.from_parent(parent, path=module_path)
    return skipped


@pytest.fixture(params=["llama", "qwen2", "qwen3", "mistral", "gpt2"])
def model(request: pytest.FixtureRequest) -> Any:
    """Return a random model of each architecture in turn; it is shared, so leave it as it was."""
    from tests.local.tiny import shared

    return shared(request.param)


@pytest.fixture
def llama() -> Any:
    """Return the random Llama (grouped keys and values), shared."""
    from tests.local.tiny import shared

    return shared("llama")
