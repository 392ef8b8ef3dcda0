"""Base class of engines: the interface, and the checks of its arguments."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bytecodec.arguments import check_array, check_integers, check_number, check_whole
from bytecodec.errors import InputError
from charrnn.engines.level import LevelControl
from charrnn.models.config import (
    LEVEL_BLOCK,
    LEVEL_STATE,
    SILENCE_ID,
    ModelConfig,
    check_stream,
    hidden_sizes,
    state_sizes,
)

NO_SYMBOL = -1  # last symbol of a stream that has none yet
FIRST_SCALE = 12.0  # of the distribution of first samples
ROWS = 256  # symbols that are scored together in kernels that only score given symbols
BELOW_1 = np.float32(1 - 2**-24)  # the largest float32 less than 1

Ids = NDArray[np.int64]
EngineState = tuple[tuple[NDArray[np.float32], ...], ...]  # per layer, a tuple of (N, ·)


class Engine(ABC):
    """Engine of N streams of a network, each with its own state. Arguments and results are numpy arrays.

    A stream consists of its hidden state and its last symbol, which the network has not read yet; before the first
    symbol it is `NO_SYMBOL`. With predictions, the state ends with that of the level control. An engine copies the
    arrays that it receives and returns. The first symbol is drawn from `first_weights`.

    The public methods check their arguments, once per block of symbols. The computation is in the methods whose names
    begin with an underscore, which receive arrays of the right shape, type and range. An argument of the wrong shape,
    type or range is an InputError.
    """

    streams: int
    vocab_size: int
    calibration = 1.0  # factor of temperatures, from the checkpoint
    level_control: LevelControl | None = None  # of networks with predictions, if the checkpoint has the level
    restarts = 0  # of streams from silence, because they were too loud

    def __init__(self, config: ModelConfig, streams: int) -> None:
        self.streams = check_whole("streams", streams, 1)
        self.vocab_size = config.vocab_size
        self._config, self._hidden_sizes = config, hidden_sizes(config)

    def prime(self, ids: NDArray[np.integer[Any]]) -> None:
        """Feed ids (N, P), which are not output; the next symbol follows them."""
        symbols = self._check_ids(ids)
        self._check_streams("ids", len(symbols))
        if not symbols.shape[1]:
            return
        self._prime(symbols)
        start = 0
        while self.level_control and start < symbols.shape[1]:
            block = symbols[:, start : start + self.level_control.remaining()]
            self.level_control.update(block)
            start += block.shape[1]

    def run(self, u: NDArray[np.float32], temperature: float) -> Ids:
        """Return the next symbols, ids (N, T), for uniform numbers u (T, N) in [0, 1).

        A symbol is drawn by inverse CDF from softmax(logits / temperature): it is the first one with which
        the sum of the probabilities exceeds u. Temperature 0 selects the likeliest one. The temperature is multiplied
        by the checkpoint's calibration and the factors of the level control, which fades out streams that are too loud
        and lets them restart from silence.
        """
        numbers, temperature = self._check_uniforms(u), check_number("temperature", temperature, 0)
        if not self.level_control:
            return self._run(numbers, self._controlled(temperature))
        ids = np.empty((self.streams, len(numbers)), dtype=np.int64)
        start = 0
        while start < len(numbers):
            block = slice(start, start + self.level_control.remaining())
            fading = self.level_control.fading()
            drawn = self._run(numbers[block], self._controlled(temperature))
            ids[:, block] = self.level_control.fade(drawn) if fading.any() else drawn
            self.level_control.update(drawn)
            if fading.any() and self.level_control.remaining() == LEVEL_BLOCK:
                self._restart(fading)
            start = block.stop
        return ids

    def score(self, ids: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
        """Return log-probabilities (N, T-1) in nats of ids (N, T) from the second on, each given those before it.

        They start from the zero state. N is arbitrary, and the streams do not change.
        """
        symbols = self._check_ids(ids)
        if not len(symbols) or symbols.shape[1] < 2:
            return np.empty((len(symbols), max(0, symbols.shape[1] - 1)))
        return self._score(symbols)

    def probabilities(self, temperature: float = 1.0) -> NDArray[np.float32]:
        """Return the probabilities (N, V) of the next symbol of each stream given what it has read.

        They are those that `run` draws from at this temperature: at 0 the likeliest symbol has 1, and before the
        first symbol the temperature has no effect. The streams do not change.
        """
        temperatures = self._controlled(check_number("temperature", temperature, 0))
        if (self._get_state()[1] == NO_SYMBOL).any():
            first = first_weights(self._config)
            return np.tile(first / first.sum(), (self.streams, 1)).astype(np.float32)
        logits = self._logits()
        if temperature == 0:
            return np.asarray(np.arange(self.vocab_size) == logits.argmax(axis=1)[:, None], dtype=np.float32)
        weights = exponentials(logits, temperatures[:, None])
        return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)

    def get_state(self) -> tuple[EngineState, Ids]:
        """Return a copy of the hidden state and the last symbols (N,), for `set_state`."""
        state, last = self._get_state()
        if self._config.predictors:
            level = np.zeros((self.streams, LEVEL_STATE), dtype=np.float32)
            state = (*state, (self.level_control.state.copy() if self.level_control else level,))
        return state, last

    def set_state(self, state: EngineState, last: NDArray[np.integer[Any]]) -> None:
        """Continue from a result of `get_state` of this engine or another one of the same network."""
        symbols = check_integers("last", last, 1)
        self._check_streams("a state", len(symbols))
        self._check_range(symbols, NO_SYMBOL)
        if len({*(symbols == NO_SYMBOL).tolist()}) > 1:
            raise InputError(f"last has both symbols and {NO_SYMBOL}: all streams must have begun, or none.")
        checked = self._check_state(state)
        if self._config.predictors:
            *hidden, (level,) = checked
            checked = tuple(hidden)
            if self.level_control:
                self.level_control.state = level
        self._set_state(checked, symbols.astype(np.int64))

    def reset(self) -> None:
        """Reset all streams to the zero state without a last symbol."""
        self._set_state(self._zero_state(self.streams), np.full(self.streams, NO_SYMBOL, dtype=np.int64))
        if self.level_control:
            self.level_control.state[:] = 0

    def _restart(self, streams: NDArray[np.bool_]) -> None:
        """Reset some streams (N,) to the zero state after a silent symbol."""
        self.restarts += int(streams.sum())
        state, last = self.get_state()
        for array in chain.from_iterable(state):
            array[streams] = 0
        last[streams] = SILENCE_ID
        self.set_state(state, last)

    def _controlled(self, temperature: float) -> NDArray[np.float64]:
        """Return the temperatures (N,) of the streams, calibrated and controlled."""
        factors = self.level_control.factors() if self.level_control else np.ones(self.streams)
        return self.calibration * temperature * factors

    # -- computation --------------------------------------------

    @abstractmethod
    def _prime(self, ids: Ids) -> None:
        """Read ids (N, P), P >= 1."""

    @abstractmethod
    def _run(self, u: NDArray[np.float32], temperatures: NDArray[np.float64]) -> Ids:
        """Return the next symbols (N, T) for u (T, N) at temperatures (N,), which are all 0 or all above it."""

    @abstractmethod
    def _score(self, ids: Ids) -> NDArray[np.float64]:
        """Return log-probabilities (n, T-1) for ids (n, T), T >= 2."""

    @abstractmethod
    def _logits(self) -> NDArray[np.float64]:
        """Return the logits (N, V) of the next symbols, up to a constant per stream; all streams have begun."""

    @abstractmethod
    def _get_state(self) -> tuple[EngineState, Ids]:
        """Return a copy of the state without that of the level control, and the last symbols (N,)."""

    @abstractmethod
    def _set_state(self, state: EngineState, last: Ids) -> None:
        """Continue from a state; the engine may keep the arrays."""

    def _zero_state(self, n: int) -> EngineState:
        return tuple(tuple(np.zeros((n, size), dtype=np.float32) for size in sizes) for sizes in self._hidden_sizes)

    # -- checks -------------------------------------------------------------

    def _check_ids(self, ids: Any) -> Ids:
        """Return ids (n, T) of this network as int64."""
        symbols = check_integers("ids", ids, 2)
        self._check_range(symbols, 0)
        return np.ascontiguousarray(symbols, dtype=np.int64)

    def _check_uniforms(self, u: Any) -> NDArray[np.float32]:
        numbers = check_array("u", u, 2)
        self._check_streams("numbers", numbers.shape[1])
        if numbers.dtype.kind != "f" and numbers.size:
            raise InputError(f"u is an array of {numbers.dtype}; it must be float32.")
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < 1:  # false for NaN, too
            raise InputError(f"u has numbers from {numbers.min():g} to {numbers.max():g}; they must be in [0, 1).")
        if numbers.dtype != np.float32:
            numbers = np.minimum(numbers.astype(np.float32), BELOW_1)
        return numbers

    def _check_state(self, state: Any) -> EngineState:
        """Return a copy of a state of this network, as float32."""
        try:
            layers = [[np.asarray(array) for array in layer] for layer in state]
        except (TypeError, ValueError):
            raise InputError("the state is not a tuple of arrays per layer, as get_state returns it.") from None
        found = [[array.shape for array in layer] for layer in layers]
        if found != [[(self.streams, size) for size in sizes] for sizes in state_sizes(self._config)]:
            raise InputError("the state is of another network: its arrays have other shapes.")
        if any(array.dtype.kind != "f" or not np.isfinite(array).all() for layer in layers for array in layer):
            raise InputError("the state contains values that are not finite floating-point numbers.")
        try:
            check_stream(self._config, layers)
        except ValueError as error:
            raise InputError(f"{error}.") from None
        return tuple(tuple(np.array(array, dtype=np.float32, order="C") for array in layer) for layer in layers)

    def _check_streams(self, what: str, n: int) -> None:
        if n != self.streams:
            raise InputError(f"{what} of {n} streams for an engine of {self.streams}.")

    def _check_range(self, ids: NDArray[np.integer[Any]], minimum: int) -> None:
        if ids.size and not minimum <= ids.min() <= ids.max() < self.vocab_size:
            raise InputError(f"ids from {ids.min()} to {ids.max()} for a network of {self.vocab_size} symbols.")


def first_weights(config: ModelConfig) -> NDArray[np.float64]:
    """Return numbers (V,) proportional to the probabilities of a stream's first symbol.

    They are equal. For a network that reads samples they are those of Student's distribution with three degrees of
    freedom around silence, as a loud first sample would be a click in the history of its predictions.
    """
    if not config.reads_samples:
        return np.ones(config.vocab_size)
    return np.asarray((1 + ((np.arange(config.vocab_size) - SILENCE_ID) / FIRST_SCALE) ** 2) ** -2.0)


def first_symbols(config: ModelConfig, u: NDArray[np.floating[Any]]) -> Ids:
    """Return the first symbols (N,) for uniform numbers (N,) in [0, 1), by inverse CDF."""
    cumulated = first_weights(config).cumsum()
    border = u.astype(np.float64) * cumulated[-1]
    return np.asarray(np.searchsorted(cumulated, border, side="right"), dtype=np.int64)


def exponentials(logits: NDArray[np.float64], temperature: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return numbers (N, V) from 0 to 1 that are proportional to softmax(logits / temperature), for (N, 1) above 0."""
    with np.errstate(over="ignore"):  # a difference may become minus infinity, whose exponential is 0
        return np.asarray(np.exp((logits - logits.max(axis=1, keepdims=True)) / temperature))


def score_every_symbol(
    score: Callable[[EngineState, Ids, Ids], NDArray[np.float64]], state: EngineState, last: Ids, vocab_size: int
) -> NDArray[np.float64]:
    """Return log-probabilities (N, V) of every symbol as the next one, for kernels that only score given symbols.

    ``score`` returns the log-probabilities (n, 1) of ids (n, 1), given a state of n streams and their last symbols.
    """
    scores = np.empty((len(last), vocab_size))
    for k in range(len(last)):
        for start in range(0, vocab_size, ROWS):
            ids = np.arange(start, min(start + ROWS, vocab_size))
            rows = tuple(tuple(np.repeat(array[k : k + 1], len(ids), axis=0) for array in layer) for layer in state)
            scores[k, ids] = score(rows, np.full(len(ids), last[k]), ids[:, None])[:, 0]
    return scores
