"""A hundred receipts, the same every time, and what a person would read on each of them."""

from __future__ import annotations

import random
from dataclasses import dataclass

SHOPS = {
    "groceries": (
        ("Corner Market", "Green Basket", "Daily Foods"),
        (
            "Whole milk 1 l",
            "Rye bread",
            "Tomatoes 500 g",
            "Pasta",
            "Olive oil",
            "Apples 1 kg",
            "Coffee beans",
            "Yogurt",
        ),
    ),
    "fuel": (
        ("Ring Road Fuel", "Harbour Petrol"),
        ("Diesel 42.10 l", "Unleaded 31.55 l", "Screen wash", "Motor oil 1 l"),
    ),
    "restaurant": (
        ("Trattoria Lina", "The Old Mill", "Noodle Bar 8"),
        ("Soup of the day", "Lasagne", "House salad", "Mineral water", "Espresso", "Noodles with tofu", "Apple pie"),
    ),
    "office": (("Paper & Pens", "Desk Depot"), ("Copy paper A4", "Ballpoint pens x10", "Toner black", "Ring binder")),
    "travel": (
        ("City Transit", "Night Rail"),
        ("Single ticket zone 1-3", "Seat reservation", "Day pass", "Bicycle ticket"),
    ),
}
NOT_PAID = ("House red wine 0.2 l", "Lager 0.5 l", "Cigarettes")
WRONG_SUM = frozenset({13, 37, 58, 91})
"""Receipts whose total is misprinted."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """One receipt.

    Attributes:
        text: What stands on the paper.
    """

    number: str
    merchant: str
    category: str
    date: str
    lines: tuple[tuple[str, int], ...]
    total_cents: int
    text: str


def receipts(count: int = 100) -> list[Receipt]:
    """Return so many receipts."""
    dice = random.Random(2026)  # noqa: S311 - nothing secret: the same receipts every time
    return [_receipt(place, dice) for place in range(count)]


def _receipt(place: int, dice: random.Random) -> Receipt:
    category = dice.choice(sorted(SHOPS))
    merchants, items = SHOPS[category]
    chosen = dice.sample(items, dice.randint(2, min(6, len(items))))
    if category in ("restaurant", "groceries") and dice.random() < 0.3:
        chosen.append(dice.choice(NOT_PAID))
    lines = tuple((item, dice.randint(90, 6900)) for item in chosen)
    total_cents = sum(cents for _, cents in lines) + (100 if place in WRONG_SUM else 0)
    number, merchant = f"R-{place:04}", dice.choice(merchants)
    date = f"2026-{dice.randint(1, 11):02}-{dice.randint(1, 28):02}"
    text = "\n".join(
        [
            merchant.upper().center(40).rstrip(),
            f"{dice.randint(1, 99)} High Street, Tel. 555-{dice.randint(1000, 9999)}".center(40).rstrip(),
            "",
            f"Receipt {number}    Date {date} {dice.randint(8, 21):02}:{dice.randint(0, 59):02}",
            "-" * 40,
            *(f"{item:<30}{cents / 100:>10.2f}" for item, cents in lines),
            "-" * 40,
            f"{'TOTAL':<30}{total_cents / 100:>10.2f}",
            f"{'incl. VAT':<30}{total_cents / 600:>10.2f}",
            "Paid by card ****" + str(dice.randint(1000, 9999)),
            "Thank you for your visit. Please keep this receipt.",
        ]
    )
    return Receipt(number, merchant, category, date, lines, total_cents, text)
