"""Contiguous batches of a part of a corpus."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from charrnn.data.vocab import Ids

RELEASE = 1 << 26  # symbols that are read from a mapped corpus before its pages are given back


@dataclass(frozen=True)
class ContextWindow:
    """Which symbols a network may read to predict symbol s: from s - max_lag to s - min_lag."""

    max_lag: int = 1
    min_lag: int = 1


NEXT_SYMBOL = ContextWindow()  # of a network that reads one symbol and predicts the one after it


class ContiguousBatches:
    """The batches of a part: N rows that lie end to end in it, read side by side.

    A batch is a function of the position in the rows, counted in symbols, so that a run is resumed by one
    integer; targets are the inputs shifted by one. What is left after the last whole batch is dropped, as in
    torch-rnn. Of a corpus that is mapped from disk, only what was read lately stays in the process's memory.

    With another ``context`` the rows are cut so that the targets lie end to end: what the first ones of a row are
    predicted from is the end of the row before.

    Parameters
    ----------
    ids
        (n,) symbols.
    n
        N, the number of rows.
    multiple
        A row's length is a multiple of this: the number of steps T of a batch.
    rank, world
        Which of how many workers this is: it gets rows ``rank * N / world`` and on, the slice ``own`` of the N.
    context
        Inputs of a target: m targets have max_lag - min_lag + m inputs.
    """

    def __init__(
        self, ids: Ids, n: int, multiple: int = 1, rank: int = 0, world: int = 1, context: ContextWindow = NEXT_SYMBOL
    ) -> None:
        self.row_length = (len(ids) - context.max_lag) // (n * multiple) * multiple
        if self.row_length < 1:
            raise ValueError(f"{len(ids)} symbols are less than a batch of {n} x {multiple} + {context.max_lag}")
        self.own = slice(rank * n // world, (rank + 1) * n // world)
        shape, (size,) = (n, self.row_length + context.max_lag), ids.strides
        rows = as_strided(ids, shape, (self.row_length * size, size), writeable=False)  # each laps over the next by far
        self._rows, self._rest = rows[self.own], ids[None, n * self.row_length :]
        self.rows = self._rows.shape[0]
        self.context = context
        self._dtype = np.int16 if ids.dtype == np.int16 else np.int64  # what torch takes: samples, or ids
        self._map = _map_below(ids)
        self._read = 0

    def at(self, position: int, steps: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return inputs (N, max_lag - min_lag + steps) and targets (N, steps) from ``position`` on; rows repeat from
        their beginning."""
        start = position % self.row_length
        self._read += self.rows * steps
        if self._map is not None and self._read > RELEASE:
            self._read = 0
            self._map.madvise(mmap.MADV_DONTNEED)  # the system may keep them as cache; they are mapped again if needed
        return self._pair(self._rows[:, start : start + self.context.max_lag + steps])

    def rest(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Inputs and targets of what follows the last row and fills no rows, (1, ·)."""
        return self._pair(self._rest)

    def _pair(self, piece: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        max_lag, min_lag = self.context.max_lag, self.context.min_lag
        return piece[:, : piece.shape[1] - min_lag].astype(self._dtype), piece[:, max_lag:].astype(self._dtype)


def _map_below(ids: Ids) -> mmap.mmap | None:
    """The file in memory that an array is a part of, where there is one and the system can be told what it needs."""
    below: object = ids
    while isinstance(below, np.ndarray):
        below = below.base
    return below if isinstance(below, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED") else None
