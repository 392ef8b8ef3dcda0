"""Backward-adaptive linear prediction of samples, the reference in numpy.

A predictor computes its coefficients from the samples already known, as the coder of ITU-T G.728 does, so sampling
computes the same predictions from what it has drawn. Every few samples it takes the autocorrelation of the last
samples under a window and solves the normal equations by the recursion of Schur (Le Roux and Gueguen 1977).

The result does not depend on the processor, the number of rows or the library: samples and windows are whole numbers,
whose sums of products are exact in double precision in any order; the recursion works element by element; and the
coefficients are rounded to multiples of 2^-20, so that predictions are exact sums, too.
`charrnn.engines.cpu.predictor` is the compiled form.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Samples = NDArray[np.int8]

PERIOD = 32  # samples after which all coefficients are computed together, a multiple of every hop
RISE = 40  # samples of the window's rise at its new end
RESOLUTION = 2.0**20  # coefficients are multiples of its inverse
LARGEST = 2.0**18  # limit of a coefficient, with which sums stay exact


@dataclass(frozen=True)
class LinearPredictor:
    """The parameters of a predictor."""

    order: int  # number of coefficients
    length: int  # of the window in samples
    decay: float  # factor of the window per sample of age
    hop: int  # samples between updates of the coefficients; a divisor of `PERIOD`
    white_noise: float = 1e-5  # correction: added at lag 0, relative to the signal's power
    noise_floor: float = 0.006  # in squared quantisation steps, also added at lag 0
    peak: int = 255  # of the window's whole numbers, at most 255; a small one is faster

    @cached_property
    def window(self) -> NDArray[np.int16]:
        """The window (length,) in whole numbers, the newest sample last: a sine's rise, then exponential decay."""
        age = np.arange(self.length)[::-1]
        rise = np.sin(np.pi / 2 * np.minimum(1, (age + 1) / RISE))
        return np.asarray(np.rint(self.peak * rise * self.decay**age), dtype=np.int16)

    @cached_property
    def power(self) -> float:
        """The sum of the squares of the window."""
        return float(np.sum(self.window.astype(np.float64) ** 2))


Predictors = tuple[LinearPredictor, ...]

PREDICTORS: dict[str, Predictors] = {
    "none": (),
    "lpc": (LinearPredictor(32, 512, 0.995, 16), LinearPredictor(100, 2048, 0.9985, 16)),
    "lpc-long": (
        LinearPredictor(80, 512, 0.995, 16, white_noise=3e-3, noise_floor=0.12, peak=63),
        LinearPredictor(240, 4096, 0.9993, 32, white_noise=3e-3, noise_floor=0.12, peak=63),
    ),
}
"""The predictors of each kind of prediction."""


def history(predictors: Predictors) -> int:
    """Return the number of samples that predictions depend on."""
    return max((predictor.length + predictor.hop for predictor in predictors), default=0)


def predict(samples: Samples, phase: NDArray[np.int64], predictors: Predictors) -> Floats:
    """Return the predictions of samples.

    Parameters
    ----------
    samples
        (N, `history` + T) in -128 to 127: those before the first one to predict, and T more.
    phase
        (N,) in 0 to PERIOD - 1: each row's number of samples since all coefficients were computed.

    Returns
    -------
    predictions
        (N, T + 1, P), for each of the predictors: the predictions in -128 to 127 of the last T samples and of the
        next one, each from the samples before it.
    """
    return np.stack([_predict(one, samples, phase, history(predictors)) for one in predictors], axis=2)


def _predict(predictor: LinearPredictor, samples: Samples, phase: NDArray[np.int64], before: int) -> Floats:
    """Return the predictions (N, T + 1) of one predictor."""
    rows, steps = len(samples), samples.shape[1] - before + 1
    used = phase[:, None] % predictor.hop
    block = (used + np.arange(steps)) // predictor.hop  # (N, T + 1) index of each position's coefficients
    starts = before - used + predictor.hop * np.arange(block.max() + 1)  # (N, blocks), where they are computed
    starts = np.minimum(starts, samples.shape[1])  # those after the last position are not used
    windows = sliding_window_view(samples, predictor.length, axis=1)  # (N, ., length)
    row = np.arange(rows)[:, None]
    coefficients = solve(predictor, windows[row, starts - predictor.length])
    histories = sliding_window_view(samples, predictor.order, axis=1)[:, -steps:].astype(np.float64)
    predictions = np.einsum("nto,nto->nt", histories[:, :, ::-1], coefficients[row, block])
    return np.asarray(np.clip(predictions, -128, 127), dtype=np.float32)


def solve(predictor: LinearPredictor, windows: NDArray[np.int8]) -> Doubles:
    """Return coefficients (..., order), the newest sample's first, for windows of (..., length) samples."""
    size = 1 << (predictor.length + predictor.order).bit_length()
    spectrum = np.fft.rfft(windows * predictor.window.astype(np.float64), size)
    squares = spectrum.real**2 + spectrum.imag**2
    # The true sums are whole numbers below 2^40, so rounding removes the errors of the transforms.
    r = np.rint(np.fft.irfft(squares, size)[..., : predictor.order + 1])
    r[..., 0] = r[..., 0] * (1 + predictor.white_noise) + predictor.noise_floor * predictor.power
    limit = LARGEST * RESOLUTION
    return np.asarray(np.rint(schur(r) * RESOLUTION).clip(-limit, limit) / RESOLUTION)


def schur(r: Doubles) -> Doubles:
    """Return predictor coefficients a (..., p) for autocorrelations r (..., p + 1).

    With x_t predicted as the sum of a_j x_(t-j), j from 1 to p. u and v are the forward and backward sequences, whose
    first elements give a reflection coefficient; all operations are element by element, in an order that
    the compiled predictor repeats.
    """
    u, v = r[..., 1:], r[..., :-1]
    a = np.empty((*r.shape[:-1], 0))
    while u.shape[-1]:
        k = u[..., :1] / v[..., :1]
        a = np.concatenate([a - k * a[..., ::-1], k], axis=-1)
        u, v = u[..., 1:] - k * v[..., 1:], (v - k * u)[..., :-1]
    return a
