"""The spectrum of what a Gaussian frame predictor cannot predict, for what is drawn to have it too."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from charrnn.data import ContiguousBatches
from charrnn.frames import FULL_SCALE, NOISE_TAPS, FrameRNN

SAMPLES = 300_000  # of the recording that are looked at
ROW_SAMPLES = 100_000  # of all rows in a pass, at most
ROWS = 64
FLOOR = 1e-8  # of the largest power in the spectrum: -80 dB, below which a filter would have to be longer


def shape_noise(model: FrameRNN, samples: NDArray[np.int16]) -> None:
    """Fit a Gaussian network's ``noise`` to its deviations from int16 samples (n,), from all over them.

    The draws of a pass do not hear each other, so alone they are white, whatever is learnt, and what a pass cannot
    know of its own T samples becomes hiss. With s(t) the predicted deviations and n(t) white noise, what is added to
    the means is the filter ``noise`` of s(t) n(t): it has the long-term spectrum of the deviations from the recording.
    """
    if model.config.loss != "gaussian":
        return
    deviations, scales = measure(model, samples)
    power = welch(deviations)
    taps = minimum_phase(np.maximum(power, FLOOR * power.max()))
    gain = np.sqrt(np.mean(deviations**2) / np.mean(scales**2) / np.sum(taps**2))
    model.noise.copy_(torch.from_numpy(gain * taps))


@torch.no_grad()
def measure(model: FrameRNN, samples: NDArray[np.int16]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Deviations of samples (n,) from their predictions, and the deviations that were predicted, (rows, m) each."""
    spacing, reach = model.config.spacing, model.config.reach
    rows = max(1, min(ROWS, ROW_SAMPLES // spacing, (len(samples) - reach.far) // (4 * spacing)))
    batches = ContiguousBatches(samples, rows, spacing, reach=reach)
    passes = min(max(2, SAMPLES // (rows * spacing)), batches.row_length // spacing)
    state = model.initial_state(rows)
    deviations, scales = [], []
    training, device = model.training, model.window.device
    model.eval()
    for number in range(passes):
        x, y = (torch.from_numpy(a).to(device).float() / FULL_SCALE for a in batches.at(number * spacing, spacing))
        means, variances, state = model(x, state)
        if number or passes == 1:  # the first pass begins from nothing
            deviations.append((y - means).cpu().double().numpy())
            scales.append(variances.sqrt().cpu().double().numpy())
    model.train(training)
    return np.concatenate(deviations, axis=1), np.concatenate(scales, axis=1)


def welch(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean power spectrum (NOISE_TAPS + 1,) of rows (rows, m) in windows of 2 NOISE_TAPS (Welch 1967); of rows that
    are shorter, which are then read as one."""
    size = 2 * NOISE_TAPS
    if x.shape[1] < size:
        x = x.reshape(1, -1)
    x = np.pad(x, ((0, 0), (0, max(0, size - x.shape[1]))))
    windows = np.lib.stride_tricks.sliding_window_view(x, size, axis=1)[:, :: size // 2]
    power = np.abs(np.fft.rfft(windows * np.hanning(size), axis=2)) ** 2
    return np.asarray(power.mean(axis=(0, 1)))


def minimum_phase(power: NDArray[np.float64]) -> NDArray[np.float64]:
    """The filter (NOISE_TAPS,) with a power spectrum (NOISE_TAPS + 1,) that answers soonest, so that what is drawn is
    loud when the predicted deviation is large: from the folded cepstrum (Oppenheim and Schafer 1975)."""
    cepstrum = np.fft.irfft(np.log(power) / 2)
    size = len(cepstrum)
    cepstrum[1 : size // 2] *= 2
    cepstrum[size // 2 + 1 :] = 0
    return np.asarray(np.fft.irfft(np.exp(np.fft.rfft(cepstrum)))[:NOISE_TAPS])
