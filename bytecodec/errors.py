"""User errors, and the safe display of untrusted text, such as the name of a file, in messages."""

from __future__ import annotations

import os
import unicodedata

# In characters: names in a file may have any length. Other lines that `bytecodec.console.log` prints may contain
# several names, so their limit is `bytecodec.console.MAX_LINE`.
MAX_MESSAGE = 400

_JOINERS = "\u200c\u200d"  # format characters in scripts and emoji, which do not reorder text
_ESCAPES = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


class InputError(ValueError):
    """User error: an argument, a file or a command line that cannot be used.

    ``str(error)`` is one or two sentences for the user: the value, the file and offset, and the remedy. The commands
    print it and exit with 1; any other exception is a fault of the program and keeps its traceback.

    The message is one line of at most `MAX_MESSAGE` characters without control characters; see `printable`.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(message, MAX_MESSAGE))


class NoTableError(InputError):
    """Error for a text that BinToUTF8 wrote with a table, if the table is not given."""


class NoChannelError(InputError):
    """Error for a recording, or one of several in a file, that lacks the requested channel."""


def first_line(error: Exception) -> str:
    """Return the first line of an error's message without its full stop; the name of its class if it is empty."""
    return (str(error).strip().partition("\n")[0] or type(error).__name__).rstrip(".")


def printable(text: object, max_length: int | None = None, keep_bytes: bool = False) -> str:
    r"""Return text on one line, with characters that are not printable as escapes.

    Control characters, line separators, marks that reorder text (such as right-to-left ones) and surrogates become
    escapes such as ``\n``, ``\x1b`` and ``\u202e``. A byte of a file's name that is not UTF-8, which Python keeps as a
    surrogate, becomes that byte, such as ``\xff``. Printable text is returned unchanged.

    Parameters
    ----------
    text
        A string, a path (also as bytes), or any object, which is converted with ``str``.
    max_length
        The greatest length in characters; the middle of a longer text is replaced by an ellipsis.
    keep_bytes
        Leave bytes that are not UTF-8 as they are, for output that is encoded with `os.fsencode`.
    """
    text = os.fsdecode(text) if isinstance(text, bytes | os.PathLike) else str(text)
    text = _cut(text, max_length)  # first, because escapes only make text longer
    if text.isprintable():
        return text
    return _cut("".join(_escape(c, keep_bytes) for c in text), max_length)


def is_utf8(text: str) -> bool:
    """Return whether a text can be encoded as UTF-8; file names with surrogates cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _cut(text: str, max_length: int | None) -> str:
    if max_length is None or len(text) <= max_length:
        return text
    end = (max_length - 1) // 2
    return f"{text[: max_length - 1 - end]}…{text[len(text) - end :]}"


def _escape(c: str, keep_bytes: bool) -> str:
    if c.isprintable() or c in _JOINERS or unicodedata.category(c) == "Zs":
        return c
    if "\udc80" <= c <= "\udcff":
        return c if keep_bytes else f"\\x{ord(c) - 0xDC00:02x}"
    if c < "\x80":
        return _ESCAPES.get(c, f"\\x{ord(c):02x}")
    return f"\\u{ord(c):04x}" if c <= "\uffff" else f"\\U{ord(c):08x}"
