"""Backends that compute the recurrent layers while a network trains on an NVIDIA GPU.

    torch    torch's layers, which are cuDNN's: all cells, precisions and sizes
    kernel   a persistent kernel in Triton (`charrnn.cuda.lstm`): LSTM layers in bf16 that fit on the GPU

Both compute the same network up to rounding. Where the kernel fits, it is faster: an iteration of 3x680 at 50 x 50
takes half as long on an H200 (docs/benchmarks.md). Validation and sampling always use torch's layers.
"""

from __future__ import annotations

import copy
import importlib
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from bytecodec.console import log
from bytecodec.errors import InputError, first_line
from charrnn.data.predictor import PERIOD, Predictors, history
from charrnn.models import predictor
from charrnn.models.cells import LSTM
from charrnn.models.char_rnn import Layers
from charrnn.models.config import map_state
from charrnn.models.samples import Predict
from charrnn.runtime import autocast

AUTO = "auto"
TOLERANCE = 0.05  # relative difference of losses and of gradients, several times that of rounding to bf16

Batch = tuple[Tensor, Tensor]  # x (N, ·) and y (N, T), on the device


class Backend:
    """Computation of the recurrent layers of a network in training mode, by ``torch`` or by the ``kernel``."""

    def __init__(self, name: str = "torch") -> None:
        # Imported here because it imports Triton.
        self._kernel: Any = importlib.import_module("charrnn.cuda.lstm") if name == "kernel" else None

    def install(self, model: Layers) -> None:
        """Make the LSTM layers of a network use this backend in place of any other."""
        self._device = next(model.parameters()).device
        for layer in model.layers:
            if isinstance(layer, LSTM):
                layer.training_function = self._kernel.kernel_lstm if self._kernel else None
        use_prediction_kernel(model)

    def mask(self, loss: Tensor) -> Tensor:
        """Return a loss, or NaN if the kernel has failed. Does not wait for the device."""
        if self._kernel is None:
            return loss
        return loss.masked_fill(self._kernel.failures(self._device).ne(0).any(), math.nan)

    def failed(self) -> bool:
        """Return whether the kernel has failed in any step. Waits for the device."""
        return self._kernel is not None and bool(self._kernel.failures(self._device).ne(0).any())

    def clear_failures(self) -> None:
        if self._kernel:
            self._kernel.failures(self._device).zero_()


def use_prediction_kernel(model: Any) -> None:
    """Let a network on a GPU predict samples by the kernel, if it does predict and the kernel can be used."""
    device, predictors = next(model.parameters()).device, getattr(model.config, "predictors", ())
    if device.type == "cuda" and predictors and (predict := _prediction_kernel(predictors, device)):
        model.samples.predict = predict


@cache
def _prediction_kernel(predictors: Predictors, device: torch.device) -> Predict | None:
    """Return the kernel's prediction, or None if its results are not those of torch's operations, which is logged."""
    random = torch.Generator().manual_seed(0)
    samples = torch.randint(-128, 128, (2, history(predictors) + PERIOD), generator=random).float().to(device)
    phase = torch.tensor([0.0, 5.0], device=device)
    try:
        predict: Predict = importlib.import_module("charrnn.cuda.predictor").predict
        equal = torch.equal(predict(samples, phase, predictors), predictor.predict(samples, phase, predictors))
        reason = "" if equal else "its results differ from those of torch's operations"
    except Exception as error:  # no Triton, or any error of a compiler or a driver
        _check_gpu(error, "kernel for linear prediction", "--device cpu")
        reason = first_line(error)
    if not reason:
        return predict
    log(f"the kernel for linear prediction cannot be used here ({reason}): prediction is slower.")
    return None


def choose_backend(
    requested: str | None,
    previous: str,
    model: Layers,
    batch: Callable[[], Batch],
    *,
    device: str,
    precision: str,
    processes: int,
    quiet: bool,
) -> str:
    """Return the name of the backend of a run, after one iteration that compares the kernel with torch's layers.

    ``requested`` is torch, kernel, auto (the kernel where it can be used), or None to keep the ``previous`` one, for a
    run that is resumed. The network is on its device and does not change. It is an error if the kernel was requested
    by name and cannot be used, or if the GPU stops working.
    """
    name = previous if requested is None else requested
    if name == "torch" or (requested is None and device != "cuda"):  # a run keeps its backend while it is on a CPU
        return name
    reason = limitation(model, device, precision, processes)
    if name == AUTO and reason:
        return "torch"
    reason = reason or smoke_test(model, batch(), precision)
    if not reason:
        log("layers    computed by the kernel for NVIDIA GPUs (--gpu-layers kernel)", quiet)
        return "kernel"
    if requested == "kernel":
        raise InputError(f"--gpu-layers kernel is not possible here ({reason}): omit it, or use torch.")
    log(f"the kernel for LSTM layers cannot be used here ({reason}): training uses torch's layers.")
    return "torch"


def limitation(model: Layers, device: str, precision: str, processes: int) -> str:
    """Return why the kernel does not support such a run; "" if it does."""
    if device != "cuda":
        return f"it is for NVIDIA GPUs, and this run is on {device}"
    if not all(type(layer) is LSTM for layer in model.layers):
        return f"it computes LSTM layers, and these are {model.config.cell}"
    if precision == "fp32":
        return "it computes in bf16, and this run is in fp32"
    if processes > 1:
        return f"it runs in a single process, and this run has {processes}"
    return ""


def smoke_test(model: Layers, batch: Batch, precision: str) -> str:
    """Compare loss and gradient of a batch with those of torch's layers; return the difference, "" if they agree.

    The kernel is compiled for this GPU by this version of Triton, and the combination may be untested.
    """
    expected_loss, expected_gradient = _loss_and_gradient("torch", model, batch, precision)
    try:
        check_size = importlib.import_module("charrnn.cuda.lstm").check_size
        check_size(len(batch[0]), model.config.rnn_size, batch[0].device)
        loss, gradient = _loss_and_gradient("kernel", model, batch, precision)
    except Exception as error:  # any error of a compiler or a driver
        _check_gpu(error, "kernel for LSTM layers", "--gpu-layers torch")
        return first_line(error)
    difference = float((gradient - expected_gradient).norm() / expected_gradient.norm())
    if abs(loss - expected_loss) <= TOLERANCE * max(1.0, expected_loss) and difference <= TOLERANCE:
        return ""
    return f"loss {loss:.4g} instead of {expected_loss:.4g}, gradient different by {difference:.2g} of its norm"


def loss_scale(precision: str, device: str, symbols: int) -> float:
    """Return the factor of the loss in the backward pass: a power of two near the number of symbols of a batch.

    On a GPU, torch's autocast computes recurrent layers in fp16 (PyTorch's AutocastRNN.cpp), whose smallest positive
    number is 6e-8. Gradients of a mean over N T symbols can be smaller; those of the sum are not. A power of two
    changes no digit of other numbers.
    """
    if device != "cuda" or precision == "fp32":
        return 1.0
    return 2.0 ** round(math.log2(symbols))


def _loss_and_gradient(name: str, model: Layers, batch: Batch, precision: str) -> tuple[float, Tensor]:
    """Return the loss of a batch after a random state, without dropout, and its gradient as one vector.

    The state and the disturbances of samples are the same in each call.
    """
    x, y = batch
    copied = copy.deepcopy(model).to(x.device)  # makes cuDNN's weights contiguous again
    copied.train()
    copied.dropout.p = 0.0
    backend = Backend(name)
    backend.install(copied)
    random = torch.Generator(x.device).manual_seed(0)
    state = map_state(
        lambda tensor: tensor.uniform_(-1, 1, generator=random), copied.initial_state(len(x), training=True)
    )
    with torch.random.fork_rng([x.device] if x.is_cuda else []), autocast(precision, x.device.type):
        torch.manual_seed(0)
        loss, _ = copied.loss(x, y, state)
    scale = loss_scale(precision, x.device.type, y.numel())
    (loss * scale).backward()  # type: ignore[no-untyped-call]
    if backend.failed():
        backend.clear_failures()
        raise RuntimeError("a barrier of it timed out")
    gradients = [p.grad.flatten() for p in copied.parameters() if p.grad is not None]
    return float(loss.detach()), torch.cat(gradients) / scale


def _check_gpu(error: Exception, kernel: str, remedy: str) -> None:
    """Raise InputError if the GPU cannot be used any more, as after some errors of a kernel."""
    if not torch.cuda.is_available():
        return
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        raise InputError(
            f"the GPU stopped working when the {kernel} was tried ({first_line(error)}): start again with {remedy}."
        ) from error
