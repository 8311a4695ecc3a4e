from __future__ import annotations

import pytest

from planloom.plan import shown
from planloom.plan.model import Plan


def test_the_package_says_who_draws() -> None:
    assert (Plan()._repr_html_() or "").startswith('<div class="pl-nb">')


def test_without_anybody_who_draws_a_value_is_shown_by_its_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown, "_drawer", "")

    assert Plan()._repr_html_() is None
    assert Plan()._repr_svg_() is None
