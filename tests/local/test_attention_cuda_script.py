"""The script for machines with a GPU, where there is none."""

from __future__ import annotations

import pytest
import torch

from scripts import gasa_cuda

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here: run the script itself")


@without_gpu
def test_without_a_gpu_it_says_so_and_ends_well(capsys: pytest.CaptureFixture[str]) -> None:
    ended = gasa_cuda.main([])

    assert ended == 0
    assert "no GPU that torch can see: nothing was measured" in capsys.readouterr().out


@without_gpu
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_checked_on_a_cpu_every_part_says_something_and_nothing_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    before = gasa_cuda.PAGE.read_text(encoding="utf-8")

    ended = gasa_cuda.main(["--check"])

    table = capsys.readouterr().out
    assert ended == 0
    assert "failed" not in table
    assert all(f"| {goal} |" in table for goal in ("E1", "E2", "E3", "E4", "S5", "S6"))
    assert gasa_cuda.PAGE.read_text(encoding="utf-8") == before
