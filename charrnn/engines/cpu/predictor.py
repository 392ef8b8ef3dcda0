"""The compiled form of `charrnn.data.predictor`."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bytecodec.console import log
from charrnn.data import predictor
from charrnn.data.predictor import PERIOD, Floats, Samples
from charrnn.engines.cpu.library import LinearPredictor, Predictors, UnavailableError, choose_variant, library

if TYPE_CHECKING:
    from charrnn.models.char_rnn import CharRNN


def predict(samples: Samples, phase: NDArray[np.int64], predictors: predictor.Predictors) -> Floats:
    """Return what `charrnn.data.predictor.predict` returns, to the last bit.

    Raise UnavailableError if the kernel was not built.
    """
    rows, steps = len(samples), samples.shape[1] - predictor.history(predictors)
    samples, phase = np.ascontiguousarray(samples, np.int8), np.ascontiguousarray(phase, np.int64)
    # Otherwise the kernel would read memory beyond the arrays.
    if len(phase) != rows or steps < 0 or not ((phase >= 0) & (phase < PERIOD)).all():
        raise ValueError(f"{rows} rows of {samples.shape[1]} samples with the phases {phase}")
    predictions = np.empty((rows, steps + 1, len(predictors)), np.float32)
    arrays = (samples, phase, predictions)
    library().charrnn_predict(choose_variant(), for_kernel(predictors), rows, steps, *(a.ctypes.data for a in arrays))
    return predictions


def use_compiled(model: CharRNN) -> None:
    """Let a network that predicts samples use the compiled predictor; report on stderr if it was not built."""
    if not model.config.predictors or not model.samples:
        return
    from charrnn.models.samples import for_tensors

    try:
        library()
        model.samples.predict = for_tensors(predict)
    except UnavailableError as error:
        log(f"{error} Samples are predicted by numpy, which is slower.")


@cache
def for_kernel(predictors: predictor.Predictors) -> Predictors:
    """Return the predictors' parameters for the kernel."""
    each = (LinearPredictor * len(predictors))()
    for target, one in zip(each, predictors, strict=True):
        target.order, target.length, target.hop, target.peak = one.order, one.length, one.hop, one.peak
        target.window = one.window.ctypes.data  # an array that one keeps
        target.white_noise, target.noise_floor = one.white_noise, one.noise_floor * one.power
    return Predictors(len(predictors), predictor.history(predictors), each)
