"""Tables of byte values and characters, as BinToUTF8 writes them with a text: see docs/guide/import-and-export.md."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bytecodec.errors import InputError

MAX_BYTES = 1 << 16  # of a table's file: 256 lines are far shorter

# The characters of BinToUTF8, in the order in which it gives them to bytes: printable ASCII, then U+3900 and on.
_IN_ORDER = [*range(0x23, 0x7F), *range(0x3900, 0x3900 + 256 - (0x7F - 0x23))]
_PRINTABLE = (0x20, 0x7E)
_FURTHER = (0x3900, 0x39FF)
_LINE = re.compile(r"[ \t]*(0[xX][0-9A-Fa-f]+|[0-9]+)([ \t].*)", re.DOTALL)


class Table:
    """Table of up to 256 characters and the bytes that they encode.

    Parameters
    ----------
    byte_of
        The byte for each character.
    """

    def __init__(self, byte_of: dict[str, int]) -> None:
        ordered = sorted(byte_of.items())
        self.characters = "".join(character for character, _ in ordered)
        self._codes = np.array([ord(character) for character, _ in ordered], np.uint32)
        self._bytes = np.array([byte for _, byte in ordered], np.int16)

    def lookup(self, codes: NDArray[np.integer[Any]]) -> NDArray[np.int16]:
        """Return the byte for each code point, of any shape, and -1 for one that is not in the table."""
        index = np.searchsorted(self._codes, codes.astype(np.uint32, copy=False)).clip(0, len(self._codes) - 1)
        found: NDArray[np.int16] = np.where(self._codes[index] == codes, self._bytes[index], np.int16(-1))
        return found


def read_table(path: str | os.PathLike[str]) -> Table:
    """Read a table of byte values and characters.

    A line contains a byte, decimal or hexadecimal (65 or 0x41), spaces or tabs, and a character. A file of 256 bytes
    that is not a text contains the bytes in the order of BinToUTF8's characters.

    Raises
    ------
    InputError
        The file is not a table; the message names the line.
    OSError
        The file cannot be opened.
    """
    path = Path(path)
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise InputError(f"{path} is too long for a table: give one of at most 256 lines, a byte and a character each.")
    if len(data) == 256 and not _is_text(data):
        return Table(_in_order(data))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: this is not UTF-8. Save the table as UTF-8.") from None
    return Table(_parse(text, path))


def lacks_table(codes: NDArray[np.integer[Any]]) -> bool:
    """Return whether a text of these code points is one that BinToUTF8 wrote with a table.

    Such a text mixes at least two different printable ASCII characters with others from U+3900 on; it may have line
    ends and byte order marks.
    """
    ascii_ = is_printable_ascii(codes)
    further = (codes >= _FURTHER[0]) & (codes <= _FURTHER[1])
    line_ends = np.isin(codes, [ord(character) for character in "\n\r\ufeff"])
    several = len(np.unique(codes[ascii_])) > 1
    return bool(several and further.any() and (ascii_ | further | line_ends).all())


def is_printable_ascii(codes: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    """Return whether each code point is printable ASCII, which BinToUTF8 assigns first."""
    return (codes >= _PRINTABLE[0]) & (codes <= _PRINTABLE[1])


def _is_text(data: bytes) -> bool:
    try:
        return "\0" not in data.decode()
    except UnicodeDecodeError:
        return False


def _in_order(data: bytes) -> dict[str, int]:
    return {chr(code): byte for code, byte in zip(_IN_ORDER, data, strict=True)}


def _parse(text: str, path: Path) -> dict[str, int]:
    byte_of: dict[str, int] = {}
    line_of: dict[str | int, int] = {}  # by character and by byte
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r")
        if not line.strip(" \t"):
            continue
        try:
            byte, character = _parse_line(line)
            for what, name in ((byte, f"byte {byte}"), (character, f"character {character!r}")):
                if what in line_of:
                    raise ValueError(f"{name} is already in line {line_of[what]}")
                line_of[what] = number
        except ValueError as error:
            raise InputError(f"{path}, line {number}: {error}.") from None
        byte_of[character] = byte
    if not byte_of:
        raise InputError(f"{path} is empty: a table has a byte and a character in each line, such as 65 A.")
    return byte_of


def _parse_line(line: str) -> tuple[int, str]:
    found = _LINE.fullmatch(line)
    if not found:
        raise ValueError(f"{line[:40]!r} is not a byte and a character, such as 65 A or 0x41 A")
    byte = int(found[1], 0) if found[1][:2] in ("0x", "0X") else int(found[1])
    if byte > 255:
        raise ValueError(f"{found[1][:40]} is not a byte, which is a number from 0 to 255")
    rest = found[2]  # with the separator
    character = rest.strip(" \t")
    if not character:  # a space or a tab is the character: what follows the separator
        character = rest[1:] if len(rest) == 2 else " " if set(rest) == {" "} and len(rest) > 1 else ""
    if len(character) != 1:
        what = f"{character[:40]!r} is not one character" if character else "there is no character"
        raise ValueError(f"{what} after byte {byte}")
    return byte, character
