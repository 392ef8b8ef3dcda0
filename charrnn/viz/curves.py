"""Loss curves of runs and columns of CSV files, and their reduction to the resolution of a picture."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bytecodec.errors import InputError
from charrnn.storage.csv_log import column_names, read_columns
from charrnn.storage.run_dir import Run
from charrnn.viz.units import RunKind

Floats = NDArray[np.float64]
OnMessage = Callable[[str], object]
OnProgress = Callable[[int], object]

LOSSES = ("train_loss", "loss", "val_loss")  # columns that are drawn if none is named
MAX_POINTS = 4096  # of a rolling median, each of which sorts a window


def ignore(_: object) -> None:
    """Ignore a message or a progress report."""


@dataclass(frozen=True)
class Curve:
    """Points (n,) in the order of x; all are finite."""

    x: Floats
    y: Floats

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Series:
    """Curves of one run or column.

    Attributes
    ----------
    name
        Name in the legend.
    train
        One point per row.
    val
        One point per validation; None if there is no validation.
    flac
        FLAC's bits per sample of the validation part, in the unit of the losses; None if unknown.
    unit
        Unit of y if it is a loss, such as "nats per symbol"; "" for other columns.
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
    on_message: OnMessage = ignore,
    on_progress: OnProgress = ignore,
    unit: str = "nats",
) -> tuple[list[Series], str, list[str]]:
    """Return the curves of a CSV file, and the columns x and ys that they show.

    A run's log.csv gives its losses and validations, another file one curve per column. By default, x is iteration or
    else the first column, and ys a loss or else the second column. ``name`` is that in the legend. The unit of losses
    is "bits", or "nats" for the loss as it was trained.
    """
    header = column_names(file)
    x = x or ("iteration" if "iteration" in header else header[0])
    ys = list(ys) or [next((y for y in LOSSES if y in header), header[min(1, len(header) - 1)])]
    run = Run(file.parent)
    if ys == ["train_loss"] and file.name == run.log_file.name:
        return [run_series(run, name, x, on_message, on_progress, unit)], x, ys
    is_log = file.name in (run.log_file.name, run.val_file.name)
    kind = RunKind.of_run(run, on_message) if is_log else RunKind.of({})
    columns = [kind.column(file, header, y, unit) if y in LOSSES else (y, 1.0) for y in ys]
    data = read_columns(file, (x, *(column for column, _ in columns)), on_message, on_progress).T
    names = [name] if len(ys) == 1 else [f"{name}, {y}" for y in ys]
    series = [
        Series(n, curve(data[0], factor * values), unit=kind.unit(unit) if y in LOSSES else "")
        for n, y, values, (_, factor) in zip(names, ys, data[1:], columns, strict=True)
    ]
    return series, x, ys


def run_series(
    run: Run,
    name: str,
    x: str = "iteration",
    on_message: OnMessage = ignore,
    on_progress: OnProgress = ignore,
    unit: str = "nats",
) -> Series:
    """Return the losses of a run over a column of both logs, or raise InputError if log.csv has no rows yet."""
    kind, val = RunKind.of_run(run, on_message), None

    def read(file: Path, loss: str, on_progress: OnProgress) -> Curve:
        column, factor = kind.column(file, column_names(file), loss, unit)
        xs, losses = read_columns(file, (x, column), on_message, on_progress).T
        return curve(xs, factor * losses)

    train = read(run.log_file, "train_loss", on_progress)
    if run.val_file.is_file() and x in column_names(run.val_file):
        with contextlib.suppress(InputError):  # raised before the first validation
            val = read(run.val_file, "val_loss", ignore)
    return Series(name, train, val, kind.flac(unit), kind.unit(unit))


def curve(x: Floats, y: Floats) -> Curve:
    """Return the points of columns (n,) that have two finite numbers, in the order of x."""
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    if np.any(x[1:] < x[:-1]):
        order = np.argsort(x, kind="stable")
        x, y = x[order], y[order]
    return Curve(x, y)


def spread(points: Curve, edges: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the middle, the least y and the greatest y of each column of a picture that has points.

    ``edges`` (columns + 1,) are the borders of the columns in x, increasing.
    """
    first = np.searchsorted(points.x, edges[:-1], "left")
    last = np.append(first[1:], np.searchsorted(points.x, edges[-1], "right"))
    has_points = last > first
    starts = first[has_points]
    if not len(starts):
        return np.empty(0), np.empty(0), np.empty(0)
    inside = points.y[: last[has_points][-1]]
    middle = (edges[:-1] + edges[1:])[has_points] / 2
    return middle, np.minimum.reduceat(inside, starts), np.maximum.reduceat(inside, starts)


def reduce_curve(
    points: Curve, columns: int, window: int, digits: int, log_x: bool = False
) -> tuple[NDArray[np.int64], dict[str, list[float]]]:
    """Return the rows of a curve to draw, and the low, high and mean of y at them, as rounded numbers for JSON.

    A curve of more than 2 ``columns`` points is reduced to one per column, with ``log_x`` also of a logarithmic axis.
    The rows depend on x alone.
    """
    rows, low, high = np.arange(len(points)), points.y, points.y
    if len(points) > 2 * columns:
        first, last = points.x[0], points.x[-1]
        edges = np.linspace(first, last, columns)
        if log_x:
            edges = np.unique(np.concatenate((edges, np.geomspace(max(1.0, first), last, columns))))
        middle, low, high = spread(points, edges)
        rows = np.searchsorted(points.x, middle).clip(0, len(points) - 1)
    values = {"low": low, "high": high, "mean": rolling(points, rows, window) if len(rows) else low}
    return rows, {name: round_to_digits(ys, digits) for name, ys in values.items()}


def round_to_digits(values: Floats, digits: int) -> list[float]:
    """Return numbers with a count of significant digits."""
    return [float(f"{value:.{digits}g}") for value in values]


def rolling(points: Curve, at: NDArray[np.integer[Any]], window: int, kind: str = "mean") -> Floats:
    """Return the mean or median of y in a window around each row of ``at`` (m,).

    At the beginning the window shrinks on both sides, so that a steep beginning stays steep. At the end only its right
    side is cut, because the last few points alone would be noisy.
    """
    rows = np.asarray(at, np.int64)
    half = np.minimum(rows, max(0, window // 2))
    first, end = rows - half, np.minimum(rows + half + 1, len(points))
    if kind == "median":
        return np.array([np.median(points.y[a:b]) for a, b in zip(first, end, strict=True)])
    level = points.y.mean()  # subtracted first, so that the sums stay small and exact
    sums = np.concatenate(([0.0], np.cumsum(points.y - level)))
    return np.asarray((sums[end] - sums[first]) / (end - first) + level)


def thin_curve(points: Curve, edges: Floats, limit: int | None = None) -> NDArray[np.int64]:
    """Return the rows to draw a line through: about one per column between ``edges``, and both ends."""
    rows = np.searchsorted(points.x, (edges[:-1] + edges[1:]) / 2)
    rows = np.unique(np.concatenate(([0], rows.clip(0, len(points) - 1), [len(points) - 1])))
    if limit is not None and len(rows) > limit:
        rows = rows[np.linspace(0, len(rows) - 1, limit).astype(np.int64)]
    return rows
