"""Loss curves of a run while it trains; each read parses only the rows that were added since the last one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from bytecodec.errors import InputError
from charrnn.storage.csv_log import parse_columns, read_appended
from charrnn.storage.run_dir import Run
from charrnn.viz.curves import Curve, curve, reduce_curve, round_to_digits
from charrnn.viz.units import MAX_BITS, RunKind

POINTS = 400  # per curve, about one per pixel of the page's graph
DIGITS = 4  # significant digits
EMPTY = curve(np.empty(0), np.empty(0))


class GrowingLog:
    """Iterations and losses in bits of a CSV file to which another process appends.

    A file that was replaced, as on a resume, is read from the start. A last row without a line end is read later, and
    malformed rows are skipped.
    """

    def __init__(self, path: Path, loss: str, kind: RunKind) -> None:
        self.path, self._loss, self._kind = path, loss, kind
        self._file_id = (0, 0)
        self._reset()

    def _reset(self) -> None:
        self._offset, self._header, self._curve = 0, [""], EMPTY

    def read(self) -> Curve:
        """Return all points so far; none while there is no file."""
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                if (status.st_dev, status.st_ino) != self._file_id or status.st_size < self._offset:
                    self._reset()
                self._file_id = (status.st_dev, status.st_ino)
                complete = read_appended(file, self._offset)
        except OSError:
            self._reset()
            return self._curve
        if complete:
            self._add(complete)
            self._offset += len(complete)
        return self._curve

    def _add(self, lines: bytes) -> None:
        if self._offset == 0:
            header, _, lines = lines.partition(b"\n")
            self._header = header.decode("utf-8", "replace").rstrip("\r").split(",")
        try:
            loss, factor = self._kind.column(self.path, self._header, self._loss, "bits")
            columns = [self._header.index(name) for name in ("iteration", loss)]
        except (InputError, ValueError):  # the columns are missing
            return
        rows, _ = parse_columns(lines, columns, len(self._header))
        old = self._curve
        bits = np.clip(rows[:, 1] * factor, -MAX_BITS, MAX_BITS)
        self._curve = curve(np.append(old.x, rows[:, 0]), np.append(old.y, bits))


class LiveCurves:
    """Curves of a run's losses in bits."""

    def __init__(self, run: Run) -> None:
        self._kind = RunKind.of_run(run)
        self._train = GrowingLog(run.log_file, "train_loss", self._kind)
        self._val = GrowingLog(run.val_file, "val_loss", self._kind)

    def read(self) -> dict[str, Any]:
        """Return ``low``, ``high`` and ``mean`` of the training loss at each ``iteration``, and the validations."""
        train, val = self._train.read(), self._val.read()
        rows, levels = reduce_curve(train, POINTS, max(1, len(train) // 50), DIGITS)
        return {
            "flac": self._kind.flac_bits,
            "unit": self._kind.bits_unit,
            "val": {"iteration": list(map(int, val.x)), "bits": round_to_digits(val.y, DIGITS)},
            "iteration": list(map(int, train.x[rows])),
            **levels,
        }
