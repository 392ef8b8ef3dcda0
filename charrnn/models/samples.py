"""Samples as numbers: what a network of linear sound reads besides the last symbol, and the distribution it outputs.

N streams, T steps, K samples of context, P predictors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from charrnn.data import predictor
from charrnn.data.predictor import PERIOD, Predictors
from charrnn.models import predictor as device_predictor
from charrnn.models.config import BYTES, SILENCE_ID, ModelConfig, sample_corrections, sample_history, sample_inputs

SCALE = 1 / 16  # of samples that are inputs; in recordings they then have a deviation of about 1
TYPICAL_ERROR = 1.5  # of predictions, in steps; differences and the output's scale are relative to it
LEVEL_SAMPLES = 512  # of which the level is measured, or of the history if it is shorter
DISTURBANCE_EVERY = 3000  # samples on average
DISTURBANCE_LENGTHS = (30, 1000)  # samples
AMPLITUDE_RANGE = 100  # of the largest amplitude to the smallest
TONE_SHARE = 0.5  # of the disturbances that are tones; the others are noise
TONE_FREQUENCIES = (0.06, 2.9)  # in radians per sample
OWN_SAMPLES = 1000  # of the network's own sound, which a row of training reads at most; see charrnn.training.own_sound
LARGE = 1 << 17  # samples, with the history, from which rows are divided among threads
LIMIT = 4.0  # of differences that are inputs, and of logarithms in the output
QUADRATIC = 0.05  # factor of the output's quadratic term before training
INITIAL_SPREAD = 2.0  # of the output, twice the logarithm of its scale relative to half of TYPICAL_ERROR

# (N, samples), (N, 1) their phase; in training with noise, (N, 4) a disturbance and (N, 3 + `OWN_SAMPLES`) own sound.
SampleState = tuple[Tensor, ...]
Predict = Callable[[Tensor, Tensor, Predictors], Tensor]
PredictArrays = Callable[[NDArray[np.int8], NDArray[np.int64], Predictors], NDArray[np.float32]]


class SampleReader:
    """Reader of samples as numbers.

    Its state is the last samples, from -128 to 127, where silence is 0; for how many of them the coefficients of the
    predictors have been used; and in training with noise, a disturbance and own sound that fades out. ``predict`` is
    `charrnn.data.predictor.predict` for tensors, or a faster form of it.
    """

    def __init__(self, config: ModelConfig) -> None:
        self.config, self.predict = config, for_tensors(predictor.predict)
        self.size = sample_inputs(config)

    def initial_state(self, like: Tensor, n: int, training: bool = False) -> SampleState:
        """Return the state of n streams before the first sample, on the device of a tensor."""
        noise = (4, 3 + OWN_SAMPLES) if training and self.config.noise else ()
        return tuple(like.new_zeros(n, size) for size in (sample_history(self.config), 1, *noise))

    def disturb(self, ids: Tensor, state: SampleState) -> tuple[Tensor, Tensor, SampleState]:
        """Return ids (N, T + 1) as they are in training, which of them (N, T + 1) are disturbed, and the next state.

        A network that reads what it has generated amplifies its own errors, to noise or to a whistle. So it reads sound
        with bursts of tones and noise. It does not learn to predict them, but what follows: the recording. They are
        relative to the level of the samples before, and are rounded to zero in silence. A row that has begun with the
        network's own sound (`charrnn.training.own_sound`) reads the rest of it, while the recording fades in. The next
        state has what each row reads besides the ids after T.
        """
        steps = ids.shape[1] - 1
        frequency, angle, amplitude, length = self._disturbances(state, steps).T[..., None]
        after = torch.arange(1, steps + 2, device=ids.device)  # samples
        angles = angle + frequency * after
        waves = torch.where(frequency > 0, torch.sin(angles), torch.randn_like(angles))
        disturbed = (after <= length) & (amplitude > 0.5)
        added = (disturbed * amplitude * waves).round().long()
        left = (length - steps).clamp(min=0)
        disturbance = torch.cat([frequency, angles[:, steps - 1 : steps] % math.tau, amplitude, left], dim=1)
        samples, phase, _, own = state
        after_own = torch.cat([own[:, :1] + steps, own[:, 1:]], dim=1)
        return _fade((ids + added).clamp(0, BYTES - 1), own), disturbed, (samples, phase, disturbance, after_own)

    def _disturbances(self, state: SampleState, steps: int) -> Tensor:
        """Return the disturbance (N, 4) of each row, some of which begin, with the first sample of a batch.

        It has a frequency in radians per sample (0: noise), an angle, an amplitude in steps and a length in samples.
        """
        samples, _, current, _ = state
        begins, kind, pitch, angle, size, duration = torch.rand(6, len(samples), 1, device=samples.device)
        level = samples[:, -LEVEL_SAMPLES:].std(dim=1, correction=0, keepdim=True)  # without a DC offset
        frequency = _log_uniform(TONE_FREQUENCIES, pitch) * (kind < TONE_SHARE)
        amplitude = level * _log_uniform((self.config.noise / AMPLITUDE_RANGE, self.config.noise), size)
        fresh = torch.cat([frequency, math.tau * angle, amplitude, _log_uniform(DISTURBANCE_LENGTHS, duration)], dim=1)
        return torch.where(begins < steps / DISTURBANCE_EVERY, fresh, current)

    def read(self, ids: Tensor, state: SampleState) -> tuple[Tensor, Tensor | None, SampleState]:
        """Return inputs (N, T, `size`) after each of ids (N, T), predictions (N, T, P) from -128 to 127, and the state.

        The predictions are those of the next symbols, or None without predictors.
        """
        context, steps = self.config.context, ids.shape[1]
        samples = torch.cat([state[0], (ids - SILENCE_ID).to(state[0].dtype)], dim=1)
        recent = samples[:, samples.shape[1] - steps - context :]
        numbers = recent.unfold(1, context + 1, 1)[:, :, :context]  # (N, T, K) the samples before each of the ids
        _, phase, *noise = state
        after: SampleState = (samples[:, steps:], (phase + steps) % PERIOD, *noise)
        if not self.config.predictors:
            return numbers * SCALE, None, after
        predictions = self.predict(samples, phase[:, 0], self.config.predictors)  # (N, T + 1, P)
        last, following = predictions[:, :-1], predictions[:, 1:]
        current = recent[:, context:, None]
        parts = (
            numbers * SCALE,
            following * SCALE,
            ((following - current) / (4 * TYPICAL_ERROR)).clamp(-LIMIT, LIMIT),
            ((current - last) / TYPICAL_ERROR).clamp(-LIMIT, LIMIT),
        )
        return torch.cat(parts, dim=2), following, after


def for_tensors(predict: PredictArrays) -> Predict:
    """Return a form of `charrnn.data.predictor.predict` for tensors, which on a GPU uses torch's operations."""

    def predict_tensors(samples: Tensor, phase: Tensor, predictors: Predictors) -> Tensor:
        if samples.is_cuda:
            return device_predictor.predict(samples, phase, predictors)
        arrays = (samples.to("cpu", torch.int8).numpy(), phase.to("cpu", torch.int64).numpy())
        many = samples.numel() >= LARGE
        found = _on_threads(predict, *arrays, predictors) if many else predict(*arrays, predictors)
        return torch.from_numpy(found).to(samples.device)

    return predict_tensors


def _on_threads(
    predict: PredictArrays, samples: NDArray[np.int8], phase: NDArray[np.int64], predictors: Predictors
) -> NDArray[np.float32]:
    """Divide the rows among as many threads as torch has."""
    rows = len(samples)
    count = min(rows, torch.get_num_threads())
    shares = [slice(rows * i // count, rows * (i + 1) // count) for i in range(count)]
    with ThreadPoolExecutor(count) as pool:
        return np.concatenate([*pool.map(lambda share: predict(samples[share], phase[share], predictors), shares)])


def _fade(ids: Tensor, own: Tensor) -> Tensor:
    """Return ids (N, T + 1) after a crossfade with constant power from own sound (N, 3 + `OWN_SAMPLES`).

    A row of own sound has the position of the first of the ids, the length of the fade, and samples from -128 to 127,
    as many as `OWN_SAMPLES` and one before them.
    """
    position, length, sound = own[:, :1], own[:, 1:2], own[:, 2:]
    at = position + torch.arange(ids.shape[1], device=ids.device)
    angle = math.pi / 2 * at / length.clamp(min=1)
    fading = sound.gather(1, at.clamp(max=OWN_SAMPLES).long())
    mixed = torch.cos(angle) * fading + torch.sin(angle) * (ids - SILENCE_ID)
    return torch.where(at < length, (SILENCE_ID + mixed.round().long()).clamp(0, BYTES - 1), ids)


def _log_uniform(limits: tuple[float, float], u: Tensor) -> Tensor:
    """Return numbers whose logarithms are uniform between those of the limits, for uniform u in [0, 1)."""
    least, greatest = limits
    return least * (greatest / least) ** u


class LogisticOutput(nn.Module):
    """Log-density of a distribution around the predictions, which is added to the logits of samples.

    It is between a logistic and a normal one: a logistic log-density and a quadratic term. The mean is the first
    prediction, corrected by a shift and by multiples of the differences of the other predictions from it. `correction`
    computes shift, scale, these multiples and the factor of the quadratic term from the output of the last layer,
    of ``size`` units. Its initial weights are near zero, and the distribution is wide: otherwise large errors of the
    predictions, such as those of the first samples of a row, would dominate the first iterations.
    """

    def __init__(self, config: ModelConfig, size: int) -> None:
        super().__init__()
        self.correction = nn.Linear(size, sample_corrections(config))
        with torch.no_grad():
            self.correction.weight.mul_(0.1)
            self.correction.bias.zero_()
            self.correction.bias[1] = INITIAL_SPREAD

    def forward(self, logits: Tensor, correction: Tensor, predictions: Tensor) -> Tensor:
        """Return the sum of logits (..., V) and the log-densities, for a correction (..., 2 + P) of predictions."""
        first, others = predictions[..., :1], predictions[..., 1:]
        correction = correction.float()
        shift, spread, weights, tails = (
            correction[..., :1],
            correction[..., 1:2],
            correction[..., 2:-1],
            correction[..., -1:],
        )
        mean = first + 0.3 * (weights * (others - first)).sum(dim=-1, keepdim=True) + 0.5 * TYPICAL_ERROR * shift
        inverse = 2 / TYPICAL_ERROR * torch.exp(-(0.5 * spread).clamp(-LIMIT, LIMIT))
        z = (torch.arange(-SILENCE_ID, BYTES - SILENCE_ID, device=mean.device) - mean) * inverse
        quadratic = QUADRATIC * tails.clamp(-LIMIT, LIMIT).exp() * z.square()
        density: Tensor = -z - 2 * functional.softplus(-z) - quadratic
        return logits.float() + density
