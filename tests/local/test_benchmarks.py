"""Each suite of local models runs and says something; how fast anything is, is no matter of tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks.__main__ import NEED_TORCH
from tests.benchmarks.test_suites import says_something

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("suite", NEED_TORCH)
def test_a_suite_of_local_models_yields_rows(suite: str, tmp_path: Path) -> None:
    says_something(suite, tmp_path)
