"""Tools that read receipts: plain functions, no model, nothing but the standard library.

Rule 1: money is a whole number of the currency's smallest unit (`_minor`), never a float.
Rule 2: a tool that cannot do its work raises; it never returns an error as its value.
Rule 3: `save` may run again: it writes the same row under the same key.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
import unicodedata
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import date
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from planloom import tool

CURRENCY = r"(?:R\$|Rs\.|CHF|EUR|USD|GBP|CAD|[$€£¥])"
NUMBER = r"(?:\d{1,3}(?:[.,']\d{3})+[.,]\d{2}|\d{1,3}(?: \d{3})+,\d{2}|\d+[.,]\d{2,3}|(?<=¥)\d{1,3}(?:,\d{3})*)"
AMOUNT_AT_END = re.compile(
    rf"(?P<sign>-)?{CURRENCY}?\s*(?P<sign2>-)?(?<![\d.,'/])(?P<number>{NUMBER})(?P<sign3>-)?"
    rf"\)?\s?{CURRENCY}?(?:\s[A-Z])?\s*$"
)
QUANTITY_BESIDE_PRICE = re.compile(
    rf"(?<![\w.,])(?P<quantity>\d+(?:[.,]\d+)?)\s*(?:[^\W\d]{{1,4}})?\s*[x@×]\s*{CURRENCY}?\s*(?P<price>{NUMBER})(?:\s*(?:EUR)?/\w+)?"
)
QUANTITY_BEFORE_NAME = re.compile(
    rf"^(?P<quantity>\d+)\s+(?:x\s+)?(?P<name>.+?)\s*(?:@|à|(?={CURRENCY}))\s*{CURRENCY}?\s*(?P<price>{NUMBER})$"
)
MISREAD_AMOUNT = re.compile(r"(?<![\w.])[\dOolISB]+[.,][\dOolISB]{2}(?!\w)")
MISREAD_DATE = re.compile(r"(?<!\w)[\dOolI]{1,2}/[\dOolI]{1,2}/[\dOolI]{2,4}(?!\w)")
TO_DIGITS = str.maketrans("OolISB", "001158")
TO_LETTERS = str.maketrans("015", "ols")

# Words of a line's label, folded (see `_folded`). The first list that matches decides.
INCLUDED = ("incl", "inkl", "includ", "dont", "davon", "di cui", "varav", "enth", "ptu", "opodatkowana", "内")
PAYMENT = ("visa", "card", "cash", "change", "debit", "you saved", "refunded", "contactless", "tender", "現金", "お釣")
SUBTOTAL = ("subtotal", "sub total", "sub-total", "小計")
TOTAL = ("total", "amount due", "summe", "gesamt", "att betala", "suma", "合計")
TAX = ("tax", "hst", "cgst", "sgst", "vat")
NOT_TAX = ("taxa de", "tassa")
CHARGES = ("service charge", "taxa de servico", "tip")

CODES = ("CHF", "PLN", "SEK", "CAD", "GBP", "EUR", "USD")
SYMBOLS = {"R$": "BRL", "Rs.": "INR", "€": "EUR", "£": "GBP", "¥": "JPY", "$": "USD"}
US_STATES = frozenset(
    re.findall(
        "..",
        "ALAKAZARCACOCTDEFLGAHIIDILINIAKSKYLAMEMDMAMIMNMSMOMTNENVNHNJNMNYNCNDOHOKORPARISCSDTNTXUTVTVAWAWVWIWY",
    )
)
MONTHS = {"jan": 1, "feb": 2, "mar": 3, "apr": 4, "may": 5, "jun": 6}
MONTHS |= {"jul": 7, "aug": 8, "sep": 9, "oct": 10, "nov": 11, "dec": 12}

CATEGORIES = {
    "groceries": ("market", "markt", "マート", "sklep", "boulangerie", "milk", "brot", "baguette", "chleb", "butter"),
    "restaurant": ("diner", "kitchen", "heron", "trattoria", "churrascaria", "pho ", "pie", "coffee refill"),
    "fuel": ("fuel", "gal ", "unleaded"),
    "health": ("farmacia", "pharmacy", "ibuprofeno", "vitamin"),
    "clothing": ("thread", "jumper", "belt"),
    "travel": ("cab ", "hotel", "parkhaus", "fare", "tolls"),
    "home": ("hardware", "mobel", "soffa", "screws"),
    "office": ("office", "stationer", "stapler", "notebook"),
    "books": ("books", "atlas"),
    "electronics": ("electronics", "headphones", "usb"),
    "personal": ("uhren", "armbanduhr"),
}

TABLE = """
CREATE TABLE IF NOT EXISTS receipts (
    key TEXT PRIMARY KEY, merchant TEXT NOT NULL, date TEXT, currency TEXT,
    total_minor INTEGER NOT NULL, category TEXT NOT NULL
)"""


@dataclass(frozen=True, slots=True)
class Line:
    """One thing bought, or taken off.

    Attributes:
        quantity, unit_price: As printed, decimal point; None where the receipt does not say.
    """

    name: str
    amount_minor: int
    quantity: str | None = None
    unit_price: str | None = None


@tool(name="receipts.extract", effects="none")
def extract(text: str) -> dict[str, Any]:
    """Read a receipt: who, when, in what money, each line, tax, charges and the total.

    Raises:
        ValueError: The text is empty, or no line of it ends in an amount.
    """
    if not text.strip():
        raise ValueError("the receipt is empty")
    rows = [_repaired(row) for row in text.splitlines()]
    currency = _currency(rows)
    found: dict[str, Any] = {
        "lines": [],
        "tax_minor": 0,
        "charges_minor": 0,
        "total_minor": None,
    }
    waiting = ""
    for row in rows:
        amount = AMOUNT_AT_END.search(row)
        if amount is None:
            if not row.startswith((" ", "\t")):
                waiting = row.strip()
            continue
        label = row[: amount.start()].strip()
        _sort_in(found, label, waiting, _signed_minor(amount, currency))
        waiting = ""
        if found["total_minor"] is not None:
            break
    if not found["lines"] and found["total_minor"] is None:
        raise ValueError("not a receipt: no line ends in an amount")
    return {
        "merchant": next(row.strip() for row in rows if row.strip()),
        "date": _date("\n".join(rows), month_first=currency == "USD"),
        "currency": currency,
        "text_sha256": hashlib.sha256(text.encode()).hexdigest(),
        **found,
        "lines": [asdict(line) for line in found["lines"]],
    }


def _sort_in(found: dict[str, Any], label: str, waiting: str, amount_minor: int) -> None:
    """Put one amount where its label says it belongs; what no list knows is a thing bought."""
    words = _folded(label)
    if _has(words, INCLUDED + SUBTOTAL) or words.startswith(PAYMENT):
        return
    if _has(words, TOTAL):
        found["total_minor"] = amount_minor
    elif _has(words, CHARGES):
        found["charges_minor"] += amount_minor
    elif _has(words, TAX) and not _has(words, NOT_TAX):
        found["tax_minor"] += amount_minor
    else:
        found["lines"].append(_line(label, waiting, amount_minor))


def _line(label: str, waiting: str, amount_minor: int) -> Line:
    """Return what was bought; a label that is only "2 @ 3.49", or empty, has its name on the row before."""
    before = QUANTITY_BEFORE_NAME.match(label)
    match = before or QUANTITY_BESIDE_PRICE.search(label)
    if match is None:
        return Line(label or waiting, amount_minor)
    name = before["name"] if before else (label[: match.start()] + label[match.end() :]).strip()
    return Line(
        name.strip() or waiting,
        amount_minor,
        quantity=str(_decimal(match["quantity"])),
        unit_price=str(_decimal(match["price"])),
    )


@tool(name="receipts.categorize", effects="none")
def categorize(merchant: str, lines: list[dict[str, Any]]) -> str:
    """Name the kind of purchase by the words of the shop (which count more) and of what was bought."""
    shop = _folded(merchant) + " "
    bought = _folded(" ".join(line["name"] for line in lines)) + " "
    scores = {
        category: sum(4 * (word in shop) + (word in bought) for word in words) for category, words in CATEGORIES.items()
    }
    best = max(scores, key=lambda category: scores[category])
    return best if scores[best] else "other"


@tool(name="receipts.check_line", effects="none")
def check_line(line: dict[str, Any], currency: str | None) -> dict[str, Any]:
    """Say whether quantity times unit price is the line's amount, to the smallest unit."""
    if line["quantity"] is None:
        return {"ok": True, "why": "no quantity printed"}
    product = Decimal(line["quantity"]) * Decimal(line["unit_price"]) * (1 if currency == "JPY" else 100)
    expected_minor = int(product.to_integral_value(ROUND_HALF_UP))
    if abs(expected_minor - line["amount_minor"]) <= 1:
        return {"ok": True, "why": "quantity times price"}
    shown = f"{line['quantity']} x {line['unit_price']}"
    return {"ok": False, "why": f"{line['name']}: {shown} is {expected_minor}, printed {line['amount_minor']}"}


@tool(name="receipts.validate", effects="none")
def validate(receipt: dict[str, Any], line_checks: list[dict[str, Any]]) -> dict[str, Any]:
    """Say whether the receipt adds up, with its tax on top or included."""
    wrong = [check["why"] for check in line_checks if not check["ok"]]
    if wrong:
        return {"ok": False, "why": "; ".join(wrong)}
    lines_minor = sum(line["amount_minor"] for line in receipt["lines"])
    total_minor = receipt["total_minor"]
    if total_minor is None:
        return {"ok": False, "why": f"no total on it; its lines come to {lines_minor}"}
    with_charges = lines_minor + receipt["charges_minor"]
    if with_charges == total_minor:
        return {"ok": True, "why": "lines make the total"}
    if with_charges + receipt["tax_minor"] == total_minor:
        return {"ok": True, "why": "lines and tax make the total"}
    return {"ok": False, "why": f"lines come to {with_charges + receipt['tax_minor']}, the total says {total_minor}"}


@tool(name="receipts.save", effects="idempotent")
def save(receipt: dict[str, Any], category: str, database: str) -> str:
    """Write the receipt into table `receipts`, once per receipt text; return its key.

    The key is the hash of the text rather than of the run: the same receipt handed in twice is one purchase.
    """
    key: str = receipt["text_sha256"]
    row = (key, receipt["merchant"], receipt["date"], receipt["currency"], receipt["total_minor"], category)
    with closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        connection.execute(TABLE)
        connection.execute("INSERT OR REPLACE INTO receipts VALUES (?, ?, ?, ?, ?, ?)", row)
    return key


def _repaired(row: str) -> str:
    """Return the row with letters that a scanner put in the place of digits, and the reverse, set right."""

    def digits(match: re.Match[str]) -> str:
        return match[0].translate(TO_DIGITS) if any(sign.isdigit() for sign in match[0]) else match[0]

    row = MISREAD_DATE.sub(digits, MISREAD_AMOUNT.sub(digits, row.rstrip()))
    return re.sub(r"(?<=[A-Z])0(?=['A-Z])", "O", row)


def _folded(text: str) -> str:
    """Return lower-case text without accents; digits inside words become the letters they resemble."""
    plain = "".join(sign for sign in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(sign))
    return re.sub(r"\S*[a-z]\S*", lambda word: word[0].translate(TO_LETTERS), plain)


def _has(words: str, known: tuple[str, ...]) -> bool:
    # A known word must begin a word: "vat" is not in "private"; Japanese writes without spaces.
    return any(re.search(rf"(?<![a-z]){re.escape(word)}", words) for word in known)


def _decimal(number: str) -> Decimal:
    whole = number.replace("'", "").replace(" ", "")
    separator = max(whole.rfind("."), whole.rfind(","))
    if separator < 0:
        return Decimal(whole)
    return Decimal(re.sub(r"[.,]", "", whole[:separator]) + "." + whole[separator + 1 :])


def _signed_minor(amount: re.Match[str], currency: str | None) -> int:
    number = amount["number"]
    minor = int(number.replace(",", "")) if currency == "JPY" else int(_decimal(number) * 100)
    return -minor if amount["sign"] or amount["sign2"] or amount["sign3"] else minor


def _currency(rows: list[str]) -> str | None:
    text = "\n".join(rows)
    named = next((code for code in CODES if re.search(rf"\b{code}\b", text)), None)
    marked = next((code for symbol, code in SYMBOLS.items() if symbol in text), None)
    if named or marked:
        return named or marked
    states = re.findall(r"[, ]([A-Z]{2})(?: \d{5})?$", text, re.MULTILINE)
    return "USD" if any(state in US_STATES for state in states) else None


def _date(text: str, *, month_first: bool) -> str | None:
    """Return the first date as ISO 8601; "03/04/2025" is read month first only where dollars are paid."""
    if match := re.search(r"(\d{4})[-年](\d{1,2})[-月](\d{1,2})", text):
        year, month, day = (int(part) for part in match.groups())
    elif match := re.search(r"\b(\d{1,2})[./-](\d{1,2})[./-](\d{4}|\d{2})\b", text):
        first, second, year = (int(part) for part in match.groups())
        month, day = (first, second) if month_first else (second, first)
    elif match := re.search(r"\b(\d{1,2})[ -]([A-Z][a-z]{2,8})[ -](\d{4})\b", text):
        day, month, year = int(match[1]), MONTHS.get(match[2][:3].lower(), 0), int(match[3])
    elif match := re.search(r"\b([A-Z][a-z]{2,8}) (\d{1,2}), (\d{4})\b", text):
        day, month, year = int(match[2]), MONTHS.get(match[1][:3].lower(), 0), int(match[3])
    else:
        return None
    try:
        return date(year + 2000 if year < 100 else year, month, day).isoformat()
    except ValueError:
        return None
