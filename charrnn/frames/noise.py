"""The filter that shapes the spectrum of the noise of a Gaussian frame predictor."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from charrnn.data.batches import ContiguousBatches
from charrnn.frames.model import FULL_SCALE, MAX_SAMPLE, NOISE_TAPS, FrameRNN

SAMPLES = 300_000  # of the recording that are measured
ROW_SAMPLES = 100_000  # largest total of a pass over all rows
ROWS = 64
FLOOR = 1e-8  # relative to the largest power of a spectrum: -80 dB, as lower powers would need a longer filter

GENERATED_ROWS = 16  # rows that are generated in parallel
MAX_GENERATED_SAMPLES = 80_000  # samples per row in all rounds together
MAX_GENERATED_PASSES = 1_000  # passes in all rounds together
MAX_ROUNDS = 16  # rounds of generation, after each of which the filter is corrected
MIN_ROUNDS = 4  # with fewer, the filter is not corrected
MIN_ROUND_SAMPLES = 4096  # samples per row
CORRECTION = 4.0  # largest factor by which a power is changed after a round

Array = NDArray[np.float64]


def shape_noise(model: FrameRNN, samples: NDArray[np.int16]) -> None:
    """Fit the noise filter of a Gaussian network to int16 samples (n,); leave any other network unchanged.

    The T samples of a pass are drawn independently, so without a filter the noise is white and sounds like hiss. With
    predicted standard deviations s(t) and white noise n(t), the filter is applied to s(t) n(t), and is chosen so that
    the result has the long-term spectrum of the prediction errors on the recording.

    Then the network generates from windows at equal distances in the recording, and the filter is corrected after each
    round until the generated sound has the recording's long-term spectrum, and with it its level. This step is
    skipped if the windows are so long that there would be fewer than `MIN_ROUNDS` rounds.
    """
    if model.config.loss != "gaussian":
        return
    training = model.training
    model.eval()
    errors, scales = measure(model, samples)
    power = spectrum(errors)
    power = np.maximum(power, FLOOR * power.max())
    taps = minimum_phase(power)
    power *= np.mean(errors**2) / np.mean(scales**2) / np.sum(taps**2)
    model.noise.copy_(torch.from_numpy(minimum_phase(power)))
    match_spectrum(model, samples, power)
    model.train(training)


@torch.no_grad()
def measure(model: FrameRNN, samples: NDArray[np.int16]) -> tuple[Array, Array]:
    """Return the prediction errors of samples (n,), and the predicted standard deviations, (rows, m) each."""
    spacing, context = model.config.spacing, model.config.context
    rows = max(1, min(ROWS, ROW_SAMPLES // spacing, (len(samples) - context.max_lag) // (4 * spacing)))
    batches = ContiguousBatches(samples, rows, spacing, context=context)
    passes = min(max(2, SAMPLES // (rows * spacing)), batches.row_length // spacing)
    state = model.initial_state(rows)
    errors, scales = [], []
    for number in range(passes):
        x, y = (torch.from_numpy(a).to(model.unit).float() / FULL_SCALE for a in batches.at(number * spacing, spacing))
        means, variances, state = model(x, state)
        if number or passes == 1:  # the first pass starts from the zero state
            errors.append((y - means).cpu().double().numpy())
            scales.append(variances.sqrt().cpu().double().numpy())
    return np.concatenate(errors, axis=1), np.concatenate(scales, axis=1)


@torch.no_grad()
def match_spectrum(model: FrameRNN, samples: NDArray[np.int16], power: Array) -> None:
    """Correct the filter, of this power spectrum, until generated sound has the spectrum of samples (n,)."""
    from scipy.signal import oaconvolve  # slow to import

    spacing, max_lag = model.config.spacing, model.config.context.max_lag
    passes = -(-max(max_lag, MIN_ROUND_SAMPLES) // spacing)
    rounds = min(MAX_ROUNDS, MAX_GENERATED_SAMPLES // (passes * spacing), MAX_GENERATED_PASSES // passes)
    if rounds < MIN_ROUNDS:
        return
    starts = np.linspace(0, len(samples) - max_lag, GENERATED_ROWS).astype(int)
    window = torch.from_numpy(np.stack([samples[at : at + max_lag] for at in starts])).to(model.unit) / FULL_SCALE
    target = spectrum(samples[None].astype(np.float64) / FULL_SCALE)
    history, state = np.zeros((GENERATED_ROWS, NOISE_TAPS - 1)), model.initial_state(GENERATED_ROWS)
    normal = np.random.Generator(np.random.Philox(0)).standard_normal
    log_power = np.zeros_like(power)
    for number in range(rounds):
        taps, generated = minimum_phase(power)[None], []
        for _ in range(passes):
            means, variances, state = model(window, state)
            drawn = variances.sqrt().cpu().double().numpy() * normal(means.shape)
            noise = np.concatenate([history, drawn], axis=1)
            history = noise[:, 1 - NOISE_TAPS :]
            generated.append(means.cpu().double().numpy() + oaconvolve(noise, taps, mode="valid", axes=1))
            feedback = torch.from_numpy(generated[-1].clip(-1, MAX_SAMPLE)).to(model.unit)
            window = torch.cat([window[:, spacing:], feedback], dim=1)
        if number:  # the first round still reads the recording
            found = spectrum(np.concatenate(generated, axis=1))
            power = power * np.sqrt((target / found).clip(1 / CORRECTION**2, CORRECTION**2))
            power = np.maximum(power, FLOOR * power.max())
        if number >= rounds // 2:
            log_power += np.log(power) / (rounds - rounds // 2)
    model.noise.copy_(torch.from_numpy(minimum_phase(np.exp(log_power))))


def spectrum(x: Array) -> Array:
    """Return the mean power (NOISE_TAPS + 1,) of rows (rows, m) in windows of 2 NOISE_TAPS that overlap by half.

    This is Welch's method (1967). Rows shorter than a window are concatenated.
    """
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
    """Return the minimum-phase filter (NOISE_TAPS,) of a power spectrum (NOISE_TAPS + 1,).

    Its response is earliest, so the noise is loud where the predicted standard deviation is large. It is computed from
    the folded cepstrum (Oppenheim and Schafer 1975).
    """
    cepstrum = np.fft.irfft(np.log(power) / 2)
    size = len(cepstrum)
    cepstrum[1 : size // 2] *= 2
    cepstrum[size // 2 + 1 :] = 0
    return np.asarray(np.fft.irfft(np.exp(np.fft.rfft(cepstrum)))[:NOISE_TAPS])
