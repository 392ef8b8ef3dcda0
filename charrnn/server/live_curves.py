"""A run's curves while it trains: each look reads only what was added since the last."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bytecodec.errors import InputError
from charrnn.storage.csv_log import parse_columns, read_appended
from charrnn.storage.run_dir import Run
from charrnn.viz.curves import MOST_BITS, Curve, config_of, curve, flac_of, loss_column, loss_unit, rolling, spread

POINTS = 400  # of a curve: what a page's width can show
DIGITS = 4
NOTHING = curve(np.empty(0), np.empty(0))


class GrowingLog:
    """Iterations and losses in bits of a CSV file that another process appends to.

    A file that was replaced, as a resumed run replaces it, is read anew. A last row without a line end is
    read once it has one; incomplete rows are left out.
    """

    def __init__(self, path: Path, loss: str, config: Mapping[str, Any]) -> None:
        self.path, self._loss, self._config = path, loss, config
        self._file = (0, 0)
        self._forget()

    def _forget(self) -> None:
        self._read, self._header, self._curve = 0, [""], NOTHING

    def look(self) -> Curve:
        """All points so far; none while there is no file."""
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                if (status.st_dev, status.st_ino) != self._file or status.st_size < self._read:
                    self._forget()
                self._file = (status.st_dev, status.st_ino)
                whole = read_appended(file, self._read)
        except OSError:
            self._forget()
            return self._curve
        if whole:
            self._add(whole)
            self._read += len(whole)
        return self._curve

    def _add(self, lines: bytes) -> None:
        if self._read == 0:
            header, _, lines = lines.partition(b"\n")
            self._header = header.decode("utf-8", "replace").rstrip("\r").split(",")
        try:
            loss, factor = loss_column(self.path, self._header, self._loss, "bits", self._config)
            places = [self._header.index(name) for name in ("iteration", loss)]
        except (InputError, ValueError):  # the columns are missing
            return
        if not lines:
            return
        rows, _ = parse_columns(lines, places, len(self._header))
        old = self._curve
        bits = np.clip(rows[:, 1] * factor, -MOST_BITS, MOST_BITS)
        self._curve = curve(np.append(old.x, rows[:, 0]), np.append(old.y, bits))


class GrowingCurves:
    """Curves of a run's losses in bits for a page; ``unit`` is their full unit."""

    def __init__(self, run: Run) -> None:
        self._run, self._config = run, config_of(run)
        self._train = GrowingLog(run.log_file, "train_loss", self._config)
        self._val = GrowingLog(run.val_file, "val_loss", self._config)

    def look(self) -> dict[str, Any]:
        """Lists: of the training loss at ``iteration`` the ``low``, ``high`` and ``mean``, and of the validations."""
        train, val = self._train.look(), self._val.look()
        found: dict[str, Any] = {"flac": flac_of(self._run), "unit": loss_unit(self._config, "bits")}
        found["val"] = {"iteration": _whole(val.x), "bits": _short(val.y)}
        if len(train) > 2 * POINTS:
            edges = np.linspace(train.x[0], train.x[-1], POINTS)
            x, low, high = spread(train, edges)
            rows = np.searchsorted(train.x, x).clip(0, len(train) - 1)
        else:
            x, low, high, rows = train.x, train.y, train.y, np.arange(len(train))
        mean = rolling(train, rows, max(1, len(train) // 50)) if len(train) else train.y
        return found | {"iteration": _whole(x), "low": _short(low), "high": _short(high), "mean": _short(mean)}


def _whole(values: NDArray[np.float64]) -> list[int]:
    return [int(value) for value in values]


def _short(values: NDArray[np.float64]) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values]
