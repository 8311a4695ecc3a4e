"""Whether a mask pays, as work."""

from __future__ import annotations

import pytest

from planloom.context.saving import ModelShape, attention_share, predicted_saving, reason_against
from planloom.plan.gasa import GasaPolicy

EIGHT_BILLION = ModelShape(layers=32, heads=32, head_dim=128, parameters=6_980_000_000)
"""An 8B model: 8.03e9 weights, of which 1.05e9 are embeddings."""


@pytest.mark.parametrize(
    ("tokens", "share", "ceiling"),
    [(8192, 0.13, 1.14), (16384, 0.24, 1.27), (32768, 0.38, 1.52), (65536, 0.55, 1.98), (131072, 0.71, 2.8)],
)
def test_the_share_of_attention_grows_with_the_prompt(tokens: int, share: float, ceiling: float) -> None:
    assert attention_share(tokens, EIGHT_BILLION) == pytest.approx(share, abs=0.006)
    assert 1 / (1 - predicted_saving(tokens, EIGHT_BILLION, 0.1)) == pytest.approx(ceiling, rel=0.01)


def test_nothing_is_saved_where_everything_is_computed() -> None:
    assert predicted_saving(131072, EIGHT_BILLION, 1.0) == 0.0
    assert attention_share(0, EIGHT_BILLION) == 0.0


@pytest.mark.parametrize(
    ("tokens", "fraction", "reason"),
    [
        (32768, 0.1, None),
        (2047, 0.0, "2047 tokens are fewer than min_tokens 2048"),
        (32768, 0.95, "a mask would save 1.9% of the work, less than min_saving 5.0%"),
        (2048, 0.0, "a mask would save 3.7% of the work, less than min_saving 5.0%"),
    ],
)
def test_auto_masks_only_where_it_pays(tokens: int, fraction: float, reason: str | None) -> None:
    assert reason_against(tokens, EIGHT_BILLION, fraction, GasaPolicy()) == reason


def test_whoever_asks_for_no_least_saving_is_masked_always() -> None:
    assert reason_against(1, EIGHT_BILLION, 1.0, GasaPolicy(min_tokens=0, min_saving=0)) is None
