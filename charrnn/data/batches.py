"""Contiguous batches of a part of a corpus."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from charrnn.data.vocab import Ids

RELEASE = 1 << 26  # symbols that are read from a mapped corpus before its pages are released


@dataclass(frozen=True)
class ContextWindow:
    """The symbols that a network may read to predict symbol s: from s - max_lag to s - min_lag."""

    max_lag: int = 1
    min_lag: int = 1


NEXT_SYMBOL = ContextWindow()  # for a network that reads one symbol and predicts the next one


class ContiguousBatches:
    """Batches of a part, which is divided into N contiguous rows that are read in parallel.

    A batch is a function of the position in the rows, counted in symbols, so one integer is enough to resume a run.
    Targets are the inputs shifted by one. The rest after the last complete batch is dropped, as in torch-rnn. If
    the corpus is mapped from disk, only the last `RELEASE` symbols stay in memory.

    The length of a row is a multiple of ``multiple``, the sequence length T of a batch. The rows of worker ``rank`` of
    ``world`` are the slice ``own`` of the N, an equal share.

    With a longer ``context``, T targets have max_lag - min_lag + T inputs, and the first inputs of a row are the last
    symbols of the row before it. The targets of the rows are contiguous.
    """

    def __init__(
        self, ids: Ids, n: int, multiple: int = 1, rank: int = 0, world: int = 1, context: ContextWindow = NEXT_SYMBOL
    ) -> None:
        self.row_length = (len(ids) - context.max_lag) // (n * multiple) * multiple
        if self.row_length < 1:
            raise ValueError(f"{len(ids)} symbols are less than a batch of {n} x {multiple} + {context.max_lag}")
        self.own = slice(rank * n // world, (rank + 1) * n // world)
        shape, (size,) = (n, self.row_length + context.max_lag), ids.strides
        rows = as_strided(ids, shape, (self.row_length * size, size), writeable=False)  # rows overlap by max_lag
        self._rows, self._rest = rows[self.own], ids[None, n * self.row_length :]
        self.rows = self._rows.shape[0]
        self.context = context
        self._dtype = np.int16 if ids.dtype == np.int16 else np.int64  # types that torch accepts: samples, or ids
        self._map = _mapped_file(ids)
        self._read = 0

    def at(self, position: int, steps: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return inputs (N, max_lag - min_lag + steps) and targets (N, steps) from ``position`` on.

        At the end of the rows, the position wraps around to their beginning.
        """
        start = position % self.row_length
        self._read += self.rows * steps
        if self._map is not None and self._read > RELEASE:
            self._read = 0
            self._map.madvise(mmap.MADV_DONTNEED)  # releases the pages, which are mapped again when needed
        return self._pair(self._rows[:, start : start + self.context.max_lag + steps])

    def rest(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return inputs and targets of the rest after the last row, (1, ·)."""
        return self._pair(self._rest)

    def _pair(self, piece: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        max_lag, min_lag = self.context.max_lag, self.context.min_lag
        return piece[:, : piece.shape[1] - min_lag].astype(self._dtype), piece[:, max_lag:].astype(self._dtype)


def _mapped_file(ids: Ids) -> mmap.mmap | None:
    """Return the mapped file that an array is a view of; None if there is none, or the system has no madvise."""
    base: object = ids
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED") else None
