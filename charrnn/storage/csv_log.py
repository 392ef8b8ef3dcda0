"""CSV files: the logs of a run, log.csv and val.csv, and the reader of columns of any CSV file. Imports no torch."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from bytecodec.errors import InputError
from bytecodec.files import open_output

VAL_COLUMNS = ("iteration", "epoch", "val_loss", "val_bits", "elapsed_seconds")
LOG_COLUMNS = (
    *("iteration", "epoch", "train_loss", "train_bits"),
    *("learning_rate", "grad_norm", "symbols_per_second", "elapsed_seconds"),
)
TIME_COLUMNS = ("symbols_per_second", "elapsed_seconds")  # which differ between two runs with the same settings
BLOCK = 1 << 24  # bytes of a file that are read at a time
MAX_HEADER = 1 << 17  # bytes
DELIMITERS = ",;\t"


class CsvLog:
    """A CSV file to which rows are appended, without a gap or a repeated row when a run is resumed.

    Opening it removes the rows after ``iteration``, which a killed run wrote after its last checkpoint. Rows reach the
    operating system at `flush` and the disk at `sync`.
    """

    def __init__(self, path: Path, columns: tuple[str, ...], iteration: int) -> None:
        self.path, self.columns = path, columns
        self.last: dict[str, str] | None = None
        kept: Iterable[dict[str, str]] = ()
        if path.exists():
            with path.open(encoding="utf-8", errors="replace", newline="\n") as log:
                header = log.readline(1000).rstrip("\r\n")
            if header not in ("", ",".join(columns)):
                raise InputError(f"{path} begins with {header[:80]!r}, and not with charrnn-train's columns.")
            kept = takewhile(lambda row: _is_until(row, iteration), _rows(path))
        with open_output(str(path)) as file:  # copied row by row, because a log may exceed the memory
            file.write((",".join(columns) + "\n").encode())
            for row in kept:
                file.write((",".join(row[column] for column in columns) + "\n").encode())
                self.last = row
        self._file = path.open("a", encoding="utf-8", newline="")

    def add(self, row: Mapping[str, float]) -> None:
        """Append a row; nine digits distinguish any two float32."""
        self.last = {column: f"{row[column]:.9g}" for column in self.columns}
        self._file.write(",".join(self.last.values()) + "\n")

    def flush(self) -> None:
        """Make the rows so far visible to readers."""
        try:
            self._file.flush()
        except OSError as error:
            error.filename = str(self.path)
            raise

    def sync(self) -> None:
        """Write the rows so far to the disk."""
        self.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the complete rows of a log; a row that is being written, or was cut off, is skipped."""
    return list(_rows(path))


def column_names(path: Path) -> list[str]:
    """Return the names in the header of a CSV file, or raise InputError if there is none."""
    with path.open("rb") as file:
        return _header(file, path)[0]


def read_columns(
    path: Path,
    names: Sequence[str],
    on_message: Callable[[str], object],
    on_progress: Callable[[int], object] = lambda _: None,
) -> NDArray[np.float64]:
    """Return columns of a CSV file as (rows, names); an empty field is nan. Only the result is held in memory.

    Incomplete rows are skipped, with a message, and so is a last row without a line end, which may be in the middle of
    being written. A file without such columns or without a row of numbers is an error. ``on_progress`` receives the
    number of bytes of each block.
    """
    blocks: list[NDArray[np.float64]] = []
    broken: list[int] = []
    lines = 1  # the header
    with path.open("rb") as file:
        header, delimiter = _header(file, path)
        for name in names:
            if name not in header:
                raise InputError(f"{path} has no column {name!r}. It has {', '.join(header)}.")
        columns = [header.index(name) for name in names]
        for block in _whole_lines(file, path, on_message):
            numbers, rows = parse_columns(block, columns, len(header), delimiter)
            blocks.append(numbers)
            broken += [lines + row for row in rows]
            lines += block.count(b"\n")
            on_progress(len(block))
    if broken:
        many = f"{len(broken):,} rows are" if len(broken) > 1 else "a row is"
        on_message(f"{path}: {many} skipped for lack of {len(header)} numbers; see line {broken[0]:,}.")
    if not sum(map(len, blocks)):
        if broken or len(header) == 1:
            raise InputError(f"{path} is not a CSV file: it has no row of numbers. Name a run, or a table of numbers.")
        raise InputError(f"{path} has a header and no row of numbers yet.")
    return np.concatenate(blocks)


def read_appended(file: BinaryIO, position: int) -> bytes:
    """Return the complete lines of a file from a position on, to be parsed by `parse_columns`."""
    file.seek(position)
    data = file.read()
    return data[: data.rfind(b"\n") + 1]


def parse_columns(
    lines: bytes, columns: Sequence[int], fields: int, delimiter: str = ","
) -> tuple[NDArray[np.float64], list[int]]:
    """Return columns, by their positions, of complete lines as (rows, columns).

    Return also the numbers, counted from 1, of the lines that do not have this number of fields.
    """
    if lines.strip() and all(line.count(delimiter.encode()) == fields - 1 for line in lines.splitlines()):
        try:
            text = io.StringIO(lines.decode("ascii"))
            return np.loadtxt(text, delimiter=delimiter, usecols=columns, ndmin=2, comments=None), []
        except ValueError:  # an empty field, a word or a quote, which the slower reader accepts or reports
            pass
    found, broken = [], []
    texts = lines.decode("utf-8", "replace").replace("\0", "?").splitlines()
    for number, row in enumerate(_split(texts, delimiter), 1):
        values = [_number(row[column]) for column in columns] if len(row) == fields else [None]
        if None not in values:
            found.append(values)
        elif row:
            broken.append(number)
    return np.array(found, np.float64).reshape(-1, len(columns)), broken


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        rows = _split(line.removesuffix("\n").replace("\r", "") for line in file if line.endswith("\n"))
        header = next(rows, [])
        yield from (dict(zip(header, row, strict=True)) for row in rows if row and len(row) == len(header))


def _split(lines: Iterable[str], delimiter: str = ",") -> Iterator[list[str]]:
    """Yield the fields of each line; none for a line that is too long to be a row."""
    limit = csv.field_size_limit()
    yield from csv.reader((line if len(line) <= limit else "" for line in lines), delimiter=delimiter)


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
    names = [name.strip() for name in next(_split([text.replace("\r", " ")], delimiter), [])]
    if None not in map(_number, names):
        raise InputError(f"{path} has no header: its first line is {text[:60]!r}. Put the columns' names above it.")
    return names, delimiter


def _whole_lines(file: BinaryIO, path: Path, on_message: Callable[[str], object]) -> Iterator[bytes]:
    """Yield blocks that end with a line end; the rest, which may be half-written, is reported and skipped."""
    rest = b""
    while block := file.read(BLOCK):
        cut = block.rfind(b"\n") + 1
        if cut:
            yield rest + block[:cut]
            rest = block[cut:]
        else:
            rest += block
    if rest.strip():
        on_message(f"{path}: the last row is skipped: it has no line end, so it may be incomplete.")


def _is_until(row: Mapping[str, str], iteration: int) -> bool:
    number = row["iteration"]  # after a power cut, the system may leave arbitrary bytes where it had not written yet
    is_until = number.isdecimal() and len(number) < 20 and int(number) <= iteration
    return is_until and all(value and _number(value) is not None for value in row.values())


def _number(text: str) -> float | None:
    """Return the number of a field, nan if it is empty, or None for other text."""
    try:
        return float(text) if text.strip() else math.nan
    except ValueError:
        return None
