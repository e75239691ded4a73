"""A headless Chromium and a server for it: what the survey of the pages and the PDF share."""

from __future__ import annotations

import shutil
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Iterator

from playwright.sync_api import Browser, Page, sync_playwright

from lib import ROOT
from lib.errors import BookError

HTML = ROOT / "_build" / "html"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
NO_NETWORK = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
PATIENCE = 300_000  # milliseconds: a machine that has other work may take minutes over a page

# Formulas are typeset after a page has loaded, and lazy images load when they are scrolled to: wait for both.
SETTLE = """async () => {
  await window.MathJax?.startup?.promise;
  for (const image of document.images) image.loading = "eager";
  await Promise.all([...document.images].map(image => image.decode().catch(() => null)));
}"""
UNFOLD = "() => document.querySelectorAll('details').forEach(details => details.open = true)"


def find_chromium() -> str:
    """Return the path of the system's Chromium or Chrome; BookError if none is on PATH."""
    for name in BROWSERS:
        if path := shutil.which(name):
            return path
    raise BookError(f"no Chromium is on PATH ({', '.join(BROWSERS)}); on Debian: apt-get install chromium")


def rendered_pages(folder: Path) -> list[str]:
    """List the pages of a rendered book, relative to ``folder``; BookError if there are none.

    The index is not one of them: it only sends its reader on.
    """
    if not (folder / "index.html").exists():
        raise BookError(f"{folder} holds no rendered book; make book renders it")
    pages = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.html"))
    return [page for page in pages if not page.startswith(("_", "index."))]  # _static holds the theme's fragments


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve a folder on a free port of this machine; yield its address, which ends in a slash."""
    server = _Server(("127.0.0.1", 0), partial(_Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # a browser opens many connections at once; those beyond the queue would wait for seconds

    def handle_error(self, *_: object) -> None:
        """Say nothing: a browser that leaves a page drops its connections."""


class _Quiet(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections

    def log_message(self, *_: object) -> None:
        """Say nothing: thousands of requests would bury the findings."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start a headless Chromium that reaches this machine only, and end it."""
    path = find_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[NO_NETWORK])
        try:
            yield browser
        finally:
            browser.close()


def open_page(page: Page, address: str) -> None:
    """Load a page to the end: formulas typeset, images decoded, everything that folds unfolded."""
    page.goto(address, wait_until="load", timeout=PATIENCE)
    page.evaluate(UNFOLD)
    page.evaluate(SETTLE)
