"""Measure pages that play a network, in headless Chromium: python tools/bench/page.py (about five minutes).

The networks are untrained, and predict samples, as networks of the default recipe do. With two threads, the page is
served with cross-origin isolation. Needs chromium and playwright.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from table import SECONDS, Row, main, per_second

SIZES = {"2x128": (2, 128, 64), "2x256": (2, 256, 64), "3x680": (3, 680, 110)}  # layers, units, embeddings
PRECISIONS = {"2x128": "int7", "2x256": "int7", "3x680": "int4.5"}
TIMED = """
    async (seconds) => {
        await charrnn.sample({ length: 30000 }); // the browser optimises the module
        const began = performance.now();
        let count = 0;
        while (performance.now() - began < 1000 * seconds) count += (await charrnn.sample({ length: 2048 })).length;
        return (1000 * count) / (performance.now() - began);
    }
"""


def checkpoint(size: str, folder: Path) -> Path:
    """Write an untrained network of a size; return its path."""
    from charrnn import Vocab
    from charrnn.models.char_rnn import build
    from charrnn.models.config import ModelConfig
    from charrnn.storage.checkpoint import Checkpoint, save

    layers, units, embeddings = SIZES[size]
    config = ModelConfig(256, embeddings, units, layers, layer_norm=True, context=31, prediction="lpc-long")
    made = Checkpoint(build(config, seed=0), Vocab.of_alphabet("braille"), rate=11025, encoding="linear", level=20.0)
    save(folder / "network.safetensors", made)
    return folder / "network.safetensors"


def compiled(size: str) -> float:
    """Measure the compiled engine on one thread."""
    from charrnn import runtime

    runtime.before_torch()
    import charrnn
    from charrnn.sampling.generate import generate

    with tempfile.TemporaryDirectory() as folder:
        symbols = generate(
            charrnn.engine(checkpoint(size, Path(folder)), "cpu", 1, PRECISIONS[size], 1), None, chunk=256
        )
    return 256 * per_second(lambda: next(symbols))


class IsolatedHandler(SimpleHTTPRequestHandler):
    """Handler that serves files with cross-origin isolation."""

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


def page(size: str, threads: int) -> float:
    """Measure a page on one or two threads."""
    from playwright.sync_api import sync_playwright

    from charrnn.commands.convert import charrnn_convert

    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        precision = ["--precision", PRECISIONS[size]]
        charrnn_convert([str(checkpoint(size, folder)), str(folder / "page.html"), "-q", *precision])
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(IsolatedHandler, directory=name))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = browser.new_page()
        tab.goto(f"file://{folder}/page.html" if threads == 1 else f"http://127.0.0.1:{server.server_port}/page.html")
        tab.wait_for_selector("#play:not([disabled])", timeout=60_000)
        speed = float(tab.evaluate(TIMED, SECONDS))
        if tab.evaluate("charrnn.info.threads") != threads:
            sys.exit(f"{size}: the page did not use {threads} threads to the end: measure on an idle machine.")
        browser.close()
        server.shutdown()
    return speed


def rows() -> list[Row]:
    """Return the rows of each size."""
    found = []
    for size in SIZES:
        native = f"{size} in {PRECISIONS[size]}: compiled engine, 1 thread"
        found.append(Row(native, partial(compiled, size)))
        found.append(Row(f"{size}: page, 1 thread", partial(page, size, 1), native))
        found.append(Row(f"{size}: page, 2 threads", partial(page, size, 2), native))
    return found


if __name__ == "__main__":
    main(__doc__ or "", "pages: symbols per second (real time: 11,025)", rows())
