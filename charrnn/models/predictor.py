"""Linear prediction of samples in torch's operations, for NVIDIA GPUs; `charrnn.data.predictor` is the reference.

Shapes depend on the number of rows and steps only, and nothing waits for the device, so it can be part of a CUDA graph.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from charrnn.data.predictor import LARGEST, RESOLUTION, LinearPredictor, Predictors, history


def predict(samples: Tensor, phase: Tensor, predictors: Predictors) -> Tensor:
    """Return predictions (N, T + 1, P) for samples (N, `history` + T) and a phase (N,).

    See `charrnn.data.predictor.predict`.
    """
    samples, phase = samples.double(), phase.long()
    return torch.stack([_predict(one, samples, phase, history(predictors)) for one in predictors], dim=2).float()


def _predict(predictor: LinearPredictor, samples: Tensor, phase: Tensor, before: int) -> Tensor:
    steps = samples.shape[1] - before + 1
    device = samples.device
    hop, used = predictor.hop, phase[:, None] % predictor.hop
    block = (used + torch.arange(steps, device=device)) // hop  # (N, T + 1)
    blocks = torch.arange((hop + steps - 2) // hop + 1, device=device)
    starts = (before - used + hop * blocks).clamp(max=samples.shape[1])  # (N, blocks)
    window = torch.arange(-predictor.length, 0, device=device)
    row = torch.arange(len(samples), device=device)[:, None]
    coefficients = _solve(predictor, samples[row[..., None], starts[..., None] + window])
    histories = samples.unfold(1, predictor.order, 1)[:, -steps:]  # (N, T + 1, order), the newest sample last
    predictions = (histories.flip(2) * coefficients[row, block]).sum(dim=2)
    return predictions.clamp(-128, 127)


def _solve(predictor: LinearPredictor, windows: Tensor) -> Tensor:
    """Return coefficients (..., order) for windows (..., length)."""
    size = 1 << (predictor.length + predictor.order).bit_length()
    spectrum = torch.fft.rfft(windows * _window(predictor, windows.device), size)
    squares = spectrum.real.square() + spectrum.imag.square()
    r = torch.fft.irfft(squares, size)[..., : predictor.order + 1].round()
    u, v = r[..., 1:], r[..., :-1].clone()
    v[..., 0] = v[..., 0] * (1 + predictor.white_noise) + predictor.noise_floor * predictor.power
    a = r[..., :0]
    while u.shape[-1]:
        k = u[..., :1] / v[..., :1]
        a = torch.cat([a - k * a.flip(-1), k], dim=-1)
        u, v = u[..., 1:] - k * v[..., 1:], (v - k * u)[..., :-1]
    limit = LARGEST * RESOLUTION
    rounded: Tensor = (a * RESOLUTION).round().clamp(-limit, limit) / RESOLUTION
    return rounded


@cache
def _window(predictor: LinearPredictor, device: torch.device) -> Tensor:
    """Return the window on a device, cached because a CUDA graph cannot copy it there."""
    return torch.from_numpy(predictor.window.astype(np.float64)).to(device)
