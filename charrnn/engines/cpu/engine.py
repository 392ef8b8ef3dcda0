"""Compiled engine, which runs blocks of symbols in the kernel."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from ctypes import c_void_p
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charrnn.engines.base import NOTHING, Engine, EngineState, Ids, score_every_symbol
from charrnn.engines.cpu.autotune import ThreadAutotuner
from charrnn.engines.cpu.library import Work, chosen_variant, run
from charrnn.engines.cpu.pack import Floats, PackedNetwork, grown

SCORE_ROWS = 64


class CpuEngine(Engine):
    """Engine that runs a network in the compiled kernel; see `charrnn.engines.base.Engine`.

    A stream's symbols depend neither on the number of streams nor on that of threads, to the last bit.

    Parameters
    ----------
    tensors
        Weights by the names of a checkpoint, float32.
    config
        A `charrnn.models.config.ModelConfig`.
    precision
        Precision of the weights, as of `PackedNetwork`. With integer weights, inputs of layers are rounded to 8 bits.
    threads
        Number of threads; 0: up to 8, as many as are the fastest at the time.

    Raises
    ------
    UnavailableError, InputError
        As of `PackedNetwork`.
    """

    def __init__(
        self, tensors: Mapping[str, Floats], config: Any, streams: int = 1, precision: str = "auto", threads: int = 0
    ) -> None:
        super().__init__(config, streams)
        self._config = config
        self._variant = chosen_variant()
        self._packed = PackedNetwork(tensors, config, precision)
        self._autotuner = ThreadAutotuner(threads)
        self.reset()

    def reset(self) -> None:
        """Reset all streams to the zero state without a last symbol."""
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
        padded_sizes = (self._packed.outputs, self._packed.units)
        return tuple(
            tuple(np.zeros((n, size), dtype=np.float32) for size, _ in zip(padded_sizes, sizes, strict=False))
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
        """Run the kernel on n streams; it changes their state and last symbols (n,) in place."""
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
        with self._autotuner.measured(steps * n) as threads:
            run(self._variant, self._packed.network, work, threads)
