"""Pages in a browser, and checks of them."""

import contextlib
from pathlib import Path

import pytest


@contextlib.contextmanager
def opened_pages(chromium, *own):
    """Yield ``open_page(address, width=1280, color_scheme="light", script="")``.

    At the end, the pages must have loaded nothing but addresses that begin with one of ``own``, and logged nothing.
    """
    opened, logged = [], []

    def open_page(address, width=1280, color_scheme="light", script=""):
        page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=color_scheme)
        opened.append(page)
        page.on("console", lambda message: logged.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: logged.append(str(error)))
        page.on("request", lambda request: logged.append(request.url) if is_foreign(request.url) else None)
        page.add_init_script(script)
        page.goto(address)
        return page

    def is_foreign(url):
        return not url.startswith(("data:", "blob:", *own))

    yield open_page
    for page in opened:
        page.close()
    assert logged == []


def assert_accessible(page):
    """Assert that axe finds no violation, and that the page is not wider than the window."""
    axe = Path(pytest.importorskip("axe_playwright_python").__file__).parent / "axe.min.js"
    page.evaluate(axe.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
    assert [(one["id"], one["nodes"][0]["html"][:200]) for one in found] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
