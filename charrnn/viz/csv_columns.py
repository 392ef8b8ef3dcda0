"""Columns of CSV files of any size and origin, as arrays."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from bytecodec.errors import InputError

Floats = NDArray[np.float64]
OnMessage = Callable[[str], object]
OnProgress = Callable[[int], object]

BLOCK = 1 << 24  # bytes that are parsed at once
MAX_HEADER = 1 << 17  # bytes
DELIMITERS = ",;\t"


def ignore(_: object) -> None:
    """Ignore a message or a progress report."""


@dataclass
class _Rows:
    """Numbers (rows, columns) read so far, and the lines that were left out."""

    blocks: list[Floats] = field(default_factory=list)
    lines: int = 1  # read so far, the header included
    malformed: list[int] = field(default_factory=list)


def column_names(path: Path) -> list[str]:
    """Return the names in the header of a CSV file, or raise InputError if it has none."""
    with path.open("rb") as file:
        return _header(file, path)[0]


def read_columns(path: Path, names: Sequence[str], on_message: OnMessage, on_progress: OnProgress = ignore) -> Floats:
    """Return columns of a CSV file by their names, (rows, names), with nan for an empty field.

    Malformed rows are left out, and so is a last row without a line end, which another process may be writing. Memory
    is constant except for the result.

    Parameters
    ----------
    on_message
        Called with a message about what was left out.
    on_progress
        Called with the number of bytes of each block.

    Raises
    ------
    InputError
        The file is empty, has no header, lacks one of the columns, or has no row of numbers.
    """
    rows = _Rows()
    with path.open("rb") as file:
        header, delimiter = _header(file, path)
        for name in names:
            if name not in header:
                raise InputError(f"{path} has no column {name!r}. It has {', '.join(header)}.")
        columns = [header.index(name) for name in names]
        for block in _complete_lines(file, path, on_message):
            rows.blocks.append(_parse(block, delimiter, len(header), columns, rows))
            rows.lines += block.count(b"\n")
            on_progress(len(block))
    found = np.concatenate(rows.blocks) if rows.blocks else np.empty((0, len(names)))
    if rows.malformed:
        count = f"{len(rows.malformed):,} rows are" if len(rows.malformed) > 1 else "a row is"
        on_message(f"{path}: {count} left out, without {len(header)} numbers; see line {rows.malformed[0]:,}.")
    if not len(found):
        raise InputError(f"{path} has a header and no row of numbers{' yet' if not rows.malformed else ''}.")
    return found


def _header(file: BinaryIO, path: Path) -> tuple[list[str], str]:
    line = file.readline(MAX_HEADER)
    if len(line) == MAX_HEADER:
        raise InputError(f"{path} is not a CSV file: its first line is longer than {MAX_HEADER:,} bytes.")
    if not line.strip():
        raise InputError(f"{path} is empty: it has {'0 bytes' if not line else 'no header'}.")
    try:
        text = line.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        raise InputError(f"{path} is neither a CSV file nor a recording that can be read.") from None
    delimiter = max(DELIMITERS, key=text.count)
    names = [name.strip() for name in next(csv.reader([text.replace("\r", " ")], delimiter=delimiter), [])]
    if all(_number(name) is not None for name in names):
        raise InputError(f"{path} has no header: its first line is {text[:60]!r}. Add the names of the columns.")
    return names, delimiter


def _complete_lines(file: BinaryIO, path: Path, on_message: OnMessage) -> Iterator[bytes]:
    """Yield blocks that end with a line end; leave out what follows the last one."""
    rest = b""
    while block := file.read(BLOCK):
        cut = block.rfind(b"\n") + 1
        if cut:
            yield rest + block[:cut]
            rest = block[cut:]
        else:
            rest += block
    if rest.strip():
        on_message(f"{path}: the last row is left out: it has no line end, so it may be incomplete.")


def _parse(block: bytes, delimiter: str, fields: int, columns: list[int], rows: _Rows) -> Floats:
    """Return the columns of a block of lines."""
    if block.count(delimiter.encode()) == (fields - 1) * block.count(b"\n") and block.strip():  # no row is too short
        try:
            text = io.StringIO(block.decode("ascii"))
            return np.loadtxt(text, delimiter=delimiter, usecols=columns, ndmin=2, comments=None)
        except ValueError:  # an empty field, a word, a quote
            pass
    found = []
    lines = block.decode("utf-8", "replace").replace("\0", "?").splitlines()
    lines = [line if len(line) <= csv.field_size_limit() else "" for line in lines]  # longer ones are damage
    for number, row in enumerate(csv.reader(lines, delimiter=delimiter), rows.lines + 1):
        values = [_number(row[column]) for column in columns] if len(row) == fields else [None]
        if None not in values:
            found.append(values)
        elif row:
            rows.malformed.append(number)
    return np.array(found, np.float64).reshape(-1, len(columns))


def _number(text: str) -> float | None:
    try:
        return float(text) if text.strip() else math.nan
    except ValueError:
        return None
