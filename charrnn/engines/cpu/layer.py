"""Recurrent layers that run sequences in `cpu_kernel.c`: what feeds back there, and what does not in one product."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_void_p

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from charrnn.engines.cpu.engine import ThreadAutotuner, numbers_of_threads
from charrnn.engines.cpu.library import Layer, Matrix, Network, Work, chosen_variant, library
from charrnn.engines.cpu.pack import CELLS, GATES, TILE, Packer, by_units, grown, padded, padded_units
from charrnn.models.cells import GRU, LSTM, LSTMP, RNN, CellState
from charrnn.models.char_rnn import Layers

NAMES: dict[type[nn.Module], str] = {LSTM: "lstm", LSTMP: "lstmp", GRU: "gru", RNN: "rnn"}


class CompiledLayer(nn.Module):
    """A layer of `charrnn.models.cells` in fp32, to be called like it, for networks that learn no more.

    The kernel looks up in a table what each symbol makes of the first layer. Here each step of a sequence is a symbol
    of its own: its row of the table is W x_t + b, and all rows are one product. So only U has to be at hand in the loop
    over the steps, and a core's own cache holds that of larger layers than it holds networks.

    Parameters
    ----------
    layer
        Of a class in `charrnn.models.cells.CELLS`.
    threads
        As of `charrnn.engines.cpu.engine.CpuEngine`.

    Raises
    ------
    UnavailableError
        The kernel was not built.
    """

    def __init__(self, layer: LSTM | GRU | RNN, threads: int = 0) -> None:
        super().__init__()
        self.layer = layer
        self.output_size = layer.output_size
        self._variant = chosen_variant()
        self._pace = ThreadAutotuner(*([threads] if threads else numbers_of_threads()))
        self._packer = Packer()
        cell = NAMES[type(layer)]
        tensors = {name: tensor.detach().numpy() for name, tensor in layer.named_parameters()}
        units = padded_units(cell, layer.hidden_size)
        outputs = padded(layer.output_size, TILE) if cell == "lstmp" else units
        width = GATES[cell] if GATES[cell] > 1 else 4
        packed = Layer(CELLS.index(cell), units, outputs)
        packed.recurrent = self._packer.matrix(by_units(tensors["weight_hh_l0"], cell, outputs), width, 0)
        if cell == "lstmp":
            packed.projection = self._packer.matrix(grown(tensors["weight_hr_l0"], (outputs, units)), 4, 0)
        if cell == "gru":
            back = by_units(tensors["bias_hh_l0"][:, None], cell, 1)[:, 0]
            packed.recurrent_bias = self._packer.address(np.ascontiguousarray(back))
        self._layer = packed
        self._wide = (outputs, units)  # of h and c with what pads them
        self._weight = torch.from_numpy(by_units(tensors["weight_ih_l0"], cell, layer.input_size))
        self._bias = torch.from_numpy(by_units(tensors["bias_ih_l0"][:, None], cell, 1)[:, 0])

    def initial_state(self, n: int) -> CellState:
        """Zeros for n streams."""
        return self.layer.initial_state(n)

    @torch.no_grad()
    def forward(self, x: Tensor, state: CellState) -> tuple[Tensor, CellState]:
        """Run over x (N, T, D); returns y (N, T, output_size) and the state after the last step."""
        n, steps, _ = x.shape
        table = functional.linear(x.flatten(0, 1), self._weight, self._bias).numpy()
        rows = np.arange(n * steps).reshape(n, steps)  # of the table, as symbols
        last, rest = rows[:, 0].copy(), np.zeros_like(rows)  # the last one read, and those after it
        rest[:, :-1] = rows[:, 1:]
        arrays = [grown(s.numpy(), (n, wide)) for s, wide in zip(state, self._wide, strict=False)]
        y = np.empty((n, steps, self._wide[0]), dtype=np.float32)
        network = Network(len(table), 1, 0, table.ctypes.data, None, ctypes.pointer(self._layer), Matrix(width=1))
        h, c = c_void_p(arrays[0].ctypes.data), c_void_p(arrays[-1].ctypes.data)
        work = Work(n, steps, ctypes.addressof(h), ctypes.addressof(c), last.ctypes.data)
        work.forced, work.y = rest.ctypes.data, y.ctypes.data
        with self._pace.measured(n * steps) as threads:
            failed = library().charrnn_run(self._variant, byref(network), byref(work), threads)
        if failed:
            raise MemoryError
        after = tuple(torch.from_numpy(a[:, : s.shape[1]].copy()) for a, s in zip(arrays, state, strict=True))
        return torch.from_numpy(y[..., : self.output_size]), after


def compile_layers(model: Layers, threads: int = 0) -> None:
    """Have a network's recurrent layers run in the kernel from now on.

    Raises
    ------
    UnavailableError
        The kernel was not built.
    """
    model.layers = nn.ModuleList(CompiledLayer(layer, threads) for layer in model.layers)
