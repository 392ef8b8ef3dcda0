"""Backends that compute the recurrent layers while a network trains on an NVIDIA GPU.

    torch    torch's layers, which are cuDNN's: all cells, precisions and sizes
    kernel   a persistent kernel in Triton (`charrnn.cuda.lstm`): LSTM layers in bf16 that fit on the GPU

Both are the same network up to rounding. Where the kernel fits, it is the faster one: an iteration of 3x680 at 50 x 50
takes half as long on an H200 (docs/benchmarks.md). Validation and sampling always use torch's layers.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bytecodec.console import log
from bytecodec.errors import InputError, first_line
from charrnn.models.cells import LSTM
from charrnn.models.char_rnn import Layers
from charrnn.runtime import autocast
from charrnn.training.recipe import Settings
from charrnn.training.step import kernel_failed, loss_scale

AUTO = "auto"
TOLERANCE = 0.05  # relative difference of losses and of gradients, several times that of rounding to bf16

Batch = tuple[Tensor, Tensor]  # x (N, ·) and y (N, T), on the device


def choose(
    asked: str | None, model: Layers, batch: Callable[[], Batch], settings: Settings, processes: int, quiet: bool
) -> str:
    """Return the backend of a run, after one iteration that compares the kernel with torch's layers.

    Parameters
    ----------
    asked
        ``torch``, ``kernel``, ``auto`` (the kernel where it can be used), or None to keep that of the settings, for a
        run that is resumed.
    model
        On its device; it does not change.
    batch
        Returns a batch of the run.

    Raises
    ------
    InputError
        The kernel was asked for by name and cannot be used, or the GPU stopped working.
    """
    backend = settings.gpu_layers if asked is None else asked
    on_gpu = settings.device == "cuda"
    if backend == "torch" or (asked is None and not on_gpu):  # a run keeps its backend while it is on a CPU
        return backend
    limit = limitation(model, settings)
    if backend == AUTO and (limit or processes > 1):
        return "torch"
    reason = limit or smoke_test(model, batch(), settings)
    if not reason:
        log("layers    computed by the kernel for NVIDIA GPUs (--gpu-layers kernel)", quiet)
        return "kernel"
    if asked == "kernel":
        raise InputError(f"--gpu-layers kernel is not possible here ({reason}): leave it out, or use torch.")
    log(f"the kernel for LSTM layers cannot be used here ({reason}): training uses torch's layers.")
    return "torch"


def limitation(model: Layers, settings: Settings) -> str:
    """Return why the kernel is not made for such a run; "" if it is."""
    if settings.device != "cuda":
        return f"it is for NVIDIA GPUs, and this run is on {settings.device}"
    if not all(type(layer) is LSTM for layer in model.layers):
        return f"it computes LSTM layers, and these are {model.config.cell}"
    if settings.precision == "fp32":
        return "it computes in bf16, and this run is in fp32"
    return ""


def smoke_test(model: Layers, batch: Batch, settings: Settings) -> str:
    """Compare loss and gradient of a batch with those of torch's layers; return what is wrong, "" if nothing.

    The kernel is compiled for the GPU at hand, by the Triton at hand, and neither may have been tried before.
    """
    loss, gradient = _loss_and_gradient("torch", model, batch, settings)
    try:
        _kernel().check_size(len(batch[0]), model.config.rnn_size, batch[0].device)
        its_loss, its_gradient = _loss_and_gradient("kernel", model, batch, settings)
    except Exception as error:  # any error of a compiler or a driver
        _check_gpu(error)
        return first_line(error)
    difference = float((its_gradient - gradient).norm() / gradient.norm())
    if abs(its_loss - loss) <= TOLERANCE * max(1.0, loss) and difference <= TOLERANCE:
        return ""
    return (
        f"its loss is {its_loss:.4g} and torch's {loss:.4g}, and its gradient differs by {difference:.2g} of its norm"
    )


def set_backend(model: Layers, backend: str) -> None:
    """Have a network use a backend while it trains."""
    kernel = _kernel() if backend == "kernel" else None
    for layer in model.layers:
        if isinstance(layer, LSTM):
            layer.backend = kernel.kernel_lstm if kernel else None
    model.failures = kernel.failures if kernel else None


def _loss_and_gradient(backend: str, model: Layers, batch: Batch, settings: Settings) -> tuple[float, Tensor]:
    """Return the loss of a batch after a random state, without dropout, and its gradient as one vector."""
    copied = copy.deepcopy(model)
    copied.to(settings.device)  # makes cuDNN's weights contiguous again
    copied.train()
    copied.dropout.p = 0.0
    set_backend(copied, backend)
    random = torch.Generator(batch[0].device).manual_seed(0)
    state = tuple(
        tuple(tensor.uniform_(-1, 1, generator=random) for tensor in layer)
        for layer in copied.initial_state(len(batch[0]))
    )
    with autocast(settings.precision, settings.device):
        loss, _ = copied.loss(*batch, state)
    scale = loss_scale(settings)
    (loss * scale).backward()  # type: ignore[no-untyped-call]
    if kernel_failed(copied):
        _kernel().failures(loss.device).zero_()
        raise RuntimeError("a barrier of it timed out")
    gradients = [p.grad.flatten() for p in copied.parameters() if p.grad is not None]
    return float(loss.detach()), torch.cat(gradients) / scale


def _check_gpu(error: Exception) -> None:
    """Raise InputError if the GPU cannot be used any more, as after some errors of a kernel."""
    if not torch.cuda.is_available():
        return
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        raise InputError(
            f"the GPU stopped working when its kernel for LSTM layers was tried ({first_line(error)}): "
            "start again with --gpu-layers torch."
        ) from error


def _kernel() -> Any:
    """Return the kernel's module, which imports Triton."""
    return importlib.import_module("charrnn.cuda.lstm")
