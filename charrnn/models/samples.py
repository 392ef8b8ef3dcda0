"""Samples as numbers: what a network of linear sound reads besides the last symbol, and the distribution it outputs.

N streams, T steps, K samples of context, P predictors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from charrnn.data import predictor
from charrnn.data.predictor import HOP, PREDICTORS
from charrnn.models import predictor as device_predictor
from charrnn.models.config import BYTES, MIDDLE, ModelConfig, sample_inputs, sample_state_sizes

SCALE = 1 / 16  # of samples that are inputs; in recordings they then have a deviation of about 1
STEP_VARIANCE = 0.25  # in steps squared, added to an error's variance: no prediction is better than half a step
LEVEL_SAMPLES = 512  # of which the level is measured
LIMIT = 4.0  # of inputs that are relative to an error's scale

SampleState = tuple[Tensor, ...]  # (N, samples) the last samples, and with prediction (N, 1) their phase
Predict = Callable[[NDArray[np.int8], NDArray[np.int64]], tuple[NDArray[np.float32], NDArray[np.float32]]]


class Prediction(NamedTuple):
    """Predictions of the next samples."""

    values: Tensor  # (N, T, P) in -128 to 127
    scale: Tensor  # (N, T, 1) deviation of the first one's errors, with that of rounding


class SampleReader:
    """Reader of samples as numbers, for networks of a configuration.

    Its state is the last samples, from -128 to 127, where silence is 0, and for how many of them the predictor's
    coefficients have been used. ``predict`` is `charrnn.data.predictor.predict` or a faster form of it.
    """

    def __init__(self, config: ModelConfig) -> None:
        self.config, self.predict = config, predictor.predict
        self.size = sample_inputs(config)

    def initial_state(self, like: Tensor, n: int) -> SampleState:
        """Return the state of n streams before the first sample, on the device of a tensor."""
        return tuple(like.new_zeros(n, size) for size in sample_state_sizes(self.config))

    def add_noise(self, ids: Tensor, state: SampleState) -> Tensor:
        """Return ids (N, T) with Gaussian noise, whose deviation is ``noise`` times the level of the samples before.

        A network that learns to predict the next sample from a noisy past removes noise, and with it the energy of the
        errors that would accumulate when it reads what it has generated. In silence the noise is rounded to zero.
        """
        samples = torch.cat([state[0], (ids - MIDDLE).to(state[0].dtype)], dim=1)
        energy = functional.pad(samples.double().square().cumsum(dim=1), (1, 0))
        steps, length = ids.shape[1], min(LEVEL_SAMPLES, samples.shape[1] - ids.shape[1])
        level = ((energy[:, -steps:] - energy[:, -steps - length : -length]) / length).sqrt()
        noise = self.config.noise * level * torch.randn_like(level)
        return (ids + noise.round().long()).clamp(0, BYTES - 1)

    def read(self, ids: Tensor, state: SampleState) -> tuple[Tensor, Prediction | None, SampleState]:
        """Return inputs (N, T, `size`) after each of ids (N, T), predictions of the next symbols, and the state."""
        context, steps = self.config.context, ids.shape[1]
        samples = torch.cat([state[0], (ids - MIDDLE).to(state[0].dtype)], dim=1)
        recent = samples[:, samples.shape[1] - steps - context :]
        numbers = recent.unfold(1, context + 1, 1)[:, :, :context]  # (N, T, K) the samples before each of the ids
        after: SampleState = (samples[:, steps:],)
        if self.config.prediction == "none":
            return numbers * SCALE, None, after
        phase = state[1]
        values, scales = self._predictions(samples, phase)
        scale = (scales[:, 1:, :1].square() + STEP_VARIANCE).sqrt()
        last, values = values[:, :-1], values[:, 1:]
        current = recent[:, context:, None]
        parts = (
            numbers * SCALE,
            values * SCALE,
            ((values - current) / (4 * scale)).clamp(-LIMIT, LIMIT),
            ((current - last) / scale).clamp(-LIMIT, LIMIT),
            (scales[:, 1:] + 0.1).log(),
        )
        return torch.cat(parts, dim=2), Prediction(values, scale), (*after, (phase + steps) % HOP)

    def _predictions(self, samples: Tensor, phase: Tensor) -> tuple[Tensor, Tensor]:
        """Return the predictions and scales (N, T + 1, P) of the predictor for samples (N, HISTORY + T)."""
        if samples.is_cuda:
            return device_predictor.predict(samples, phase[:, 0])
        arrays = self.predict(samples.to("cpu", torch.int8).numpy(), phase[:, 0].to("cpu", torch.int64).numpy())
        values, scales = (torch.from_numpy(array).to(samples.device) for array in arrays)
        return values, scales


class LogisticOutput(nn.Module):
    """Log-density of a logistic distribution around the predictions, which is added to the logits of samples.

    The mean is the first prediction, corrected by a multiple of its error's scale and of the differences of the other
    predictions from it; the scale is a multiple of the error's scale. `correction` computes these from the last layer.
    It begins near zero.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.correction = nn.Linear(size, 1 + len(PREDICTORS))
        with torch.no_grad():
            self.correction.weight.mul_(0.1)
            self.correction.bias.zero_()

    def forward(self, logits: Tensor, correction: Tensor, prediction: Prediction) -> Tensor:
        """Return the sum of logits (..., V) and the log-densities for a correction (..., 1 + P)."""
        correction = correction.float()
        shift, spread, weights = correction[..., :1], correction[..., 1:2], correction[..., 2:]
        first, others = prediction.values[..., :1], prediction.values[..., 1:]
        mean = first + 0.3 * (weights * (others - first)).sum(dim=-1, keepdim=True) + 0.5 * shift * prediction.scale
        inverse = 2 * torch.exp(-(0.5 * spread).clamp(-LIMIT, LIMIT)) / prediction.scale
        z = (torch.arange(-MIDDLE, BYTES - MIDDLE, device=mean.device) - mean) * inverse
        density: Tensor = -z - 2 * functional.softplus(-z)
        return logits.float() + density
