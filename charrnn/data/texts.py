"""Reading of texts in any encoding, in blocks, and the set of their characters."""

from __future__ import annotations

import codecs
import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

import bytecodec
from bytecodec.errors import InputError
from bytecodec.formats import HEAD, encoding_by_mark
from charrnn.data.inputs import Input
from charrnn.data.vocab import MAX_CODE_POINT, code_points

BLOCK = 1 << 22  # bytes of text that are read at a time
UTF8 = "utf-8"
BYTE_ORDER_MARK = "\ufeff"
LINE_ENDS = [ord(mark) for mark in ("\n", "\r", BYTE_ORDER_MARK)]  # that a text of sound may have
_CONTROL = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")  # characters that no text has
_NEIGHBOURHOOD = 2000  # number of bytes around an invalid one by which another encoding is guessed
_MIN_ZEROS = 0.02  # smallest share of zero bytes in UTF-16 text, from its spaces and line ends


@dataclass(frozen=True)
class Characters:
    """Set of the characters of a text."""

    code_points: NDArray[np.integer[Any]]  # sorted, each once
    alphabet: str | None  # that has all of them, apart from line ends and byte order marks
    has_windows_line_ends: bool = False

    @classmethod
    def of(cls, text: Input, encoding: str = UTF8) -> Characters:
        """Read a whole text; one that mixes characters of several alphabets is an error."""
        seen = np.zeros(MAX_CODE_POINT + 1, dtype=np.bool_)
        windows = False
        for block in read_text(text, encoding):
            seen[code_points(block)] = True
            windows = windows or "\r\n" in block
        found = np.flatnonzero(seen)
        seen[LINE_ENDS] = False
        pages = {int(page) for page in np.unique(np.flatnonzero(seen) >> 8)}
        names = [name for name, first in bytecodec.ALPHABETS.items() if first >> 8 in pages]
        if len(names) > 1 and len(pages) == len(names):
            for _ in decode_text(text, encoding):  # raises InputError at the first character of the second alphabet
                pass
        return cls(found, names[0] if len(pages) == len(names) == 1 else None, windows)


def decode_text(text: Input, encoding: str, decoder: bytecodec.Decoder | None = None) -> Iterator[bytes]:
    """Yield the bytes that a text of sound represents, without the line ends in it."""
    decoder = decoder or bytecodec.Decoder(skip_line_ends=True)
    for block in read_text(text, encoding):
        try:
            values = decoder.feed(block)
        except InputError as error:
            raise InputError(f"{text.name}: {error}") from None
        yield values
    yield decoder.close()


def read_text(text: Input, encoding: str = UTF8) -> Iterator[str]:
    """Yield the characters of a text in blocks.

    A byte order mark at the beginning is skipped and overrides ``encoding``. If the text is not in the encoding, the
    message of the error has the offset in bytes and, if it can be guessed, the encoding.
    """
    with text.open() as file:
        head = file.read(HEAD)
        file.seek(0)
        marked = encoding_by_mark(head)
        if not marked and encoding == UTF8 and (other := _encoding_by_zeros(head)):
            raise InputError(
                f"{text.name} looks like {other[:6].upper()} text without a byte order mark: "
                f"--encoding {other} reads it."
            )
        yield from _read(file, text.name, marked or encoding)


def _read(file: BinaryIO, name: str, encoding: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder(encoding)()
    offset, first = 0, True
    while True:
        data = file.read(BLOCK)
        waiting = len(decoder.getstate()[0])
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeError as error:
            start = error.start if isinstance(error, UnicodeDecodeError) else 0
            at = offset - waiting + start
            cut = not data  # the text ends within a character, which is no sign of another encoding
            raise InputError(
                f"{name} is neither a recording that can be read nor {encoding.upper()} text: "
                f"the byte at offset {at} does not fit.{_advice(file, at) if encoding == UTF8 and not cut else ''}"
            ) from None
        offset += len(data)
        if first and text:
            text, first = text.removeprefix(BYTE_ORDER_MARK), False
        if text:
            yield text
        if not data:
            return


def _advice(file: BinaryIO, offset: int) -> str:
    """Return advice on an --encoding for a text that is not UTF-8; "" for other data and damaged UTF-8."""
    file.seek(0)
    head = file.read(HEAD)
    for encoding in ("utf-16-le", "utf-16-be"):
        text = head[: len(head) // 2 * 2].decode(encoding, "replace")
        if bytecodec.alphabet_of(re.sub("[\r\n]", "", text)):
            return f" If it is a text of sound, --encoding {encoding} reads it."
    file.seek(max(0, offset - _NEIGHBOURHOOD))
    around = file.read(2 * _NEIGHBOURHOOD)
    has_utf8 = any(ord(character) > 127 for character in around.decode(UTF8, "ignore"))
    if has_utf8 or _CONTROL.search(around.decode("latin-1")):
        return ""
    encoding = "cp1252" if re.search(rb"[\x80-\x9f]", around) else "latin-1"
    return f" If it is a text in a Western European encoding, --encoding {encoding} reads it."


def _encoding_by_zeros(head: bytes) -> str | None:
    """Return UTF-16 or UTF-32 by the zero bytes of Latin characters; None if there are few."""
    zeros = np.frombuffer(head, np.uint8)[: len(head) // 4 * 4].reshape(-1, 4) == 0
    if not zeros.size or zeros.mean() < _MIN_ZEROS:
        return None
    for encoding, mostly in (("utf-32-le", 3), ("utf-32-be", 0), ("utf-16-le", 1), ("utf-16-be", 0)):
        if zeros[:, mostly].any():
            with contextlib.suppress(UnicodeDecodeError):
                text = codecs.getincrementaldecoder(encoding)().decode(head)  # the last character may be cut
                if text and not _CONTROL.search(text):
                    return encoding
    return None
