"""The page: files that a browser is given as they are. No build step, and nothing from elsewhere.

Rule 1: every answer of these routes carries `HEADERS`: the browser runs and loads only what this server sends.
Rule 2: the files hold nothing of any run; what they show they ask /v1 for, with whatever token the person has.
Rule 3: only files of `FILES` are served; no path is made of what is asked for.
"""

from __future__ import annotations

from hashlib import sha256
from importlib.resources import files

from fastapi import APIRouter, HTTPException, Request, Response

from planloom.observe.svg_parts import palette, style_sheet

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}
_TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}
FILES = (
    "index.html", "page.css", "icon.svg", "main.js", "api.js", "dom.js", "runs.js", "run.js", "graph.js",
    "timeline.js", "step.js", "questions.js", "form.js", "compare.js", "submit.js", "words.js",
)  # fmt: skip
PICTURE_CSS = "picture.css"
"""The rules of a picture's own <style>, which a page with this policy does not take from within the picture."""


def picture_css() -> str:
    """Return the rules of pictures, and their colours as variables for the page: one palette for both."""
    light, dark = (
        ":root{" + "".join(f"--pl-{name}:{colour};" for name, colour in palette(theme).items()) + "}"
        for theme in ("light", "dark")
    )
    return f"{light}@media (prefers-color-scheme:dark){{{dark}}}{style_sheet('auto')}"


def page_router() -> APIRouter:
    """Return the routes of the page: `/`, and its files under `/page/`."""
    here = files(__name__)
    texts = {name: here.joinpath(name).read_bytes() for name in FILES}
    texts[PICTURE_CSS] = picture_css().encode()
    tags = {name: f'"{sha256(text).hexdigest()[:16]}"' for name, text in texts.items()}
    router = APIRouter(include_in_schema=False)

    def answer(request: Request, name: str) -> Response:
        headers = HEADERS | {"etag": tags[name]}
        if request.headers.get("if-none-match") == tags[name]:
            return Response(status_code=304, headers=headers)
        return Response(texts[name], media_type=_TYPES[name.rpartition(".")[2]], headers=headers)

    @router.get("/")
    async def index(request: Request) -> Response:
        return answer(request, "index.html")

    @router.get("/page/{name}")
    async def file(request: Request, name: str) -> Response:
        if name not in texts:
            raise HTTPException(404, "there is no such file", headers=HEADERS)
        return answer(request, name)

    return router
