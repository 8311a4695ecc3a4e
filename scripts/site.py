"""The documents as a site: `make site`, `python -m scripts.site FOLDER` for another place than `site/`.

Rule 1: the documents stay what they are, files that lead to each other: a copy of them is made into pages, and nothing
is written for the site alone but the lists of what a folder holds.
Rule 2: a link out of the documents, to code or a test, becomes its words: the site holds no code, and names no host.
Rule 3: what is built reaches for nothing elsewhere; that is looked at, page by page, when it is built.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
HOME = ROOT / "README.md"
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[(?P<words>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^)#\s]*)(?P<part>#[^)\s]*)?\)")
TITLE = re.compile(r"^# (.+)$", re.MULTILINE)
FOLDERS = {"tutorials": "Tutorials", "guides": "Guides", "reference": "Reference", "decisions": "Decisions"}
FIRST = ("first_plan", "writing_a_tool", "budgets", "resume_after_a_crash", "approvals", "testing_with_cassettes")
"""Tutorials in the order to read them in; others come after."""


def staged(folder: Path) -> list[Path]:
    """Copy the documents into a folder as pages of the site; return their places there, sorted.

    Raises:
        FileNotFoundError: A link leads nowhere.
    """
    places: dict[Path, Path] = {HOME: Path("index.md")}
    for file in sorted(DOCS.rglob("*")):
        if file.is_file():
            places[file] = file.relative_to(DOCS)
    waiting = [file for file in places if file.suffix == ".md"]
    while waiting:
        page = waiting.pop()
        text, found = _paged(page, places)
        waiting += found
        _write(folder / places[page], text)
    for file, place in places.items():
        if file.suffix != ".md":
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / place)
    for name, title in FOLDERS.items():
        _write(folder / name / "index.md", _listed(title, _pages_of(name)))
    return sorted(path.relative_to(folder) for path in folder.rglob("*.md"))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _paged(page: Path, places: dict[Path, Path]) -> tuple[str, list[Path]]:
    """Return a page with its links as the site has them, and the pages outside `docs` that it is the first to name."""
    found: list[Path] = []

    def moved(match: re.Match[str]) -> str:
        words, target, part = match["words"], match["target"], match["part"] or ""
        if not target or "://" in target:
            return match[0]
        file = (page.parent / target).resolve()
        if not file.exists():
            raise FileNotFoundError(f"{page.relative_to(ROOT)}: no {target}")
        if file.suffix == ".md" and file not in places:
            places[file] = file.relative_to(ROOT)
            found.append(file)
        place = file.relative_to(DOCS) / "index.md" if file.is_dir() and file.is_relative_to(DOCS) else places.get(file)
        if place is None:
            return f'<span title="{escape(str(file.relative_to(ROOT)))}">{words}</span>'
        return f"[{words}]({os.path.relpath(place, places[page].parent)}{part})"

    text = page.read_text(encoding="utf-8")
    pieces, last = [], 0
    for fence in FENCE.finditer(text):
        pieces += [LINK.sub(moved, text[last : fence.start()]), fence[0]]
        last = fence.end()
    return "".join((*pieces, LINK.sub(moved, text[last:]))), found


def _pages_of(folder: str) -> list[Path]:
    pages = sorted((DOCS / folder).glob("*.md"))
    if folder != "tutorials":
        return pages
    return sorted(pages, key=lambda page: (FIRST.index(page.stem) if page.stem in FIRST else len(FIRST), page.stem))


def _title(page: Path) -> str:
    found = TITLE.search(page.read_text(encoding="utf-8"))
    return found[1] if found else page.stem


def _listed(title: str, pages: list[Path]) -> str:
    return f"# {title}\n\n" + "".join(f"- [{_title(page)}]({page.name})\n" for page in pages)


def settings(docs: str, site: str) -> dict[str, object]:
    """Return what the generator is told: where things are, how they look, and in what order."""
    parts = {
        title: [f"{name}/index.md", *(f"{name}/{page.name}" for page in _pages_of(name))]
        for name, title in FOLDERS.items()
    }
    single = [page.name for page in sorted(DOCS.glob("*.md"))]
    return {
        "site_name": "planloom",
        "docs_dir": docs,
        "site_dir": site,
        "use_directory_urls": False,  # a page is a file: it can be read without a server
        "theme": {
            "name": "material",
            "font": False,
            "features": ["navigation.indexes", "navigation.sections", "content.code.copy", "toc.follow"],
            "palette": [
                {"media": f"(prefers-color-scheme: {name})", "scheme": scheme, "toggle": {"icon": icon, "name": name}}
                for name, scheme, icon in (
                    ("light", "default", "material/brightness-7"),
                    ("dark", "slate", "material/brightness-4"),
                )
            ],
        },
        "markdown_extensions": ["tables", "attr_list", "admonition", "pymdownx.highlight", "pymdownx.superfences"],
        "plugins": ["search"],
        "validation": {"links": {"not_found": "warn", "anchors": "warn", "unrecognized_links": "warn"}},
        "nav": [
            {"Home": "index.md"},
            *({title: pages} for title, pages in parts.items()),
            {"More": [*single, "examples/README.md", "CHANGELOG.md"]},
        ],
    }


class _Reaching(HTMLParser):
    """Finds what a page would fetch from elsewhere by itself: links that a reader follows do not count."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            fetched = name in ("src", "srcset", "poster", "data") or (name == "href" and tag == "link")
            if fetched and value and urlsplit(value).netloc:
                self.found.append(f"<{tag} {name}={value}>")


def reaching(site: Path) -> list[str]:
    """Return what the pages and style sheets of a site would fetch from elsewhere."""
    found = []
    for page in sorted(site.rglob("*.html")):
        reader = _Reaching()
        reader.feed(page.read_text(encoding="utf-8"))
        found += [f"{page.relative_to(site)}: {what}" for what in reader.found]
    for sheet in sorted(site.rglob("*.css")):
        elsewhere = re.findall(r"url\(\s*['\"]?(?:https?:)?//[^)]*\)", sheet.read_text(encoding="utf-8"))
        found += [f"{sheet.relative_to(site)}: {what}" for what in elsewhere]
    return found


def build(site: Path) -> int:
    """Build the site; return how many pages it has.

    Raises:
        SystemExit: A link leads nowhere, or a page would fetch something from elsewhere.
    """
    with tempfile.TemporaryDirectory() as made:
        pages = staged(Path(made) / "docs")
        told = Path(made) / "mkdocs.yml"
        told.write_text(json.dumps(settings("docs", "site"), indent=1), encoding="utf-8")
        done = subprocess.run([*GENERATOR, str(told)], cwd=made, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"not built\n{done.stdout}{done.stderr}")
        shutil.rmtree(site, ignore_errors=True)
        shutil.move(Path(made) / "site", site)
    found = reaching(site)
    if found:
        raise SystemExit("not built: pages would fetch from elsewhere\n" + "\n".join(found[:20]))
    return len(pages)


GENERATOR = (sys.executable, "-m", "zensical", "build", "--strict", "--clean", "--config-file")

if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "site"
    sys.stdout.write(f"{build(target)} pages in {target}\n")
