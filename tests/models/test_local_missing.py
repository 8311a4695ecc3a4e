"""Without torch and transformers: models in this process are refused by the name of the extra, and all else works."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from planloom.errors import UnknownModelError
from planloom.models.catalogue import Models

WITHOUT = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "huggingface_hub", "tokenizers", "safetensors"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
"""


def without_torch(program: str) -> str:
    """Return what a program prints where neither torch nor transformers can be imported."""
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT + textwrap.dedent(program)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.slow
def test_without_the_extra_the_error_names_it_and_everything_else_works() -> None:
    said = without_torch("""
        import asyncio
        import planloom
        from planloom.models.llm import LLM
        from planloom.models.schemes import schemes

        assert "transformers" in schemes()
        for scheme in ("transformers", "huggingface"):
            try:
                LLM.from_uri(f"{scheme}:///somewhere")
            except planloom.ConfigError as error:
                print(error)
        print(asyncio.run(LLM.from_uri("scripted://echo").generate("still here")).text)
    """)

    assert said.count("need torch and transformers, not installed here") == 2
    assert said.count("pip install 'planloom[transformers]'") == 2
    assert said.endswith("still here\n")


@pytest.mark.parametrize(
    "address",
    [
        "transformers:///etc/model",
        "transformers://./model",
        "transformers://~/model",
        "transformers://%2Fetc",
        "huggingface://../model",
        "transformers://org/name?draft=/etc/model",
        "transformers://org/name?draft=..%2Fmodel",
        "transformers://org/name?download=true",
    ],
)
def test_a_plan_may_name_no_folder_and_may_not_have_anything_fetched(address: str) -> None:
    models = Models()

    with pytest.raises(UnknownModelError, match="which only who runs it may"):
        models.get(address)
