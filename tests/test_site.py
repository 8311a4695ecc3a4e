"""The documents as pages of a site: what leads where, and that nothing is fetched from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts import site

TARGET = re.compile(r"\]\(([^)#\s]+)")


def test_every_link_of_a_page_leads_to_a_page_or_a_file_of_the_site(tmp_path: Path) -> None:
    pages = site.staged(tmp_path)

    lost = []
    for page in pages:
        text = site.FENCE.sub("", (tmp_path / page).read_text(encoding="utf-8"))
        links = [link for link in TARGET.findall(text) if "://" not in link]
        lost += [f"{page}: {link}" for link in links if not (tmp_path / page.parent / link).is_file()]
    assert Path("index.md") in pages
    assert lost == []


def test_every_page_has_its_place_in_the_order(tmp_path: Path) -> None:
    pages = {str(page) for page in site.staged(tmp_path)}
    listed = set(re.findall(r"'([^']+\.md)'", repr(site.settings("docs", "site")["nav"])))

    assert listed <= pages
    assert {page for page in pages - listed if page.startswith(tuple(site.FOLDERS))} == set()


def test_code_is_named_and_not_linked(tmp_path: Path) -> None:
    site.staged(tmp_path)

    assert '<span title="tests/crash/test_kills.py">kills</span>' in (tmp_path / "index.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.html", '<script src="https://elsewhere.example/x.js"></script>'),
        ("a.html", '<link rel="stylesheet" href="//elsewhere.example/x.css">'),
        ("a.html", '<img src="http://elsewhere.example/x.png">'),
        ("a.css", "@font-face{src:url(https://elsewhere.example/x.woff2)}"),
        ("a.css", "@import url('//elsewhere.example/x.css')"),
    ],
    ids=["script", "sheet", "image", "font", "import"],
)
def test_what_a_page_would_fetch_from_elsewhere_is_found(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")

    assert len(site.reaching(tmp_path)) == 1


def test_a_link_that_a_reader_follows_is_no_fetch(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<a href="https://elsewhere.example/">x</a><img src="x.png">', encoding="utf-8")

    assert site.reaching(tmp_path) == []
