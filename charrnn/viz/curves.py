"""Loss curves of runs and columns of CSV files, and their reduction to what a picture can show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bytecodec.errors import InputError
from charrnn.storage.csv_log import column_names, read_columns
from charrnn.storage.run_dir import Run
from charrnn.viz.run_kind import RunKind

Floats = NDArray[np.float64]
OnMessage = Callable[[str], object]
OnProgress = Callable[[int], object]

MAX_BITS = 1e6  # per sample; larger values are not measurements
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

    def scaled(self, factor: float) -> Curve:
        """Return the curve with y multiplied by a factor."""
        return self if factor == 1 else Curve(self.x, self.y * factor)


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
        FLAC's rate on the validation part, in the unit of the losses; None if unknown.
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
    """Return the curves of a CSV file: losses and validations of a run's log.csv, or one curve per column.

    Parameters
    ----------
    name
        Name of the file in the legend.
    x, ys
        Columns. "" selects iteration or else the first column; () selects a loss or else the second column.
    unit
        Unit of the losses: "bits", or "nats" for the loss as it was trained.

    Returns
    -------
    series, x, ys
        The curves and the columns that they show.
    """
    header = column_names(file)
    x = x or ("iteration" if "iteration" in header else header[0])
    ys = list(ys) or [next((y for y in LOSSES if y in header), header[min(1, len(header) - 1)])]
    run = Run(file.parent)
    if ys == ["train_loss"] and file.name == run.log_file.name:
        return [run_series(run, name, x, on_message, on_progress, unit)], x, ys
    kind = RunKind.of(config_or_empty(run) if file.name in (run.log_file.name, run.val_file.name) else {})
    columns = [kind.column(file, header, y, unit) if y in LOSSES else (y, 1.0) for y in ys]
    data = read_columns(file, (x, *(column for column, _ in columns)), on_message, on_progress).T
    names = [name] if len(ys) == 1 else [f"{name}, {y}" for y in ys]
    series = [
        Series(n, curve(data[0], values).scaled(factor), unit=kind.unit(unit) if y in LOSSES else "")
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
    """Return the training and validation losses of a run, over a column of both logs.

    Raises
    ------
    InputError
        log.csv is missing or has no rows yet.
    """
    kind = RunKind.of(config_or_empty(run))
    column, factor = kind.column(run.log_file, column_names(run.log_file), "train_loss", unit)
    train = curve(*read_columns(run.log_file, (x, column), on_message, on_progress).T).scaled(factor)
    val = None
    if run.val_file.is_file() and x in (header := column_names(run.val_file)):
        try:
            column, factor = kind.column(run.val_file, header, "val_loss", unit)
            val = curve(*read_columns(run.val_file, (x, column), on_message).T).scaled(factor)
        except InputError:  # before the first validation
            val = None
    return Series(name, train, val, kind.flac(flac_baseline(run), unit), kind.unit(unit))


def config_or_empty(run: Run) -> dict[str, Any]:
    """Return the contents of a run's config.json; {} if it cannot be read."""
    try:
        return run.config()
    except (InputError, OSError):
        return {}


def flac_baseline(run: Run) -> float | None:
    """Return FLAC's bits per sample on the validation part of a run; None if config.json does not hold them."""
    baselines = config_or_empty(run).get("yardsticks")
    bits = baselines.get("flac") if isinstance(baselines, dict) else None
    return float(bits) if isinstance(bits, int | float) and abs(bits) < MAX_BITS else None


def curve(x: Floats, y: Floats) -> Curve:
    """Return the points of columns (n,) that have two finite numbers, in the order of x."""
    finite = np.isfinite(x) & np.isfinite(y)
    if not finite.all():
        x, y = x[finite], y[finite]
    if np.any(x[1:] < x[:-1]):
        order = np.argsort(x, kind="stable")
        x, y = x[order], y[order]
    return Curve(np.ascontiguousarray(x), np.ascontiguousarray(y))


def spread(points: Curve, edges: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the middle, the least y and the greatest y of each column of a picture that has points.

    Parameters
    ----------
    edges
        (columns + 1,) borders of the columns in x, increasing.
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


def thinned(points: Curve, edges: Floats, most: int | None = None) -> NDArray[np.int64]:
    """Return the rows to draw a line through: about one per column between ``edges``, and both ends."""
    rows = np.searchsorted(points.x, (edges[:-1] + edges[1:]) / 2)
    rows = np.unique(np.concatenate(([0], rows.clip(0, len(points) - 1), [len(points) - 1])))
    if most is not None and len(rows) > most:
        rows = rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]
    return rows
