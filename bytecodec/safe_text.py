"""Text of unknown origin, such as a file's name, in a form that is safe to print, draw and send."""

from __future__ import annotations

import os
import unicodedata

JOINERS = "\u200c\u200d"  # format characters in scripts and emoji, which do not reorder text
NAMED = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def printable(text: object, most: int | None = None, keep_bytes: bool = False) -> str:
    r"""Return text on one line, with characters that are not printable as escapes.

    Control characters, line separators, marks that reorder text (such as right-to-left ones) and surrogates become
    escapes such as ``\n``, ``\x1b`` and ``\u202e``. A byte of a file's name that is not UTF-8, which Python keeps as a
    surrogate, becomes that byte, such as ``\xff``. Printable text is returned unchanged.

    Parameters
    ----------
    text
        A string, a path (also as bytes), or anything that ``str`` takes.
    most
        The greatest length in characters; of longer text the middle is left out.
    keep_bytes
        Leave bytes that are not UTF-8 as they are, for output that is encoded with `os.fsencode`.
    """
    text = os.fsdecode(text) if isinstance(text, bytes | os.PathLike) else str(text)
    text = _cut(text, most)  # first, because escapes only make text longer
    if text.isprintable():
        return text
    return _cut("".join(_shown(c, keep_bytes) for c in text), most)


def is_utf8(text: str) -> bool:
    """Return whether a text can be written in UTF-8, which names that Python keeps with surrogates cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _cut(text: str, most: int | None) -> str:
    if most is None or len(text) <= most:
        return text
    end = (most - 1) // 2
    return f"{text[: most - 1 - end]}…{text[len(text) - end :]}"


def _shown(c: str, keep_bytes: bool) -> str:
    if c.isprintable() or c in JOINERS or unicodedata.category(c) == "Zs":
        return c
    if "\udc80" <= c <= "\udcff":
        return c if keep_bytes else f"\\x{ord(c) - 0xDC00:02x}"
    if c < "\x80":
        return NAMED.get(c, f"\\x{ord(c):02x}")
    return f"\\u{ord(c):04x}" if c <= "\uffff" else f"\\U{ord(c):08x}"
