"""Real time on a processor: whole blocks of symbols in `cpu_kernel.c`."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import time
from collections.abc import Iterator, Mapping
from ctypes import byref, c_void_p
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charrnn.engines.base import NOTHING, Engine, EngineState, Ids, score_every_symbol
from charrnn.engines.cpu.library import Work, chosen_variant, library
from charrnn.engines.cpu.pack import Floats, PackedNetwork, grown

SCORE_ROWS = 64
MOST_THREADS = 8  # that are tried: layers have some 40 tiles to share, and meeting takes its time
RETRY = 5.0  # seconds after which a number of threads that was slower is tried again


def _cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def numbers_of_threads() -> list[int]:
    """What is worth trying: as many as there are cores, and half of it, and so on to one."""
    most = min(_cores(), MOST_THREADS)
    return [most >> halved for halved in range(most.bit_length())]


class ThreadAutotuner:
    """Which number of threads is the fastest just now.

    Several threads meet many times a symbol: where another process takes a core from one of them, all of them wait, and
    one thread alone is faster. So is it for networks of a few units.
    """

    def __init__(self, *numbers: int) -> None:
        self._due = dict.fromkeys(numbers, -math.inf)  # when it is tried, whatever it was before
        self._seconds = dict.fromkeys(numbers, math.inf)  # a symbol

    @contextlib.contextmanager
    def measured(self, symbols: int) -> Iterator[int]:
        """The number of threads to do some symbols with, within which this is done."""
        began = time.monotonic()
        due = [number for number, at in self._due.items() if at <= began]
        number = due[0] if due else min(self._seconds, key=self._seconds.__getitem__)
        yield number
        ended, before = time.monotonic(), self._seconds[number]
        took = (ended - began) / symbols
        self._seconds[number] = took if due else (3 * before + took) / 4
        if before < math.inf:  # the first time wakes caches, and says little of those after it
            self._due[number] = ended + RETRY


class CpuEngine(Engine):
    """Runs a network in the compiled kernel; see `charrnn.engines.Engine` for what it does.

    Parameters
    ----------
    tensors
        The network's weights by the names of a checkpoint, float32.
    config
        A `charrnn.models.char_rnn.ModelConfig` of a cell in `CELLS`.
    precision
        Of the weights, a name in `FORMATS`, or auto, as `PackedNetwork` takes it. With integers, what
        a layer takes is rounded to 8 bits.
    threads
        0: up to 8, as many as are the fastest just now. They have no influence on what is drawn.

    Raises
    ------
    UnavailableError, InputError
        As `PackedNetwork` does.
    """

    def __init__(
        self, tensors: Mapping[str, Floats], config: Any, streams: int = 1, precision: str = "auto", threads: int = 0
    ) -> None:
        super().__init__(config, streams)
        self._config = config
        self._variant = chosen_variant()
        self._packed = PackedNetwork(tensors, config, precision)
        self._pace = ThreadAutotuner(*([threads] if threads else numbers_of_threads()))
        self.reset()

    # -- running ------------------------------------------------------------

    def reset(self) -> None:
        """Back to the zero state with no last symbol."""
        self._streams = self._zeros(self.streams)
        self._last = np.full(self.streams, NOTHING, dtype=np.int64)

    def _prime(self, ids: Ids) -> None:
        if self._started():
            forced = ids
        else:
            self._last, forced = ids[:, 0].copy(), ids[:, 1:]
        self._compute(self._streams, self._last, forced.shape[1], forced=forced)
        self._last = ids[:, -1].copy()

    def _run(self, u: Floats, temperature: float) -> Ids:
        ids = np.empty((self.streams, len(u)), dtype=np.int64)
        first = 0
        if len(u) and not self._started():
            self._last = (u[0].astype(np.float64) * self.vocab_size).astype(np.int64)
            ids[:, 0], first = self._last, 1
        rest = np.empty((self.streams, len(u) - first), dtype=np.int64)
        self._compute(self._streams, self._last, len(u) - first, u=u[first:], ids=rest, temperature=temperature)
        ids[:, first:] = rest
        return ids

    def _score(self, ids: Ids) -> NDArray[np.float64]:
        pieces = [ids[start : start + SCORE_ROWS] for start in range(0, len(ids), SCORE_ROWS)]
        return np.concatenate([self._score_after(self._zeros(len(p)), p[:, 0], p[:, 1:]) for p in pieces])

    def _logits(self) -> NDArray[np.float64]:
        return score_every_symbol(self._score_after, self._streams, self._last, self.vocab_size)

    def _score_after(self, state: EngineState, last: Ids, ids: Ids) -> NDArray[np.float64]:
        """Return log-probabilities (n, T) of ids (n, T) after a padded state, which is overwritten."""
        scores = np.empty(ids.shape)
        self._compute(state, last.copy(), ids.shape[1], forced=ids, scores=scores)
        return scores

    def get_state(self) -> tuple[EngineState, Ids]:
        """Return a copy of the hidden state and the last symbols (N,)."""
        state = tuple(
            tuple(array[:, :size].copy() for array, size in zip(layer, sizes, strict=True))
            for layer, sizes in zip(self._streams, self._state_sizes, strict=True)
        )
        return state, self._last.copy()

    def _set_state(self, state: EngineState, last: Ids) -> None:
        self._streams = tuple(
            tuple(grown(array, zeros.shape) for array, zeros in zip(layer, empty, strict=True))
            for layer, empty in zip(state, self._zeros(self.streams), strict=True)
        )
        self._last = last

    def _zeros(self, n: int) -> EngineState:
        """Return a state of n streams with padding."""
        wide = (self._packed.outputs, self._packed.units)
        return tuple(
            tuple(np.zeros((n, size), dtype=np.float32) for size, _ in zip(wide, sizes, strict=False))
            for sizes in self._state_sizes
        )

    def _started(self) -> bool:
        return bool((self._last != NOTHING).all())

    def _compute(
        self,
        state: EngineState,
        last: Ids,
        steps: int,
        *,
        u: Floats | None = None,
        forced: Ids | None = None,
        ids: Ids | None = None,
        scores: NDArray[np.float64] | None = None,
        temperature: float = 1.0,
    ) -> None:
        """The kernel's work on streams (n,), whose state and last symbols it changes in place."""
        if not steps:
            return
        n = len(last)
        u = None if u is None else np.ascontiguousarray(u, dtype=np.float32)
        forced = None if forced is None else np.ascontiguousarray(forced)
        h = (c_void_p * len(state))(*(layer[0].ctypes.data for layer in state))
        c = (c_void_p * len(state))(*(layer[-1].ctypes.data for layer in state))
        work = Work(n, steps, ctypes.addressof(h), ctypes.addressof(c), last.ctypes.data)
        work.u, work.forced, work.ids, work.scores = (
            None if array is None else array.ctypes.data for array in (u, forced, ids, scores)
        )
        work.temperature = temperature
        with self._pace.measured(steps * n) as threads:
            failed = library().charrnn_run(self._variant, byref(self._packed.network), byref(work), threads)
        if failed:
            raise MemoryError
