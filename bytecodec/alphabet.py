"""Alphabets: conversion of bytes to characters and back, with 256 consecutive characters of Unicode."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from bytecodec.errors import InputError, NoTableError
from bytecodec.table import Table, is_printable_ascii, lacks_table

#: Code point of byte 0 in each alphabet; byte b has the code point b higher. All are multiples of 256.
ALPHABETS = {"braille": 0x2800, "cjk": 0x3900, "latin": 0x0100}

Bytes: TypeAlias = bytes | bytearray | memoryview | NDArray[np.uint8]

_BY_PAGE = {first >> 8: name for name, first in ALPHABETS.items()}
_MARK = "\ufeff"
_LINE_END_CODES = np.array([ord("\r"), ord("\n"), ord(_MARK)], np.uint32)
_NEEDS_TABLE = (
    "BinToUTF8 writes such texts together with a table of their characters: give the table with --table FILE."
)
_SHARE_OF_ASCII = 0.1  # smallest share in such a text; fewer ASCII characters are errors in a text of an alphabet
_NO_CODE_POINT = 0x110000  # beyond the last code point of Unicode
# Bytes converted at a time. Intermediate arrays of this size stay in the cache, and malloc does not request memory
# from the system for them, which would take longer than the conversion.
_ENCODED_PIECE = 1 << 14
_DECODED_PIECE = 1 << 16


def encode(data: Bytes, alphabet: str = "braille") -> str:
    r"""Encode each byte as one character, without a byte order mark or a line end.

    Parameters
    ----------
    data
        Any bytes, or a uint8 array (n,).
    alphabet
        ``braille``, ``cjk`` or ``latin``; see `ALPHABETS`.

    Examples
    --------
    >>> encode(b"\x00\x01\xff")
    '⠀⠁⣿'
    """
    return _characters(byte_array("data", data), first_code_point(alphabet))


def _characters(values: NDArray[np.uint8], first: int) -> str:
    """Return the character U+(first + value) for each value."""
    codes = values + np.uint16(first)
    return str(codes.astype("<u2", copy=False).data, "utf-16-le")


def decode(text: str) -> bytes:
    r"""Decode a text of `encode`; the alphabet is detected from the text.

    A byte order mark at the start and one line end at the end are ignored, because editors and shells add them.

    Raises
    ------
    InputError
        A character is in no alphabet, or in another one than the first. The message contains the character, its
        code point and its offset in characters, counted from 0.

    Examples
    --------
    >>> decode("⠀⠁⣿\n")
    b'\x00\x01\xff'
    """
    if not isinstance(text, str):
        raise InputError(f"text is a {type(text).__name__}; it must be a string: decode UTF-8 bytes first.")
    decoder = Decoder()
    return decoder.feed(text) + decoder.close()


def alphabet_of(characters: Iterable[str]) -> str | None:
    r"""Return the alphabet that contains all characters of a text or a set, or None; also None for an empty text.

    Examples
    --------
    >>> alphabet_of("⠀⠁⣿")
    'braille'
    >>> alphabet_of("⠀⠁⣿\n") is None
    True
    """
    pages = {ord(character) >> 8 for character in set(characters)}
    return _BY_PAGE.get(pages.pop()) if len(pages) == 1 else None


def first_code_point(alphabet: str) -> int:
    """Return the code point of byte 0 in an alphabet, or raise InputError if there is no such alphabet."""
    if not isinstance(alphabet, str) or alphabet not in ALPHABETS:
        raise InputError(f"there is no alphabet {alphabet!r}: choose one of {', '.join(ALPHABETS)}.")
    return ALPHABETS[alphabet]


def byte_array(name: str, data: Bytes) -> NDArray[np.uint8]:
    """Return bytes or a uint8 array (n,) as a uint8 array (n,), or raise InputError for anything else."""
    if isinstance(data, np.ndarray):
        if data.dtype != np.uint8 or data.ndim != 1:
            raise InputError(f"{name} is an array of {data.dtype} {data.shape}; it must be uint8 (n,).")
        return data
    try:
        view = memoryview(data)
    except TypeError:
        raise InputError(f"{name} is a {type(data).__name__}; it must be bytes or an array of uint8.") from None
    if view.itemsize != 1:
        raise InputError(f"{name} has items of {view.itemsize} bytes; it must be bytes or an array of uint8.")
    return np.frombuffer(view.tobytes() if not view.contiguous else view, np.uint8)


class Encoder:
    """Encoder of bytes to UTF-8 text, in chunks of any size and in constant memory."""

    def __init__(self, alphabet: str = "braille") -> None:
        self._first = first_code_point(alphabet)
        self.alphabet = alphabet

    def feed(self, chunk: Bytes) -> bytes:
        """Encode the next bytes as UTF-8 text of one character per byte."""
        values = byte_array("chunk", chunk)
        pieces = (values[i : i + _ENCODED_PIECE] for i in range(0, len(values), _ENCODED_PIECE))
        return b"".join(_characters(piece, self._first).encode() for piece in pieces)

    def close(self) -> bytes:
        """Return b"", because each byte is encoded immediately."""
        return b""


class Decoder:
    """Decoder of UTF-8 text to bytes, in chunks of any size and in constant memory.

    Parameters
    ----------
    errors
        ``strict`` raises InputError for the first character that is not in the text's alphabet; ``skip`` skips such
        characters and counts them.
    skip_line_ends
        Skip all line ends and byte order marks, as in wrapped lines and joined files, and count them in
        ``line_ends``.
    table
        The byte of each character of a BinToUTF8 text. Without a table, the alphabet is detected from the text.

    Attributes
    ----------
    alphabet : str or None
        The alphabet of the text; None until its first character, and with a table.
    skipped : int
        Number of characters skipped so far; bytes that are not UTF-8 count as one.
    line_ends : int
        Number of characters skipped so far by ``skip_line_ends``, except a mark at the start and one line end at the
        end.
    """

    def __init__(self, errors: str = "strict", skip_line_ends: bool = False, table: Table | None = None) -> None:
        if errors not in ("strict", "skip"):
            raise InputError(f"errors is {errors!r}; it must be strict or skip.")
        if table is not None and not isinstance(table, Table):
            raise InputError(f"table is a {type(table).__name__}; it must be what bytecodec.read_table returns.")
        self.alphabet: str | None = None
        self.skipped = 0
        self.line_ends = 0
        self._skips_line_ends = skip_line_ends
        self._strict = errors == "strict"
        self._table = table
        self._decoded = self._skipped_ascii = 0  # characters so far
        self._rest = b""  # a character cut by the end of a chunk
        self._held = ""  # a line end, which is an error unless the text ends with it
        self._characters = 0  # before the next chunk, for messages
        self._bytes = 0
        self._counts_bytes = True

    def feed(self, chunk: Bytes | str) -> bytes:
        """Decode the next bytes or characters of the text; all chunks must be of the same type.

        With ``strict``, raise InputError with the offset of a character of another alphabet, or of invalid UTF-8.
        """
        if isinstance(chunk, str):
            self._counts_bytes = False
            return b"".join(self._read(chunk[i : i + _DECODED_PIECE]) for i in range(0, len(chunk), _DECODED_PIECE))
        data = byte_array("chunk", chunk)
        return b"".join(self._feed(data[i : i + _DECODED_PIECE].tobytes()) for i in range(0, len(data), _DECODED_PIECE))

    def close(self) -> bytes:
        """Decode the end of the text, or raise InputError if it ends within a character."""
        return self._feed(b"", final=True)

    def _feed(self, piece: bytes, final: bool = False) -> bytes:
        data = self._rest + piece
        try:
            text, used = codecs.utf_8_decode(data, "strict" if self._strict else "replace", final)
        except UnicodeDecodeError as error:
            self._read(data[: error.start].decode())  # reports an error before this one
            raise InputError(self._not_utf8(error, len(data))) from None
        self._rest = data[used:]
        return self._read(text, final)

    def _read(self, text: str, final: bool = False) -> bytes:
        """Decode the next characters, except a mark at the start and a line end that may be the last."""
        text = self._held + text
        if text.startswith(_MARK) and not self._characters:
            text = text[1:]
            self._characters, self._bytes = 1, len(_MARK.encode())
        ending = _line_end(text)
        if final and ending == "\r":
            ending = ""
        self._held = ending
        body = text[: len(text) - len(ending)]
        values = self._map(body)
        self._characters += len(body)
        self._decoded += len(values)
        if self._counts_bytes and self._strict:
            if self._skips_line_ends or self._table is not None:
                self._bytes += len(body.encode())
            elif self.alphabet is not None:
                self._bytes += len(body) * len(chr(ALPHABETS[self.alphabet]).encode())
        if final and self.alphabet == "cjk" and self._skipped_ascii > self._decoded:
            raise NoTableError(f"most of this text is ASCII among characters of the cjk alphabet. {_NEEDS_TABLE}")
        return values

    def _map(self, body: str) -> bytes:
        codes = np.frombuffer(body.encode("utf-32-le", "surrogatepass"), "<u4")
        values = self._values(body, codes)
        if values.max(initial=0) > 255:
            inside = values < 256
            line_ends = np.isin(codes, _LINE_END_CODES) if self._skips_line_ends else np.zeros(len(codes), np.bool_)
            foreign = ~(inside | line_ends)
            if self._strict and foreign.any():
                message = self._foreign(body, int(np.argmax(foreign)))
                if self._table is None and self._lacks_table(codes):
                    raise NoTableError(f"{message} {_NEEDS_TABLE}")
                raise InputError(message)
            self.line_ends += int(np.count_nonzero(line_ends))
            self.skipped += int(np.count_nonzero(foreign))
            self._skipped_ascii += int(np.count_nonzero(is_printable_ascii(codes[foreign])))
            values = values[inside]
        return values.astype(np.uint8).tobytes()

    def _values(self, body: str, codes: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Return the byte of each character, and a number above 255 for one that has none."""
        if self._table is not None:
            return self._table.lookup(codes).astype(np.uint32)
        if self.alphabet is None:
            self.alphabet = next(_alphabets_in(body), None)
        first = _NO_CODE_POINT if self.alphabet is None else ALPHABETS[self.alphabet]
        return codes - np.uint32(first)  # a code point below the alphabet wraps around to a large number

    def _lacks_table(self, codes: NDArray[np.uint32]) -> bool:
        """Return whether the characters of a piece indicate that BinToUTF8 wrote the text."""
        before = np.full(min(self._decoded, 1), ALPHABETS[self.alphabet or "cjk"], np.uint32)
        several = np.count_nonzero(is_printable_ascii(codes)) >= _SHARE_OF_ASCII * len(codes)
        return bool(several) and lacks_table(np.concatenate([before, codes]))

    def _foreign(self, body: str, index: int) -> str:
        character = body[index]
        where = self._position(self._characters + index, self._bytes + len(body[:index].encode()))
        what = f"U+{ord(character):04X} {character!r} at {where}"
        other = next(_alphabets_in(character), None)
        if self._table is not None:
            return f"{what} is not in the table."
        if self.alphabet is None:
            return f"{what} is in no alphabet ({', '.join(ALPHABETS)}): the text was not made from bytes."
        if other is not None:
            return f"{what} is of the {other} alphabet, and the text begins in {self.alphabet}."
        return f"{what} is not in the {self.alphabet} alphabet."

    def _not_utf8(self, error: UnicodeDecodeError, end: int) -> str:
        characters, offset = self._characters + len(self._held), self._bytes + len(self._held)
        if error.end == end and error.reason == "unexpected end of data":
            return f"the text ends within a character, at {self._position(characters, offset)}."
        return f"byte 0x{error.object[error.start]:02X} at {self._position(characters, offset)} is not UTF-8."

    def _position(self, characters: int, offset: int) -> str:
        return f"character {characters} (byte {offset})" if self._counts_bytes else f"character {characters}"


def _line_end(text: str) -> str:
    """Return the line end, or the first character of one, with which a text ends."""
    return next((ending for ending in ("\r\n", "\n", "\r") if text.endswith(ending)), "")


def _alphabets_in(text: str) -> Iterator[str]:
    return (_BY_PAGE[page] for page in (ord(character) >> 8 for character in text) if page in _BY_PAGE)
