"""Compiled engine, which runs blocks of symbols in the kernel."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from ctypes import c_void_p

import numpy as np
from numpy.typing import NDArray

from charrnn.data.predictor import PERIOD
from charrnn.engines.base import NO_SYMBOL, Engine, EngineState, Ids, first_symbols, score_every_symbol
from charrnn.engines.cpu.autotune import ThreadAutotuner
from charrnn.engines.cpu.library import Work, choose_variant, run
from charrnn.engines.cpu.pack import Floats, PackedNetwork, pad_with_zeros
from charrnn.models.config import ModelConfig, map_state

SCORE_ROWS = 64


class CpuEngine(Engine):
    """Engine that runs a network in the compiled kernel; see `charrnn.engines.base.Engine`.

    A stream's symbols depend neither on the number of streams nor on that of threads, to the last bit. With integer
    weights, inputs of layers are rounded to 8 bits. Without a number of threads, up to 8 are used, as many as are the
    fastest at the time. The errors are those of `PackedNetwork`.
    """

    def __init__(
        self,
        tensors: Mapping[str, Floats],
        config: ModelConfig,
        streams: int = 1,
        precision: str = "auto",
        threads: int = 0,
    ) -> None:
        super().__init__(config, streams)
        self._variant = choose_variant()
        self.packed = PackedNetwork(tensors, config, precision)
        self._autotuner = ThreadAutotuner(threads)
        self._depth = config.layers  # of the state's tuples; one more, of samples, may follow
        self.reset()

    def _prime(self, ids: Ids) -> None:
        if self._started():
            forced = ids
        else:
            self._last, forced = ids[:, 0].copy(), ids[:, 1:]
        self._compute(self._streams, self._last, forced.shape[1], forced=forced)
        self._last = ids[:, -1].copy()

    def _run(self, u: Floats, temperatures: NDArray[np.float64]) -> Ids:
        ids = np.empty((self.streams, len(u)), dtype=np.int64)
        first = 0
        if len(u) and not self._started():
            self._last = first_symbols(self._config, u[0])
            ids[:, 0], first = self._last, 1
        rest = np.empty((self.streams, len(u) - first), dtype=np.int64)
        self._compute(self._streams, self._last, len(u) - first, u=u[first:], ids=rest, temperatures=temperatures)
        ids[:, first:] = rest
        return ids

    def _score(self, ids: Ids) -> NDArray[np.float64]:
        pieces = [ids[start : start + SCORE_ROWS] for start in range(0, len(ids), SCORE_ROWS)]
        states = (self._pad(self._zero_state(len(piece))) for piece in pieces)
        return np.concatenate([self._score_after(s, p[:, 0], p[:, 1:]) for s, p in zip(states, pieces, strict=True)])

    def _logits(self) -> NDArray[np.float64]:
        return score_every_symbol(self._score_after, self._streams, self._last, self.vocab_size)

    def _score_after(self, state: EngineState, last: Ids, ids: Ids) -> NDArray[np.float64]:
        """Return log-probabilities (n, T) of ids (n, T) after a padded state, which is overwritten."""
        scores = np.empty(ids.shape)
        self._compute(state, last.copy(), ids.shape[1], forced=ids, scores=scores)
        return scores

    def _get_state(self) -> tuple[EngineState, Ids]:
        layers = self._hidden_sizes[: self._depth]
        state = map_state(lambda array, size: array[:, :size].copy(), self._streams[: self._depth], layers)
        return (*state, *map_state(np.copy, self._streams[self._depth :])), self._last.copy()

    def _set_state(self, state: EngineState, last: Ids) -> None:
        self._streams = self._pad(state)
        self._last = last

    def _pad(self, state: EngineState) -> EngineState:
        """Return a copy of a state with the kernel's sizes; samples stay as they are."""
        sizes, layers = (self.packed.outputs, self.packed.units), state[: self._depth]
        padded = map_state(lambda array, size: pad_with_zeros(array, (len(array), size)), layers, [sizes] * len(layers))
        return (*padded, *map_state(np.copy, state[self._depth :]))

    def _started(self) -> bool:
        return bool((self._last != NO_SYMBOL).all())

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
        temperatures: NDArray[np.float64] | None = None,
    ) -> None:
        """Run the kernel on n streams; it changes their state and last symbols (n,) in place."""
        if not steps:
            return
        n = len(last)
        u = None if u is None else np.ascontiguousarray(u, dtype=np.float32)
        forced = None if forced is None else np.ascontiguousarray(forced)
        layers, kept = state[: self._depth], state[self._depth :]
        h = (c_void_p * len(layers))(*(layer[0].ctypes.data for layer in layers))
        c = (c_void_p * len(layers))(*(layer[-1].ctypes.data for layer in layers))
        work = Work(n, steps, ctypes.addressof(h), ctypes.addressof(c), last.ctypes.data)
        work.u, work.forced, work.ids, work.scores, work.temperatures = (
            None if array is None else array.ctypes.data for array in (u, forced, ids, scores, temperatures)
        )
        if kept:
            samples, phase = _sample_buffer(kept[0], steps)
            work.samples, work.phase = samples.ctypes.data, phase.ctypes.data
        with self._autotuner.measure(steps * n) as threads:
            run(self._variant, self.packed.network, work, threads)
        if kept:
            _keep_samples(kept[0], samples, steps)


def _sample_buffer(state: tuple[Floats, ...], steps: int) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
    """Return the last samples of a state with space for those that the kernel reads, and the phase (n,)."""
    last, phase = state[:2]  # (n, history), (n, 1)
    samples = np.empty((len(last), last.shape[1] + steps), dtype=np.int8)
    samples[:, : last.shape[1]] = last
    return samples, phase[:, 0].astype(np.int64)


def _keep_samples(state: tuple[Floats, ...], samples: NDArray[np.int8], steps: int) -> None:
    """Change a state to the one after the steps whose samples the kernel has appended."""
    last, phase = state[:2]
    last[:] = samples[:, steps:]
    phase[:] = (phase + steps) % PERIOD
