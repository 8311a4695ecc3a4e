"""Finding what points to a person: email addresses, phone numbers, payment cards, IBANs, US social security numbers.

Rule 1: it counts and never repeats what it found: feedback goes on record.
Rule 2: numbers with check digits are checked, so that an order number is not taken for a card.
Rule 3: a pattern's repeats are bounded and never nested: the text is untrusted.

It finds what looks the part. It is a net against slips, no proof that a text holds nothing personal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![\w-])")
_PHONE = re.compile(
    r"(?<![\w+])(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{2,5}(?:[ .-]?\d{2,5}){1,4}"  # +49 30 1234567
    r"|\(\d{3}\) ?\d{3}[ .-]\d{4}|\d{3}[.-]\d{3}[.-]\d{4})(?!\w)"  # (555) 123-4567, 555-123-4567
)
_CARD = re.compile(r"(?<![\w-])\d(?:[ -]?\d){12,18}(?![\w-])")
_IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}(?!\w)")
_SSN = re.compile(r"(?<![\w-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])")


def luhn(number: str) -> bool:
    """Return whether the digits of a payment card's number fit its check digit."""
    digits = [int(digit) for digit in reversed(number) if digit.isdigit()]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    return len(set(digits)) > 1 and (sum(digits[::2]) + sum(doubled)) % 10 == 0


def iban(text: str) -> bool:
    """Return whether an IBAN fits its check digits (ISO 13616: 97 divides the rearranged number with rest 1)."""
    packed = text.replace(" ", "")
    if not 15 <= len(packed) <= 34:
        return False
    return int("".join(str(int(sign, 36)) for sign in packed[4:] + packed[:4])) % 97 == 1


def _emails(text: str) -> int:
    return len(_EMAIL.findall(text))


def _phones(text: str) -> int:
    return sum(7 <= sum(sign.isdigit() for sign in match[0]) <= 15 for match in _PHONE.finditer(text))


def _cards(text: str) -> int:
    return sum(luhn(match[0]) for match in _CARD.finditer(text))


def _ibans(text: str) -> int:
    return sum(_begins_iban(match[0]) for match in _IBAN.finditer(text))


def _begins_iban(found: str) -> bool:
    """Return whether it, or it without the words in capitals that follow, is an IBAN."""
    words = found.split(" ")
    return any(iban("".join(words[:count])) for count in range(len(words), 0, -1))


def _ssns(text: str) -> int:
    return len(_SSN.findall(text))


KINDS: Mapping[str, tuple[str, Callable[[str], int]]] = {
    "email": ("email addresses", _emails),
    "phone": ("phone numbers", _phones),
    "card": ("payment card numbers", _cards),
    "iban": ("IBANs", _ibans),
    "ssn": ("US social security numbers", _ssns),
}
"""What can be looked for: its name in the plural, and what counts it."""


def found_in(text: str, kinds: Iterable[str]) -> dict[str, int]:
    """Return how many of each kind the text holds, by the kind's plural name; nothing for those it does not hold."""
    counts = {KINDS[kind][0]: KINDS[kind][1](text) for kind in kinds}
    return {name: count for name, count in counts.items() if count}
