"""Real time on a processor: the network packed for `cpu_kernel.c`, which runs whole blocks of symbols."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import time
from collections.abc import Iterator, Mapping
from ctypes import POINTER, byref, c_char_p, c_double, c_float, c_int, c_int32, c_int64, c_void_p
from functools import cache
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bytecodec.errors import InputError
from charrnn.engines import NOTHING, EngineState

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

VARIANT = "CHARRNN_KERNEL"  # the environment variable that forces a variant of the kernel
ANOTHER = "CHARRNN_KERNEL_LIBRARY"  # and the one that names another build of it: one with sanitizers, say
CELLS = ("lstm", "lstmp", "gru", "rnn")  # by the kernel's numbers
GATES = {"lstm": 4, "lstmp": 4, "gru": 3, "rnn": 1}
FORMATS = {  # of what a layer takes from below and of what it takes from itself, where an error comes back again
    "fp32": (0, 0),
    "bf16": (1, 1),
    "int4": (4, 4),
    "int4.5": (4, 5),
    "int5": (5, 5),
    "int6": (6, 6),
    "int7": (7, 7),
}
INTEGERS = tuple(name for name in FORMATS if name.startswith("int"))
SMALL = 2_000_000  # weights that fit in a core's own cache, where more bits cost no time
OUTPUT_BITS = 7  # of integers: a rounded logit is a wrong probability at once, and few weights are its
LANES = 16
TILE = 4 * LANES
MOST_INPUTS = 1 << 16  # more could overflow 32 bits
TABLE_BYTES = 1 << 26  # up to which the first layer's products with all embeddings are kept instead of its weights
SCORE_ROWS = 64
MOST_THREADS = 8  # that are tried: layers have some 40 tiles to share, and meeting takes its time
RETRY = 5.0  # seconds after which a number of threads that was slower is tried again


class UnavailableError(InputError):
    """The compiled engine is not there, or does not run such a network; another engine may."""


class _Matrix(ctypes.Structure):
    _fields_ = [
        ("vectors", c_int32),
        ("width", c_int32),
        ("inputs", c_int32),
        ("format", c_int32),
        ("weights", c_void_p),
        ("scale", c_void_p),
    ]


class _Layer(ctypes.Structure):
    _fields_ = [
        ("cell", c_int32),
        ("units", c_int32),
        ("outputs", c_int32),
        ("normed", c_int32),
        ("epsilon", c_float),
        ("input", _Matrix),
        ("recurrent", _Matrix),
        ("projection", _Matrix),
        ("bias", c_void_p),
        ("recurrent_bias", c_void_p),
        ("gain", c_void_p),
        ("offset", c_void_p),
    ]


class _Network(ctypes.Structure):
    _fields_ = [
        ("vocab", c_int32),
        ("layers", c_int32),
        ("embedding_size", c_int32),
        ("table", c_void_p),
        ("embedding", c_void_p),
        ("layer", POINTER(_Layer)),
        ("output", _Matrix),
        ("output_bias", c_void_p),
    ]


class _Work(ctypes.Structure):
    _fields_ = [
        ("streams", c_int64),
        ("steps", c_int64),
        ("h", c_void_p),
        ("c", c_void_p),
        ("last", c_void_p),
        ("u", c_void_p),
        ("forced", c_void_p),
        ("ids", c_void_p),
        ("scores", c_void_p),
        ("temperature", c_double),
    ]


# -- the library ------------------------------------------------------------


@cache
def library() -> ctypes.CDLL:
    """The compiled kernel.

    Raises
    ------
    UnavailableError
        It was not built.
    """
    path = os.environ.get(ANOTHER) or Path(__file__).with_name("cpu_kernel.library")
    try:
        lib = ctypes.CDLL(str(path))
    except OSError:
        raise UnavailableError(
            "the compiled engine was not built here: install charrnn again where there is a C compiler (gcc or clang)."
        ) from None
    lib.charrnn_variant.restype = c_char_p
    lib.charrnn_size.restype = c_int64
    lib.charrnn_math.argtypes = [c_int, c_int, c_int64, c_void_p, c_void_p]
    lib.charrnn_size.argtypes = [POINTER(_Matrix)]
    lib.charrnn_pack.argtypes = [POINTER(_Matrix), c_void_p, c_void_p, c_void_p]
    lib.charrnn_table.argtypes = [c_int64, c_int64, c_int64, c_void_p, c_void_p, c_void_p, c_void_p]
    lib.charrnn_run.argtypes = [c_int, POINTER(_Network), POINTER(_Work), c_int]
    return lib


def variants() -> dict[str, int]:
    """The kernel's variants that this processor can run, with their numbers, the fastest first."""
    lib = library()
    names = takewhile(bool, map(lib.charrnn_variant, count()))
    return {name.decode(): i for i, name in enumerate(names) if lib.charrnn_available(i)}


def _variant() -> int:
    known = variants()
    name = os.environ.get(VARIANT) or next(iter(known))
    if name not in known:
        raise InputError(f"{VARIANT} is {name!r}: this processor can run {', '.join(known)}.")
    return known[name]


def _cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _numbers_of_threads() -> list[int]:
    """What is worth trying: as many as there are cores, and half of it, and so on to one."""
    most = min(_cores(), MOST_THREADS)
    return [most >> halved for halved in range(most.bit_length())]


# -- packing ------------------------------------------------------------


def _padded(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _grown(array: Floats, shape: tuple[int, ...]) -> Floats:
    """An array with zeros after its ends."""
    grown = np.zeros(shape, dtype=np.float32)
    grown[tuple(slice(n) for n in array.shape)] = array
    return grown


class _Packer:
    """Lays arrays out as the kernel takes them, and keeps what the kernel is given addresses of."""

    def __init__(self) -> None:
        self.kept: list[NDArray[Any]] = []

    def address(self, array: NDArray[Any]) -> int:
        self.kept.append(array)
        return array.ctypes.data

    def table(self, embedding: Floats, rows: Floats, bias: Floats) -> int:
        """The address of embedding (V, inputs) times rows (rows, inputs), and bias (rows,)."""
        made = np.empty((len(embedding), len(rows)), dtype=np.float32)
        columns, bias = np.ascontiguousarray(rows.T), np.ascontiguousarray(bias)
        addresses = (array.ctypes.data for array in (embedding, columns, bias, made))
        library().charrnn_table(len(embedding), rows.shape[1], len(rows), *addresses)
        return self.address(made)

    def matrix(self, rows: Floats, width: int, form: int) -> _Matrix:
        """Rows (16 n, inputs) as tiles of so many times 16, in one of the kernel's formats."""
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        m = _Matrix(len(rows) // LANES, width, rows.shape[1], form)
        lib = library()
        size = lib.charrnn_size(byref(m))
        weights, scale = _aligned(size), np.zeros(len(rows), dtype=np.float32)
        if lib.charrnn_pack(byref(m), rows.ctypes.data, weights.ctypes.data, scale.ctypes.data):
            raise MemoryError
        m.weights, m.scale = self.address(weights), self.address(scale)
        return m


def _aligned(size: int) -> NDArray[np.uint8]:
    room = np.zeros(size + 4096, dtype=np.uint8)
    start = -room.ctypes.data % 4096
    return room[start : start + size]


class _Pace:
    """Which number of threads is the fastest just now.

    Several threads meet many times a symbol: where another process takes a core from one of them, all of them wait, and
    one thread alone is faster. So is it for networks of a few units.
    """

    def __init__(self, *numbers: int) -> None:
        self._tried = dict.fromkeys(numbers, -math.inf)  # when
        self._seconds = dict.fromkeys(numbers, 0.0)  # a symbol

    @contextlib.contextmanager
    def measured(self, symbols: int) -> Iterator[int]:
        """The number of threads to do some symbols with, within which this is done."""
        began = time.monotonic()
        stale = [number for number, tried in self._tried.items() if began - tried > RETRY]
        number = stale[0] if stale else min(self._seconds, key=self._seconds.__getitem__)
        yield number
        self._tried[number] = time.monotonic()
        took = (self._tried[number] - began) / symbols
        self._seconds[number] = took if stale else (3 * self._seconds[number] + took) / 4


class CpuEngine:
    """Runs a network in the compiled kernel; see `charrnn.engines.Engine` for what it does.

    Parameters
    ----------
    tensors
        The network's weights by the names of a checkpoint, float32.
    config
        A `charrnn.model.ModelConfig` of a cell in `CELLS`.
    precision
        Of the weights, a name in `FORMATS`; auto: int4.5, of a network with less than `SMALL` weights int7. With
        integers, what a layer takes is rounded to 8 bits.
    threads
        0: up to 8, as many as are the fastest just now. They have no influence on what is drawn.

    Raises
    ------
    UnavailableError
        The kernel was not built, or cannot run such a network.
    InputError
        Weights are not finite.
    """

    def __init__(
        self, tensors: Mapping[str, Floats], config: Any, streams: int = 1, precision: str = "auto", threads: int = 0
    ) -> None:
        self.streams = streams
        self.vocab_size: int = config.vocab_size
        self._config = config
        self._variant = _variant()
        if precision not in ("auto", *FORMATS):
            raise InputError(f"there is no precision {precision!r}: it is auto, {', '.join(FORMATS)}.")
        if config.cell not in CELLS:
            raise UnavailableError(
                f"the compiled engine runs {', '.join(CELLS)}, and this network is an {config.cell}."
            )
        if max(config.rnn_size, config.wordvec_size) > MOST_INPUTS:
            raise UnavailableError(f"the compiled engine takes layers of up to {MOST_INPUTS} units.")
        for name, tensor in tensors.items():
            if not np.isfinite(tensor).all():
                raise InputError(f"the network's {name} has numbers that are not finite: train it again.")
        if precision == "auto":
            precision = "int7" if sum(array.size for array in tensors.values()) < SMALL else "int4.5"
        self._packer = _Packer()
        self._units = _padded(config.rnn_size, TILE if config.cell == "rnn" else LANES)
        self._outputs = _padded(config.proj_size, TILE) if config.cell == "lstmp" else self._units
        self._network = self._pack(
            {name: np.asarray(t, dtype=np.float32) for name, t in tensors.items()}, *FORMATS[precision]
        )
        self._pace = _Pace(*([threads] if threads else _numbers_of_threads()))
        self.reset()

    def _pack(self, tensors: Mapping[str, Floats], below: int, itself: int) -> _Network:
        config, packer = self._config, self._packer
        gates = GATES[config.cell]
        layers = (_Layer * config.layers)()
        size = _padded(config.wordvec_size, LANES)
        embedding = _grown(tensors["embedding.weight"], (config.vocab_size, size))
        network = _Network(config.vocab_size, config.layers, size)
        for i, layer in enumerate(layers):
            part = f"layers.{i}."
            weights = self._by_units(tensors[part + "weight_ih_l0"], gates, size)
            bias = self._by_units(tensors[part + "bias_ih_l0"][:, None], gates, 1)[:, 0]
            layer.cell, layer.units, layer.outputs = CELLS.index(config.cell), self._units, self._outputs
            width = gates if gates > 1 else 4
            if i == 0 and 4 * config.vocab_size * len(weights) <= TABLE_BYTES:
                network.table = packer.table(embedding, weights, bias)
            else:
                layer.input = packer.matrix(weights, width, below)
                layer.bias = packer.address(bias)
            size = self._outputs
            recurrent = self._by_units(tensors[part + "weight_hh_l0"], gates, size)
            layer.recurrent = packer.matrix(recurrent, width, itself)
            if config.cell == "gru":
                back = self._by_units(tensors[part + "bias_hh_l0"][:, None], gates, 1)[:, 0]
                layer.recurrent_bias = packer.address(back)
            if config.cell == "lstmp":
                projection = _grown(tensors[part + "weight_hr_l0"], (size, self._units))
                layer.projection = packer.matrix(projection, 4, itself)
            if config.layer_norm:
                gain, offset = tensors[f"norms.{i}.weight"], tensors[f"norms.{i}.bias"]
                layer.normed, layer.epsilon = len(gain), 1e-5
                layer.gain = packer.address(_grown(gain, (size,)))
                layer.offset = packer.address(_grown(offset, (size,)))
        if not network.table:
            network.embedding = packer.address(embedding)
        rows = _padded(config.vocab_size, TILE)
        output = _grown(tensors["output.weight"], (rows, size))
        network.output = packer.matrix(output, 4, below if below < 4 else OUTPUT_BITS)
        bias = np.full(rows, -1e30, dtype=np.float32)  # of symbols that there are not
        bias[: config.vocab_size] = tensors["output.bias"]
        network.output_bias = packer.address(bias)
        network.layer = layers
        return network

    def _by_units(self, rows: Floats, gates: int, inputs: int) -> Floats:
        """Rows (gates, units) of a layer in the kernel's order: all gates of 16 units, and then of the next."""
        units = self._config.rnn_size
        grown = _grown(rows.reshape(gates, units, -1), (gates, self._units, inputs))
        blocks = grown.reshape(gates, self._units // LANES, LANES, inputs).swapaxes(0, 1)
        return np.ascontiguousarray(blocks).reshape(-1, inputs)

    # -- running ------------------------------------------------------------

    def reset(self) -> None:
        """Back to the zero state with no last symbol."""
        self._streams = self._zeros(self.streams)
        self._last = np.full(self.streams, NOTHING, dtype=np.int64)

    def prime(self, ids: NDArray[np.integer[Any]]) -> None:
        """Read ids (N, P)."""
        self._check("ids", len(ids))
        symbols = self._known(ids)
        if not symbols.shape[1]:
            return
        if self._started():
            forced = symbols
        else:
            self._last, forced = symbols[:, 0].copy(), symbols[:, 1:]
        self._run(self._streams, self._last, forced.shape[1], forced=forced)
        self._last = symbols[:, -1].copy()

    def run(self, u: Floats, temperature: float) -> Ids:
        """The next symbols (N, T) for uniform numbers u (T, N)."""
        self._check("numbers", u.shape[1])
        ids = np.empty((self.streams, len(u)), dtype=np.int64)
        first = 0
        if len(u) and not self._started():
            self._last = (u[0].astype(np.float64) * self.vocab_size).astype(np.int64)
            ids[:, 0], first = self._last, 1
        rest = np.empty((self.streams, len(u) - first), dtype=np.int64)
        self._run(self._streams, self._last, len(u) - first, u=u[first:], ids=rest, temperature=temperature)
        ids[:, first:] = rest
        return ids

    def score(self, ids: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
        """Log-probabilities (N, T-1) of ids (N, T) after the first."""
        scores = np.empty((len(ids), max(0, ids.shape[1] - 1)))
        for start in range(0, len(ids), SCORE_ROWS):
            rows = self._known(ids[start : start + SCORE_ROWS])
            some = np.empty((len(rows), scores.shape[1]))
            self._run(self._zeros(len(rows)), rows[:, 0].copy(), some.shape[1], forced=rows[:, 1:], scores=some)
            scores[start : start + SCORE_ROWS] = some
        return scores

    def get_state(self) -> tuple[EngineState, Ids]:
        """Hidden state and last symbols (N,)."""
        sizes = self._sizes()
        state = tuple(
            tuple(np.ascontiguousarray(array[:, :size]) for array, size in zip(layer, sizes, strict=True))
            for layer in self._streams
        )
        return state, self._last.copy()

    def set_state(self, state: EngineState, last: Ids) -> None:
        """Go on from what `get_state` gave."""
        self._check("a state", len(last))
        self._streams = tuple(
            tuple(_grown(np.asarray(array), zeros.shape) for array, zeros in zip(layer, empty, strict=True))
            for layer, empty in zip(state, self._zeros(self.streams), strict=True)
        )
        self._last = self._known(last, NOTHING)

    def _sizes(self) -> tuple[int, ...]:
        """Of each array of a layer's state, without what pads it."""
        config = self._config
        return {"lstm": (config.rnn_size,) * 2, "lstmp": (config.proj_size, config.rnn_size)}.get(
            config.cell, (config.rnn_size,)
        )

    def _zeros(self, n: int) -> EngineState:
        wide = (self._outputs, self._units)[: len(self._sizes())]
        return tuple(tuple(np.zeros((n, size), dtype=np.float32) for size in wide) for _ in range(self._config.layers))

    def _started(self) -> bool:
        return bool((self._last != NOTHING).all())

    def _run(
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
        work = _Work(n, steps, ctypes.addressof(h), ctypes.addressof(c), last.ctypes.data)
        work.u, work.forced, work.ids, work.scores = (
            None if array is None else array.ctypes.data for array in (u, forced, ids, scores)
        )
        work.temperature = temperature
        with self._pace.measured(steps * n) as threads:
            failed = library().charrnn_run(self._variant, byref(self._network), byref(work), threads)
        if failed:
            raise MemoryError

    def _known(self, ids: NDArray[np.integer[Any]], lowest: int = 0) -> Ids:
        """Ids that the kernel may look up."""
        known: Ids = np.array(ids, dtype=np.int64)
        if known.size and not lowest <= known.min() <= known.max() < self.vocab_size:
            raise ValueError(f"ids from {known.min()} to {known.max()} for a network of {self.vocab_size} symbols")
        return known

    def _check(self, what: str, n: int) -> None:
        if n != self.streams:
            raise ValueError(f"{what} of {n} streams for an engine of {self.streams}")
