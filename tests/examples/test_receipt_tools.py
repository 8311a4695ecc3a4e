"""The receipt tools, called as the plain functions they are: every receipt against what a person read."""

from __future__ import annotations

import importlib.util
import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from types import ModuleType

RECEIPTS = Path(__file__).resolve().parent.parent.parent / "examples" / "receipts"
EXPECTED: dict[str, dict[str, Any]] = json.loads((RECEIPTS / "expected.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tools() -> ModuleType:
    spec = importlib.util.spec_from_file_location("receipt_tools", RECEIPTS / "tools.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def text(name: str) -> str:
    return (RECEIPTS / "receipts" / f"{name}.txt").read_text(encoding="utf-8")


def test_every_receipt_has_an_expectation() -> None:
    assert sorted(EXPECTED) == sorted(path.stem for path in (RECEIPTS / "receipts").glob("*.txt"))
    assert len(EXPECTED) >= 20


@pytest.mark.parametrize("name", [name for name, entry in EXPECTED.items() if "merchant" in entry])
def test_a_receipt_is_read_as_a_person_reads_it(tools: ModuleType, name: str) -> None:
    read = tools.extract(text(name))

    verdict = tools.validate(read, [tools.check_line(line, read["currency"]) for line in read["lines"]])

    entry = EXPECTED[name]
    assert {key: read[key] for key in ("merchant", "date", "currency", "total_minor")} == {
        key: entry[key] for key in ("merchant", "date", "currency", "total_minor")
    }
    assert len(read["lines"]) == entry["lines"]
    assert tools.categorize(read["merchant"], read["lines"]) == entry["category"]
    assert verdict["ok"] == entry["ok"]
    assert entry["ok"] or verdict["why"] == entry["why"]


@pytest.mark.parametrize("name", ["16_empty", "17_not_a_receipt"])
def test_what_is_no_receipt_is_an_error_and_not_an_empty_receipt(tools: ModuleType, name: str) -> None:
    with pytest.raises(ValueError, match=EXPECTED[name]["why"]):
        tools.extract(text(name))


def test_a_quantity_on_its_own_row_belongs_to_the_name_above_it(tools: ModuleType) -> None:
    pump, coffee = tools.extract(text("06_us_fuel"))["lines"]

    assert (pump["name"], pump["quantity"], pump["unit_price"]) == ("PUMP 07   UNLEADED 87", "11.482", "3.199")
    assert (coffee["name"], coffee["quantity"]) == ("COFFEE LARGE", None)


def test_a_minus_behind_the_amount_takes_it_off(tools: ModuleType) -> None:
    lines = tools.extract(text("25_pharmacy_coupons"))["lines"]

    assert [line["amount_minor"] for line in lines] == [799, -150, 1249, -300, 499]


def test_saving_twice_keeps_one_row(tools: ModuleType, tmp_path: Path) -> None:
    read = tools.extract(text("01_us_grocery"))
    database = str(tmp_path / "receipts.db")

    keys = {tools.save(read, "groceries", database) for _ in range(2)}

    assert keys == {read["text_sha256"]}
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT count(*) FROM receipts").fetchone() == (1,)
