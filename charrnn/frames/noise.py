"""The spectrum of what a Gaussian frame predictor draws."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from charrnn.data.batches import ContiguousBatches
from charrnn.frames.model import FULL_SCALE, LOUDEST, NOISE_TAPS, FrameRNN

SAMPLES = 300_000  # of the recording that are looked at
ROW_SAMPLES = 100_000  # of all rows in a pass, at most
ROWS = 64
FLOOR = 1e-8  # of the largest power in the spectrum: -80 dB, below which a filter would have to be longer

FREE_ROWS = 16  # that run by themselves, side by side
FREE_ROUNDS = 16  # after each of which the filter is set anew
FREE_STEPS, FREE_PASSES = 80_000, 1_000  # of a row, at most: what fewer than 4 rounds of this is left out
LEAST_ROUND = 4096  # samples of a row
CORRECTION = 4.0  # the most by which a power is changed after a round

Array = NDArray[np.float64]


def shape_noise(model: FrameRNN, samples: NDArray[np.int16]) -> None:
    """Fit a Gaussian network's ``noise`` to int16 samples (n,); any other network is left as it is.

    The draws of a pass do not hear each other, so alone they are white, whatever is learnt, and what a pass cannot
    know of its own T samples becomes hiss. With s(t) the predicted deviations and n(t) white noise, what is added to
    the means is the filter ``noise`` of s(t) n(t): it has the long-term spectrum of the deviations from the recording.

    Then the network runs by itself, from windows all over the recording, and the filter is corrected round by round
    until what is generated has the recording's long-term spectrum, and with it its level. Where a round takes too
    long (windows of minutes), this is left out.
    """
    if model.config.loss != "gaussian":
        return
    training = model.training
    model.eval()
    deviations, scales = measure(model, samples)
    power = spectrum(deviations)
    power = np.maximum(power, FLOOR * power.max())
    taps = minimum_phase(power)
    power *= np.mean(deviations**2) / np.mean(scales**2) / np.sum(taps**2)
    model.noise.copy_(torch.from_numpy(minimum_phase(power)))
    close_loop(model, samples, power)
    model.train(training)


@torch.no_grad()
def measure(model: FrameRNN, samples: NDArray[np.int16]) -> tuple[Array, Array]:
    """Deviations of samples (n,) from their predictions, and the deviations that were predicted, (rows, m) each."""
    spacing, context = model.config.spacing, model.config.context
    rows = max(1, min(ROWS, ROW_SAMPLES // spacing, (len(samples) - context.max_lag) // (4 * spacing)))
    batches = ContiguousBatches(samples, rows, spacing, context=context)
    passes = min(max(2, SAMPLES // (rows * spacing)), batches.row_length // spacing)
    state = model.initial_state(rows)
    deviations, scales = [], []
    for number in range(passes):
        x, y = (torch.from_numpy(a).to(model.unit).float() / FULL_SCALE for a in batches.at(number * spacing, spacing))
        means, variances, state = model(x, state)
        if number or passes == 1:  # the first pass begins from nothing
            deviations.append((y - means).cpu().double().numpy())
            scales.append(variances.sqrt().cpu().double().numpy())
    return np.concatenate(deviations, axis=1), np.concatenate(scales, axis=1)


@torch.no_grad()
def close_loop(model: FrameRNN, samples: NDArray[np.int16], power: Array) -> None:
    """Correct ``noise``, which has this power spectrum, until the network's own sound has that of samples (n,)."""
    from scipy.signal import oaconvolve  # takes long to import

    spacing, max_lag = model.config.spacing, model.config.context.max_lag
    passes = -(-max(max_lag, LEAST_ROUND) // spacing)
    rounds = min(FREE_ROUNDS, FREE_STEPS // (passes * spacing), FREE_PASSES // passes)
    if rounds < 4:
        return
    starts = np.linspace(0, len(samples) - max_lag, FREE_ROWS).astype(int)
    window = torch.from_numpy(np.stack([samples[at : at + max_lag] for at in starts])).to(model.unit) / FULL_SCALE
    wanted = spectrum(samples[None].astype(np.float64) / FULL_SCALE)
    driven, state = np.zeros((FREE_ROWS, NOISE_TAPS - 1)), model.initial_state(FREE_ROWS)
    normal = np.random.Generator(np.random.Philox(0)).standard_normal
    settled = np.zeros_like(power)
    for number in range(rounds):
        taps, made = minimum_phase(power)[None], []
        for _ in range(passes):
            means, variances, state = model(window, state)
            drawn = variances.sqrt().cpu().double().numpy() * normal(means.shape)
            driven = np.concatenate([driven[:, 1 - NOISE_TAPS :], drawn], axis=1)
            made.append(means.cpu().double().numpy() + oaconvolve(driven, taps, mode="valid", axes=1))
            heard = torch.from_numpy(made[-1].clip(-1, LOUDEST)).to(model.unit)
            window = torch.cat([window[:, spacing:], heard], dim=1)
        if number:  # what the first one makes is not yet from what it made itself
            found = spectrum(np.concatenate(made, axis=1))
            power = power * np.sqrt((wanted / found).clip(1 / CORRECTION**2, CORRECTION**2))
            power = np.maximum(power, FLOOR * power.max())
        if number >= rounds // 2:
            settled += np.log(power) / (rounds - rounds // 2)
    model.noise.copy_(torch.from_numpy(minimum_phase(np.exp(settled))))


def spectrum(x: Array) -> Array:
    """The mean power (NOISE_TAPS + 1,) of rows (rows, m) in windows of 2 NOISE_TAPS that overlap by half (Welch 1967);
    rows that are shorter than one are read end to end."""
    size = 2 * NOISE_TAPS
    if x.shape[1] < size:
        x = x.reshape(1, -1)
    x = np.pad(x, ((0, 0), (0, max(0, size - x.shape[1]))))
    total, count, shape = np.zeros(NOISE_TAPS + 1), 0, np.hanning(size)
    for row in x:
        windows = np.lib.stride_tricks.sliding_window_view(row, size)[:: size // 2]
        for block in range(0, len(windows), 1024):
            total += (np.abs(np.fft.rfft(windows[block : block + 1024] * shape)) ** 2).sum(axis=0)
        count += len(windows)
    return np.maximum(total / count, np.finfo(np.float64).tiny)


def minimum_phase(power: Array) -> Array:
    """The filter (NOISE_TAPS,) with a power spectrum (NOISE_TAPS + 1,) that answers soonest, so that what is drawn is
    loud when the predicted deviation is large: from the folded cepstrum (Oppenheim and Schafer 1975)."""
    cepstrum = np.fft.irfft(np.log(power) / 2)
    size = len(cepstrum)
    cepstrum[1 : size // 2] *= 2
    cepstrum[size // 2 + 1 :] = 0
    return np.asarray(np.fft.irfft(np.exp(np.fft.rfft(cepstrum)))[:NOISE_TAPS])
