"""Draws docs/reference from the code: a page per module here, each with `TITLE` and `body() -> str`.

Rule 1: a page says only what the code says; text that explains belongs in docs/guides.
Rule 2: the same code gives the same bytes: everything is sorted or in the order of the source, no dates, no paths.
"""
