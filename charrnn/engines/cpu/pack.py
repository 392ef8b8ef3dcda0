"""Packing of networks for the compiled kernel."""

from __future__ import annotations

from collections.abc import Mapping
from ctypes import byref, pointer
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bytecodec.errors import InputError
from charrnn.engines.cpu.library import Layer, Matrix, Network, UnavailableError, library
from charrnn.engines.cpu.predictor import for_kernel
from charrnn.models.config import (
    CELLS,
    PROJECTED_CELLS,
    ModelConfig,
    check_finite,
    sample_history,
    sample_inputs,
)

Floats = NDArray[np.float32]

KERNEL_CELLS = ("lstm", "lstmp", "gru", "rnn")  # by their numbers in kernel/layout.h
FORMATS = {  # of a layer's input matrix, and of its recurrent matrix, whose errors accumulate
    "fp32": (0, 0),
    "bf16": (1, 1),
    "int4": (4, 4),
    "int4.5": (4, 5),
    "int5": (5, 5),
    "int6": (6, 6),
    "int7": (7, 7),
}
INTEGERS = tuple(name for name in FORMATS if name.startswith("int"))
TINY, SMALL = 400_000, 2_000_000  # numbers of weights that fit in a core's own cache as fp32, and as bytes
LANES, PAGE = 16, 4096
TILE = 4 * LANES
NORM_EPSILON = 1e-5  # of torch's LayerNorm
NO_SYMBOL = -1e30  # logit of the rows that pad the output matrix
MAX_INPUTS = 1 << 16  # more could overflow 32 bits
TABLE_BYTES = 1 << 26  # up to which the first layer's products with all embeddings replace its weights


class PackedNetwork:
    """Network in the kernel's layout, from float32 weights by the names of a checkpoint.

    The addresses in ``network``, the argument of the kernel, are valid as long as this object exists; ``arrays`` has
    the arrays at these addresses. ``units`` and ``outputs`` are the padded sizes of a layer's cells and outputs, and
    ``table_factors`` the arguments of `Packer.table`, if the network has a table. ``precision`` is the one
    that was chosen if it was auto: int4.5, but int7 with less than `SMALL` weights and fp32 with less than `TINY`.

    Raise UnavailableError if the kernel was not built or does not support the network.
    """

    def __init__(self, tensors: Mapping[str, Floats], config: ModelConfig, precision: str = "auto") -> None:
        if precision not in ("auto", *FORMATS):
            raise InputError(f"there is no precision {precision!r}: it is auto, {', '.join(FORMATS)}.")
        if config.cell not in KERNEL_CELLS:
            raise UnavailableError(
                f"the compiled engine runs {', '.join(KERNEL_CELLS)}, and this network is an {config.cell}."
            )
        if max(config.rnn_size, config.wordvec_size) > MAX_INPUTS:
            raise UnavailableError(f"the compiled engine supports at most {MAX_INPUTS} units per layer.")
        check_finite(tensors)
        if precision == "auto":
            weights = sum(array.size for array in tensors.values())
            precision = "fp32" if weights < TINY else "int7" if weights < SMALL else "int4.5"
        self.precision = precision
        self._config = config
        self._packer = Packer()
        self.table_factors: tuple[Floats, Floats, Floats] | None = None
        self.units = padded_units(config.cell, config.rnn_size)
        self.outputs = round_up(config.proj_size, TILE) if config.proj_size else self.units
        floats = {name: np.asarray(tensor, dtype=np.float32) for name, tensor in tensors.items()}
        self.network = self._pack(floats, *FORMATS[precision])
        self.arrays: Mapping[int, NDArray[Any]] = self._packer.arrays

    def _pack(self, tensors: Mapping[str, Floats], input_format: int, recurrent_format: int) -> Network:
        config, packer = self._config, self._packer
        layers = (Layer * config.layers)()
        size = round_up(config.wordvec_size, LANES)
        numbers = sample_inputs(config)
        embedding = pad_with_zeros(tensors["embedding.weight"], (config.vocab_size, size))
        network = Network(config.vocab_size, config.layers, size)
        for i, layer in enumerate(layers):
            part = f"layers.{i}."
            own = {name.removeprefix(part): tensor for name, tensor in tensors.items() if name.startswith(part)}
            columns = own["weight_ih_l0"]
            if i == 0:
                columns, of_numbers = np.split(columns, [config.wordvec_size], axis=1)
            weights = by_units(columns, config.cell, size)
            bias = by_units(own["bias_ih_l0"][:, None], config.cell, 1)[:, 0]
            layer.cell, layer.units, layer.outputs = KERNEL_CELLS.index(config.cell), self.units, self.outputs
            if i == 0 and 4 * config.vocab_size * len(weights) <= TABLE_BYTES:
                self.table_factors = (embedding, weights, bias)
                network.table = packer.table(*self.table_factors)
            else:
                layer.input = packer.matrix(weights, tile_width(config.cell), input_format)
                layer.bias = packer.address(bias)
            if i == 0 and numbers:
                self._pack_numbers(network, by_units(of_numbers, config.cell, round_up(numbers, 2)), input_format)
            size = self.outputs
            packer.pack_recurrent(layer, own, config.cell, recurrent_format)
            if config.layer_norm:
                gain, offset = tensors[f"norms.{i}.weight"], tensors[f"norms.{i}.bias"]
                layer.norm_size, layer.epsilon = len(gain), NORM_EPSILON
                layer.gain = packer.address(pad_with_zeros(gain, (size,)))
                layer.offset = packer.address(pad_with_zeros(offset, (size,)))
        if not network.table:
            network.embedding = packer.address(embedding)
        rows = round_up(config.vocab_size, TILE)
        output = pad_with_zeros(tensors["output.weight"], (rows, size))
        # The output matrix has few weights, and every error in them reaches the logits.
        network.output = packer.matrix(output, 4, min(input_format, FORMATS["bf16"][0]))
        bias = np.full(rows, NO_SYMBOL, dtype=np.float32)
        bias[: config.vocab_size] = tensors["output.bias"]
        network.output_bias = packer.address(bias)
        network.layer = layers
        if config.predictors:
            network.predictors = pointer(for_kernel(config.predictors))
            correction = pad_with_zeros(tensors["logistic.correction.weight"], (LANES, size))
            network.correction = packer.matrix(correction, 1, FORMATS["fp32"][0])
            bias = pad_with_zeros(tensors["logistic.correction.bias"], (LANES,))
            network.correction_bias = packer.address(bias)
        return network

    def _pack_numbers(self, network: Network, weights: Floats, input_format: int) -> None:
        """Pack the weights (rows, inputs) of samples as numbers, whose errors would reach every step."""
        if not network.table:
            raise UnavailableError("the compiled engine does not support a network of samples of this size.")
        config = self._config
        network.context, network.history = config.context, sample_history(config)
        number_format = min(input_format, FORMATS["bf16"][0])
        network.numbers = self._packer.matrix(weights, tile_width(config.cell), number_format)


def padded_units(cell: str, units: int) -> int:
    """Return the number of a layer's units in the kernel."""
    return round_up(units, LANES * tile_width(cell) // CELLS[cell])


def tile_width(cell: str) -> int:
    """Return the vectors in a tile of a layer: one per gate, or four vectors of units for one gate."""
    return CELLS[cell] if CELLS[cell] > 1 else 4


def by_units(rows: Floats, cell: str, inputs: int) -> Floats:
    """Return rows (gates * units, inputs or fewer) in the kernel's order: all gates of 16 units, then of the next."""
    gates = CELLS[cell]
    more = padded_units(cell, len(rows) // gates)
    larger = pad_with_zeros(rows.reshape(gates, len(rows) // gates, -1), (gates, more, inputs))
    blocks = larger.reshape(gates, more // LANES, LANES, inputs).swapaxes(0, 1)
    return np.ascontiguousarray(blocks).reshape(-1, inputs)


def round_up(size: int, multiple: int) -> int:
    """Return a size rounded up to a multiple."""
    return -(-size // multiple) * multiple


def pad_with_zeros(array: Floats, shape: tuple[int, ...]) -> Floats:
    """Return an array padded with zeros at the ends."""
    larger = np.zeros(shape, dtype=np.float32)
    larger[tuple(slice(n) for n in array.shape)] = array
    return larger


class Packer:
    """Packer of arrays for the kernel, which keeps the arrays whose addresses the kernel receives."""

    def __init__(self) -> None:
        self.arrays: dict[int, NDArray[Any]] = {}  # by address

    def address(self, array: NDArray[Any]) -> int:
        """Keep an array; return its address."""
        address = array.ctypes.data
        self.arrays[address] = array
        return address

    def pack_recurrent(self, layer: Layer, tensors: Mapping[str, Floats], cell: str, number_format: int) -> None:
        """Pack the parts of a layer that are the same in each step: its recurrent matrix and bias, and projection."""
        recurrent = by_units(tensors["weight_hh_l0"], cell, layer.outputs)
        layer.recurrent = self.matrix(recurrent, tile_width(cell), number_format)
        if cell == "gru":
            layer.recurrent_bias = self.address(by_units(tensors["bias_hh_l0"][:, None], cell, 1)[:, 0])
        if cell in PROJECTED_CELLS:
            projection = pad_with_zeros(tensors["weight_hr_l0"], (layer.outputs, layer.units))
            layer.projection = self.matrix(projection, 4, number_format)

    def table(self, embedding: Floats, rows: Floats, bias: Floats) -> int:
        """Return the address of the product of embedding (V, inputs) and rows (rows, inputs), plus bias (rows,)."""
        made = np.empty((len(embedding), len(rows)), dtype=np.float32)
        columns, bias = np.ascontiguousarray(rows.T), np.ascontiguousarray(bias)
        addresses = (array.ctypes.data for array in (embedding, columns, bias, made))
        library().charrnn_table(len(embedding), rows.shape[1], len(rows), *addresses)
        return self.address(made)

    def matrix(self, rows: Floats, width: int, number_format: int) -> Matrix:
        """Pack rows (16 n, inputs) in tiles of 16 * width rows, in a number format of the kernel."""
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        m = Matrix(len(rows) // LANES, width, rows.shape[1], number_format)
        lib = library()
        size = lib.charrnn_size(byref(m))
        weights, scale = _aligned(size), np.zeros(len(rows), dtype=np.float32)
        if lib.charrnn_pack(byref(m), rows.ctypes.data, weights.ctypes.data, scale.ctypes.data):
            raise MemoryError
        m.weights, m.scale = self.address(weights), self.address(scale)
        return m


def _aligned(size: int) -> NDArray[np.uint8]:
    """Return zeroed bytes that begin at a page of memory."""
    buffer = np.zeros(size + PAGE, dtype=np.uint8)
    start = -buffer.ctypes.data % PAGE
    return buffer[start : start + size]
