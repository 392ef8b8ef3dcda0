"""How an NVIDIA GPU computes recurrent layers while they learn: several ways, which are the same network to rounding.

    torch        torch's layers, that is cuDNN's, one after the other
    padded       LSTM layers with zero units up to a multiple of 128, for cuDNN's persistent kernel (`charrnn.padding`)
    overlapped   the layers side by side, each on a CUDA stream (`charrnn.wavefront`)
    kernel       a persistent kernel in Triton (`charrnn.kernel_lstm`)

and padded-overlapped and kernel-overlapped, which are both. Which is the fastest hangs on the GPU: `charrnn.fastest`
measures it. Validation and sampling compute torch's layers whatever the way.
"""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

from charrnn.cells import LSTM
from charrnn.model import Layers
from charrnn.padding import padded_lstm
from charrnn.recipe import GPU_LAYERS
from charrnn.wavefront import Wavefront

MULTIPLE = 128  # of inputs and units, that cuDNN's persistent kernel wants


def ways_of(model: Layers) -> tuple[str, ...]:
    """The ways that there are for a network, torch's first: only LSTMs without a projection have others than cuDNN's,
    and a single layer has nothing to overlap with."""
    overlaps = len(model.layers) > 1
    lstm = all(type(layer) is LSTM for layer in model.layers)
    return tuple(way for way in GPU_LAYERS if (overlaps or not _overlapped(way)) and (lstm or not _own_layer(way)))


def set_way(model: Layers, way: str) -> None:
    """Have a network learn in one of its ways.

    Raises
    ------
    ValueError
        There is no such way for this network.
    ImportError
        The kernel needs Triton, which torch's CUDA builds bring along for Linux.
    """
    if way not in ways_of(model):
        raise ValueError(f"a network of {len(model.layers)} x {model.config.cell} has no layers that are {way}")
    kernels = _kernels() if way.startswith("kernel") else None
    beside = len(model.layers) - 1 if _overlapped(way) else 0
    layer_way = None
    if kernels:
        layer_way = partial(kernels.kernel_lstm, beside=beside)
    elif _own_layer(way):
        layer_way = partial(padded_lstm, multiple=MULTIPLE)
    for layer in model.layers:
        if isinstance(layer, LSTM):
            layer.way = layer_way
    model.wavefront = Wavefront() if _overlapped(way) else None
    model.failures = kernels.failures if kernels else None


def _overlapped(way: str) -> bool:
    return way.endswith("overlapped")


def _own_layer(way: str) -> bool:
    """Whether a layer is computed by another function than torch's own."""
    return way.startswith(("padded", "kernel"))


def _kernels() -> Any:
    """The kernel's module, which loads Triton: ``kernel_lstm(lstm, x, h, c, beside=...) -> (y, h, c)``, and
    ``failures(device)``, an int32 tensor that stays where it is, and is not zero once programs waited in vain."""
    return importlib.import_module("charrnn.kernel_lstm")
