from __future__ import annotations

import shutil
from importlib.util import find_spec

import pytest

RUNTIMES = ("monty", "cpython")


def needs(runtime: str) -> None:
    if runtime == "monty" and find_spec("pydantic_monty") is None:
        pytest.skip("not installed: pydantic-monty (pip install 'planloom[sandbox]')")
    if runtime == "cpython" and shutil.which("bwrap") is None:
        pytest.skip("not installed: bubblewrap (apt-get install bubblewrap)")


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    needs(request.param)
    return str(request.param)
