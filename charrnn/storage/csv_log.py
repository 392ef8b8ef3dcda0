"""The logs of a run, log.csv and val.csv: one row per iteration or validation. Imports no torch."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping
from itertools import takewhile
from pathlib import Path

from bytecodec.errors import InputError
from bytecodec.files import open_output

VAL_COLUMNS = ("iteration", "epoch", "val_loss", "val_bits", "elapsed_seconds")
LOG_COLUMNS = (
    "iteration",
    "epoch",
    "train_loss",
    "train_bits",
    "learning_rate",
    "grad_norm",
    "symbols_per_second",
    "elapsed_seconds",
)
TIME_COLUMNS = ("symbols_per_second", "elapsed_seconds")  # all that differs between two runs of the same


class CsvLog:
    """A CSV file that grows by rows, and goes on after a resume without a gap or a repeated row.

    Rows after ``iteration``, which a stopped run had written but not saved, are cut away on opening. Rows
    reach the system at `flush` and the disk at `sync`.
    """

    def __init__(self, path: Path, columns: tuple[str, ...], iteration: int) -> None:
        self.path, self.columns = path, columns
        self.last: dict[str, str] | None = None
        if path.exists() and (header := _header(path)) not in ("", ",".join(columns)):
            raise InputError(f"{path} begins with {header[:80]!r}, and not with the columns that charrnn-train writes.")
        kept = takewhile(lambda row: _is_until(row, iteration), _rows(path)) if path.exists() else ()
        with open_output(str(path)) as file:  # beside the old one, which may be larger than memory
            file.write((",".join(columns) + "\n").encode())
            for row in kept:
                file.write((",".join(row[column] for column in columns) + "\n").encode())
                self.last = row
        self._file = path.open("a", encoding="utf-8", newline="")

    def add(self, row: Mapping[str, float]) -> None:
        """Append a row; numbers are written with nine digits, enough to tell any two float32 apart."""
        self.last = {column: f"{row[column]:.9g}" for column in self.columns}
        self._file.write(",".join(self.last.values()) + "\n")

    def flush(self) -> None:
        """Let readers see the rows so far."""
        try:
            self._file.flush()
        except OSError as error:
            error.filename = str(self.path)
            raise

    def sync(self) -> None:
        """Have the rows so far on the disk."""
        self.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """No more rows."""
        self._file.close()


def read_rows(path: Path) -> list[dict[str, str]]:
    """The whole rows of a log; one that is being written, or was cut off, is left out."""
    return list(_rows(path))


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        whole = (line.removesuffix("\n").replace("\r", "") for line in file if line.endswith("\n"))
        whole = (line for line in whole if len(line) < csv.field_size_limit())  # no row of ours, but damage
        yield from (row for row in csv.DictReader(whole) if None not in row and None not in row.values())


def _header(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        return file.readline(1000).rstrip("\r\n")


def _is_until(row: Mapping[str, str], iteration: int) -> bool:
    number = row["iteration"]  # after a power cut, anything may stand where the system had not written yet
    return number.isdecimal() and len(number) < 20 and int(number) <= iteration and all(map(_is_number, row.values()))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
