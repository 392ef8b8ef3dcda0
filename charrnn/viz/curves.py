"""Columns of CSV files as curves, and curves of any length as what a picture's columns of pixels can show of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bytecodec.errors import InputError
from charrnn.storage.csv_log import column_names, read_columns
from charrnn.storage.run_dir import Run, is_frames

Floats = NDArray[np.float64]
Tell = Callable[[str], object]
Done = Callable[[int], object]

BITS = 1 / math.log(2)  # a nat
MOST_BITS = 1e6  # per sample; larger values are not measurements
LOSSES = ("train_loss", "loss", "val_loss")  # what is drawn of a CSV where no column is named
IN_BITS = {"train_loss": "train_bits", "val_loss": "val_bits"}  # columns of a run's logs with the same losses in bits
UNITS = ("nats", "bits")  # nats stands for the loss as it was trained
MEAN_SQUARE = "mean squared error"
#: Units of a frame predictor's losses: by the name of the loss, and in bits.
FRAME_LOSSES = {"mse": MEAN_SQUARE, "gaussian": "nats of density a sample"}
FRAME_BITS = "bits a 16-bit sample"
MOST_POINTS = 4096  # of a rolling median: more cannot be told apart, and each looks at a whole window


def _nothing(_: object) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True)
class Curve:
    """Points (n,) in the order of x; all are finite."""

    x: Floats
    y: Floats

    def __len__(self) -> int:
        return len(self.x)

    def scaled(self, factor: float) -> Curve:
        """Return the curve with y multiplied by a factor, such as `BITS`."""
        return self if factor == 1 else Curve(self.x, self.y * factor)


@dataclass(frozen=True)
class Series:
    """What a picture shows of one run or column.

    Attributes
    ----------
    name
        For the legend.
    train
        A point a row.
    val
        A point a validation, where there is any.
    flac
        What FLAC takes for the validation part, in the unit of the losses, where it is known.
    unit
        Unit of y if it is a loss, such as "nats a symbol"; "" for other columns.
    """

    name: str
    train: Curve
    val: Curve | None = None
    flac: float | None = None
    unit: str = ""


def csv_series(
    file: Path,
    name: str,
    x: str = "",
    ys: Sequence[str] = (),
    tell: Tell = _nothing,
    done: Done = _nothing,
    unit: str = "nats",
) -> tuple[list[Series], str, list[str]]:
    """The curves of a CSV file: of a run's log.csv its losses with the validations, of another one for each column.

    Parameters
    ----------
    name
        Of the file, for the legend.
    x, ys
        Columns; "" and () for iteration, or the first column, and for a loss, or the second.
    unit
        Unit of the losses, one of `UNITS`.

    Returns
    -------
    series, x, ys
        And the columns that they are of.
    """
    header = column_names(file)
    x = x or ("iteration" if "iteration" in header else header[0])
    ys = list(ys) or [next((y for y in LOSSES if y in header), header[min(1, len(header) - 1)])]
    run = Run(file.parent)
    if ys == ["train_loss"] and file.name == run.log_file.name:
        return [run_series(run, name, x, tell, done, unit)], x, ys
    config = config_of(run) if file.name in (run.log_file.name, run.val_file.name) else {}
    read = [loss_column(file, header, y, unit, config) if y in LOSSES else (y, 1.0) for y in ys]
    columns = read_columns(file, (x, *(column for column, _ in read)), tell, done).T
    names = [name] if len(ys) == 1 else [f"{name}, {y}" for y in ys]
    series = [
        Series(n, curve(columns[0], values).scaled(factor), unit=loss_unit(config, unit) if y in LOSSES else "")
        for n, y, values, (_, factor) in zip(names, ys, columns[1:], read, strict=True)
    ]
    return series, x, ys


def curve(x: Floats, y: Floats) -> Curve:
    """The points of columns (n,) that have both numbers, in the order of x."""
    finite = np.isfinite(x) & np.isfinite(y)
    if not finite.all():
        x, y = x[finite], y[finite]
    if np.any(x[1:] < x[:-1]):
        order = np.argsort(x, kind="stable")
        x, y = x[order], y[order]
    return Curve(np.ascontiguousarray(x), np.ascontiguousarray(y))


def run_series(
    run: Run,
    name: str,
    x: str = "iteration",
    tell: Tell = _nothing,
    done: Done = _nothing,
    unit: str = "nats",
) -> Series:
    """Return the training and validation losses of a run, over a column of both logs.

    Parameters
    ----------
    unit
        One of `UNITS`. Bits are read from the logs. In nats, a frame predictor has no baseline of FLAC.

    Raises
    ------
    InputError
        log.csv is not there or has no rows yet.
    """
    config = config_of(run)
    column, factor = loss_column(run.log_file, column_names(run.log_file), "train_loss", unit, config)
    train = curve(*read_columns(run.log_file, (x, column), tell, done).T).scaled(factor)
    val = None
    if run.val_file.is_file() and x in (header := column_names(run.val_file)):
        try:
            column, factor = loss_column(run.val_file, header, "val_loss", unit, config)
            val = curve(*read_columns(run.val_file, (x, column), tell).T).scaled(factor)
        except InputError:  # before the first validation
            val = None
    flac = flac_of(run)
    if unit != "bits":
        flac = None if flac is None or is_frames(config) else flac / BITS
    return Series(name, train, val, flac, loss_unit(config, unit))


def loss_column(
    file: Path, header: Sequence[str], loss: str, unit: str, config: Mapping[str, Any]
) -> tuple[str, float]:
    """Return which column of a CSV file holds a loss in a unit, and what to multiply it by.

    charrnn-train logs each loss as it was trained and in bits. A loss in a file of another program is in nats.

    Raises
    ------
    InputError
        The file is of a frame predictor, whose loss cannot be converted, and lacks the column of bits.
    """
    if unit != "bits":
        return loss, 1.0
    if (column := IN_BITS.get(loss, "")) in header:
        return column, 1.0
    if is_frames(config):
        raise InputError(
            f"{file} has no column {column!r}, and the loss of a frame predictor cannot be converted to it."
        )
    return loss, BITS


def loss_unit(config: Mapping[str, Any], unit: str) -> str:
    """Return the full name of the unit of a run's losses, such as "bits a symbol"."""
    if not is_frames(config):
        return f"{unit} a symbol"
    if unit == "bits":
        return FRAME_BITS
    model = config.get("model")
    is_mse = isinstance(model, dict) and model.get("loss") == "mse"
    return FRAME_LOSSES["mse" if is_mse else "gaussian"]


def config_of(run: Run) -> dict[str, Any]:
    """Return a run's settings; {} for a log outside a run."""
    try:
        return run.config()
    except (InputError, OSError):
        return {}


def flac_of(run: Run) -> float | None:
    """Bits a sample that FLAC takes for the validation part of a run, where config.json says so."""
    try:
        bits = run.config().get("yardsticks", {}).get("flac")
    except (InputError, OSError, AttributeError):
        return None
    return float(bits) if isinstance(bits, int | float) and abs(bits) < MOST_BITS else None


def spread(points: Curve, edges: Floats) -> tuple[Floats, Floats, Floats]:
    """What each column of a picture spans: its middle, and the least and greatest y in it; empty columns are left out.

    Parameters
    ----------
    edges
        (columns + 1,) of the columns, in x, rising.
    """
    first = np.searchsorted(points.x, edges[:-1], "left")
    last = np.append(first[1:], np.searchsorted(points.x, edges[-1], "right"))
    there = last > first
    starts = first[there]
    if not len(starts):
        return np.empty(0), np.empty(0), np.empty(0)
    inside = points.y[: last[there][-1]]
    middle = (edges[:-1] + edges[1:])[there] / 2
    return middle, np.minimum.reduceat(inside, starts), np.maximum.reduceat(inside, starts)


def rolling(points: Curve, at: NDArray[np.integer[Any]], window: int, kind: str = "mean") -> Floats:
    """The mean or median of y in a window about each row of ``at`` (m,).

    Towards the beginning the window shrinks on both sides, so that a steep beginning stays steep; at the end, where
    the last points alone would be a matter of chance, it is cut off.
    """
    rows = np.asarray(at, np.int64)
    half = np.minimum(rows, max(0, window // 2))
    first, end = rows - half, np.minimum(rows + half + 1, len(points))
    if kind == "median":
        return np.array([np.median(points.y[a:b]) for a, b in zip(first, end, strict=True)])
    level = points.y.mean()  # taken away first, so that the sums stay small and exact
    sums = np.concatenate(([0.0], np.cumsum(points.y - level)))
    return np.asarray((sums[end] - sums[first]) / (end - first) + level)


def thinned(points: Curve, edges: Floats, most: int | None = None) -> NDArray[np.int64]:
    """The rows to draw a line through: one for each column between ``edges`` that has any, and the two ends."""
    rows = np.searchsorted(points.x, (edges[:-1] + edges[1:]) / 2)
    rows = np.unique(np.concatenate(([0], rows.clip(0, len(points) - 1), [len(points) - 1])))
    if most is not None and len(rows) > most:
        rows = rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]
    return rows
