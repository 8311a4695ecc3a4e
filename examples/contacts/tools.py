"""Tools of the contacts example: read an address book, compose a message, put mails into an outbox folder.

Rule 1: "sending" writes one `.eml` file per contact; whoever opens the folder sees exactly what would have left.
Rule 2: sending may run again: the file's name comes from the contact and the message, so a mail exists once.
"""

from __future__ import annotations

import csv
import hashlib
import os
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from planloom import tool

HERE = Path(__file__).parent
OUTBOX = Path(os.environ.get("CONTACTS_OUTBOX", HERE / "outbox"))


@tool(name="contacts.all", effects="none")
def all_contacts(book: str = str(HERE / "contacts.csv")) -> list[dict[str, Any]]:
    """Return every contact of the address book: name, email, language."""
    with Path(book).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@tool(name="mail.compose", effects="none")
def compose(text: str, subject: str = "Hello") -> dict[str, str]:
    """Return a message, ready to be addressed."""
    if not text.strip():
        raise ValueError("a message needs a text")
    return {"subject": subject, "text": text}


@tool(name="mail.send", effects="idempotent")
def send(contacts: list[dict[str, Any]], message: dict[str, str]) -> list[str]:
    """Write one mail per contact into the outbox; return the file names."""
    OUTBOX.mkdir(parents=True, exist_ok=True)
    return [_write(OUTBOX, contact, message) for contact in contacts]


def _write(folder: Path, contact: dict[str, Any], message: dict[str, str]) -> str:
    mail = EmailMessage()
    mail["From"] = "planloom example <example@example.org>"
    mail["To"] = contact["email"]
    mail["Subject"] = message["subject"]
    mail.set_content(f"Dear {contact['name']},\n\n{message['text']}\n")
    digest = hashlib.sha256(mail.as_bytes()).hexdigest()[:12]
    path = folder / f"{contact['email']}-{digest}.eml"
    # Written beside and renamed, so that a mail in the outbox is always whole.
    unfinished = path.with_suffix(".part")
    unfinished.write_bytes(mail.as_bytes())
    unfinished.replace(path)
    return path.name
