"""Measure the codec in millions of bytes per second: python tools/bench/codec.py (about a minute)."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from table import Row, command_path, main, per_second

import bytecodec

COMMAND_BYTES = 300_000_000


def function(name: str) -> float:
    """Measure the codec, or a plain expression in Python, on a megabyte."""
    data = os.urandom(1 << 20)
    text = bytecodec.Encoder().feed(data)
    work: dict[str, Callable[[], Any]] = {
        "encode": lambda: bytecodec.Encoder().feed(data),
        "decode": lambda: bytecodec.Decoder().feed(text),
        "plain encode": lambda: "".join(chr(0x2800 + byte) for byte in data).encode(),
        "plain decode": lambda: bytes(ord(character) - 0x2800 for character in text.decode()),
    }
    return len(data) / 1e6 * per_second(work[name], 2.0)


def command(name: str) -> float:
    """Measure a command from start to end on 300 MB."""
    with tempfile.TemporaryDirectory() as folder:
        raw, text = Path(folder, "raw"), Path(folder, "text")
        raw.write_bytes(os.urandom(COMMAND_BYTES))
        if name == "utf82bin":
            subprocess.run([command_path("bin2utf8"), raw, text], check=True)
        start = time.perf_counter()
        subprocess.run([command_path(name), text if name == "utf82bin" else raw, os.devnull], check=True)
        return COMMAND_BYTES / 1e6 / (time.perf_counter() - start)


def rows() -> list[Row]:
    """Return the rows of both directions."""
    to_text, from_text = "plain Python, to text", "plain Python, from text"
    return [
        Row(to_text, partial(function, "plain encode")),
        Row("bytecodec.Encoder", partial(function, "encode"), to_text),
        Row("bin2utf8, the whole command", partial(command, "bin2utf8"), to_text),
        Row(from_text, partial(function, "plain decode")),
        Row("bytecodec.Decoder", partial(function, "decode"), from_text),
        Row("utf82bin, the whole command", partial(command, "utf82bin"), from_text),
    ]


if __name__ == "__main__":
    main(__doc__ or "", "codec: MB of bytes per second", rows())
