"""Recurrent layers whose loop over the steps runs in the compiled kernel."""

from __future__ import annotations

import ctypes
from ctypes import c_void_p

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from charrnn.engines.cpu.autotune import ThreadAutotuner
from charrnn.engines.cpu.library import Layer, Matrix, Network, Work, choose_variant, run
from charrnn.engines.cpu.pack import KERNEL_CELLS, TILE, Packer, by_units, pad_with_zeros, padded_units, round_up
from charrnn.models.cells import CELLS, GRU, LSTM, RNN, CellState
from charrnn.models.char_rnn import Layers
from charrnn.models.config import PROJECTED_CELLS

NAMES = {CELLS[name]: name for name in KERNEL_CELLS}
BLOCK = 512  # steps between two choices of the number of threads


class CompiledLayer(nn.Module):
    """Layer of `charrnn.models.cells` in fp32 for inference, with the same signature.

    torch computes W x_t + b of all steps in one product. The kernel receives them as the table of its first layer, with
    one symbol per step of each row. Its loop over the steps therefore reads only U, which fits in a core's own cache.

    Raise UnavailableError if the kernel was not built.
    """

    def __init__(self, layer: LSTM | GRU | RNN, threads: int = 0) -> None:
        super().__init__()
        self.layer = layer
        self.output_size = layer.output_size
        self._variant = choose_variant()
        self._autotuner = ThreadAutotuner(threads)
        self._packer = Packer()  # owner of the arrays at the kernel's addresses
        cell = NAMES[type(layer)]
        tensors = {name: tensor.detach().numpy() for name, tensor in layer.named_parameters()}
        units = padded_units(cell, layer.hidden_size)
        outputs = round_up(layer.output_size, TILE) if cell in PROJECTED_CELLS else units
        self._layer = Layer(KERNEL_CELLS.index(cell), units, outputs)
        self._packer.pack_recurrent(self._layer, tensors, cell, 0)
        self._padded_sizes = (outputs, units)  # of h and c
        self._weight = torch.from_numpy(by_units(tensors["weight_ih_l0"], cell, layer.input_size))
        self._bias = torch.from_numpy(by_units(tensors["bias_ih_l0"][:, None], cell, 1)[:, 0])

    def initial_state(self, n: int) -> CellState:
        return self.layer.initial_state(n)

    @torch.no_grad()
    def forward(self, x: Tensor, state: CellState) -> tuple[Tensor, CellState]:
        """Return y (N, T, output_size) for x (N, T, D), and the state after the last step."""
        n, steps, _ = x.shape
        table = functional.linear(x.flatten(0, 1), self._weight, self._bias).numpy()
        symbols = np.arange(n * steps).reshape(n, steps)  # rows of the table
        arrays = [pad_with_zeros(s.numpy(), (n, size)) for s, size in zip(state, self._padded_sizes, strict=False)]
        y = [self._run(table, symbols[:, at : at + BLOCK], arrays) for at in range(0, steps, BLOCK)]
        after = tuple(torch.from_numpy(a[:, : s.shape[1]].copy()) for a, s in zip(arrays, state, strict=True))
        return torch.from_numpy(np.concatenate(y, axis=1)[..., : self.output_size]), after

    def _run(
        self, table: NDArray[np.float32], symbols: NDArray[np.int64], state: list[NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """Return y (N, steps, padded outputs) for symbols (N, steps), and advance the state."""
        n, steps = symbols.shape
        last, forced = symbols[:, 0].copy(), np.zeros_like(symbols)
        forced[:, :-1] = symbols[:, 1:]
        y = np.empty((n, steps, self._padded_sizes[0]), dtype=np.float32)
        network = Network(len(table), 1, 0, table.ctypes.data, None, ctypes.pointer(self._layer), Matrix(width=1))
        h, c = c_void_p(state[0].ctypes.data), c_void_p(state[-1].ctypes.data)
        work = Work(n, steps, ctypes.addressof(h), ctypes.addressof(c), last.ctypes.data)
        work.forced, work.y = forced.ctypes.data, y.ctypes.data
        with self._autotuner.measure(n * steps) as threads:
            run(self._variant, network, work, threads)
        return y


def compile_layers(model: Layers, threads: int = 0) -> None:
    """Replace a network's recurrent layers by compiled ones, or raise UnavailableError."""
    model.layers = nn.ModuleList(CompiledLayer(layer, threads) for layer in model.layers)
