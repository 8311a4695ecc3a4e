"""What needs no model: whether a receipt adds up, and keeping it."""

from __future__ import annotations

from typing import Any

from planloom import tool

BOOKED: dict[str, dict[str, Any]] = {}
"""What was kept, by the receipt's number: to keep it twice changes nothing."""


@tool(name="receipts.validate", effects="none")
def validate(lines: list[dict[str, Any]], total_cents: int) -> bool:
    """Return whether the lines of a receipt add up to its total.

    Args:
        lines: Each with `item` and `cents`.
        total_cents: What stands below them.
    """
    summed: int = sum(line["cents"] for line in lines)
    return summed == total_cents


@tool(name="receipts.save", effects="idempotent")
def save(receipt: dict[str, Any], category: str, not_paid: list[str], adds_up: bool) -> dict[str, Any]:
    """Keep a receipt in the books; return the entry.

    Args:
        receipt: With `number`, `merchant`, `date`, `lines` and `total_cents`.
        category: What it was for.
        not_paid: Items that the company does not pay for.
        adds_up: Whether its lines come to its total.
    """
    refused = sum(line["cents"] for line in receipt["lines"] if line["item"] in not_paid)
    entry = {
        "number": receipt["number"],
        "merchant": receipt["merchant"],
        "category": category,
        "paid_cents": receipt["total_cents"] - refused if adds_up else None,
        "for_a_person": not adds_up,
    }
    BOOKED[receipt["number"]] = entry
    return entry
