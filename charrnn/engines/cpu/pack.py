"""A network's weights laid out as `cpu_kernel.c` takes them."""

from __future__ import annotations

from collections.abc import Mapping
from ctypes import byref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bytecodec.errors import InputError
from charrnn.engines.cpu.library import Layer, Matrix, Network, UnavailableError, library

Floats = NDArray[np.float32]

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
TINY, SMALL = 400_000, 2_000_000  # weights that fit in a core's own cache as fp32, and as bytes
LANES = 16
TILE = 4 * LANES
MOST_INPUTS = 1 << 16  # more could overflow 32 bits
TABLE_BYTES = 1 << 26  # up to which the first layer's products with all embeddings are kept instead of its weights


class PackedNetwork:
    """A network as the kernel runs it.

    Attributes
    ----------
    network
        What the kernel is given; its addresses are of arrays that live as long as this.
    units, outputs
        Of a layer, with what pads them: of its cells, and of what it hands on.

    Parameters
    ----------
    tensors
        The weights by the names of a checkpoint, float32.
    config
        A `charrnn.models.config.ModelConfig` of a cell in `CELLS`.
    precision
        A name in `FORMATS`; auto: int4.5; int7 with less than `SMALL` weights, fp32 with less than `TINY`.

    Raises
    ------
    UnavailableError
        The kernel was not built, or cannot run such a network.
    InputError
        Weights are not finite.
    """

    def __init__(self, tensors: Mapping[str, Floats], config: Any, precision: str = "auto") -> None:
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
            weights = sum(array.size for array in tensors.values())
            precision = "fp32" if weights < TINY else "int7" if weights < SMALL else "int4.5"
        self._config = config
        self._packer = Packer()
        self.units = padded_units(config.cell, config.rnn_size)
        self.outputs = padded(config.proj_size, TILE) if config.cell == "lstmp" else self.units
        floats = {name: np.asarray(tensor, dtype=np.float32) for name, tensor in tensors.items()}
        self.network = self._pack(floats, *FORMATS[precision])

    def _pack(self, tensors: Mapping[str, Floats], below: int, itself: int) -> Network:
        config, packer = self._config, self._packer
        gates = GATES[config.cell]
        layers = (Layer * config.layers)()
        size = padded(config.wordvec_size, LANES)
        embedding = grown(tensors["embedding.weight"], (config.vocab_size, size))
        network = Network(config.vocab_size, config.layers, size)
        for i, layer in enumerate(layers):
            part = f"layers.{i}."
            weights = by_units(tensors[part + "weight_ih_l0"], config.cell, size)
            bias = by_units(tensors[part + "bias_ih_l0"][:, None], config.cell, 1)[:, 0]
            layer.cell, layer.units, layer.outputs = CELLS.index(config.cell), self.units, self.outputs
            width = gates if gates > 1 else 4
            if i == 0 and 4 * config.vocab_size * len(weights) <= TABLE_BYTES:
                network.table = packer.table(embedding, weights, bias)
            else:
                layer.input = packer.matrix(weights, width, below)
                layer.bias = packer.address(bias)
            size = self.outputs
            recurrent = by_units(tensors[part + "weight_hh_l0"], config.cell, size)
            layer.recurrent = packer.matrix(recurrent, width, itself)
            if config.cell == "gru":
                back = by_units(tensors[part + "bias_hh_l0"][:, None], config.cell, 1)[:, 0]
                layer.recurrent_bias = packer.address(back)
            if config.cell == "lstmp":
                projection = grown(tensors[part + "weight_hr_l0"], (size, self.units))
                layer.projection = packer.matrix(projection, 4, itself)
            if config.layer_norm:
                gain, offset = tensors[f"norms.{i}.weight"], tensors[f"norms.{i}.bias"]
                layer.norm_size, layer.epsilon = len(gain), 1e-5
                layer.gain = packer.address(grown(gain, (size,)))
                layer.offset = packer.address(grown(offset, (size,)))
        if not network.table:
            network.embedding = packer.address(embedding)
        rows = padded(config.vocab_size, TILE)
        output = grown(tensors["output.weight"], (rows, size))
        network.output = packer.matrix(
            output, 4, min(below, FORMATS["bf16"][0])
        )  # few weights, and all are heard at once
        bias = np.full(rows, -1e30, dtype=np.float32)  # of symbols that there are not
        bias[: config.vocab_size] = tensors["output.bias"]
        network.output_bias = packer.address(bias)
        network.layer = layers
        return network


def padded_units(cell: str, units: int) -> int:
    """Units of a layer as the kernel has them."""
    return padded(units, TILE if cell == "rnn" else LANES)


def by_units(rows: Floats, cell: str, inputs: int) -> Floats:
    """Rows (gates * units, inputs or fewer) in the kernel's order: all gates of 16 units, and then of the next."""
    gates = GATES[cell]
    more = padded_units(cell, len(rows) // gates)
    larger = grown(rows.reshape(gates, len(rows) // gates, -1), (gates, more, inputs))
    blocks = larger.reshape(gates, more // LANES, LANES, inputs).swapaxes(0, 1)
    return np.ascontiguousarray(blocks).reshape(-1, inputs)


def padded(size: int, multiple: int) -> int:
    """The next multiple."""
    return -(-size // multiple) * multiple


def grown(array: Floats, shape: tuple[int, ...]) -> Floats:
    """An array with zeros after its ends."""
    larger = np.zeros(shape, dtype=np.float32)
    larger[tuple(slice(n) for n in array.shape)] = array
    return larger


class Packer:
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

    def matrix(self, rows: Floats, width: int, form: int) -> Matrix:
        """Rows (16 n, inputs) as tiles of so many times 16, in one of the kernel's formats."""
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        m = Matrix(len(rows) // LANES, width, rows.shape[1], form)
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
