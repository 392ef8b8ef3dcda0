"""Linear prediction of samples on an NVIDIA GPU, equal to `charrnn.data.predictor` to the last bit."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from charrnn.cuda import predictor_kernels
from charrnn.cuda.lstm_layout import power_of_two
from charrnn.data.predictor import LARGEST, RESOLUTION, LinearPredictor, Predictors, history

CHUNK = 16  # samples whose products are added up at a time
WHOLE = 1.5 * 2.0**52  # adding and subtracting it rounds a double to a whole number
OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}  # a fused product would be rounded only once


def predict(samples: Tensor, phase: Tensor, predictors: Predictors) -> Tensor:
    """Return predictions (N, T + 1, P) for samples (N, `history` + T) and a phase (N,).

    See `charrnn.data.predictor.predict`. The tensors are on the GPU, and nothing waits for it.
    """
    samples, phase = samples.float().contiguous(), phase.int()
    rows, steps = len(samples), samples.shape[1] - history(predictors)
    values = samples.new_empty(rows, steps + 1, len(predictors))
    for i, predictor in enumerate(predictors):
        blocks = (predictor.hop + steps - 1) // predictor.hop + 1
        scratch = samples.new_empty(rows * blocks, 6, _width(predictor), dtype=torch.float64)
        predictor_kernels.predict_blocks[(rows * blocks,)](
            *(samples, phase, *_constants(predictor, samples.device), values[..., i:], scratch, steps, blocks),
            **_sizes(predictor, predictors),
            **OPTIONS,
        )
    return values


class StepPredictor:
    """The same for one sample at a time: coefficients are kept, and computed only when a stream needs new ones."""

    def __init__(self, predictors: Predictors, streams: int, device: torch.device) -> None:
        self._predictors = predictors
        widths = [_width(predictor) for predictor in predictors]
        self._kept = [torch.zeros(streams, width, dtype=torch.float64, device=device) for width in widths]
        self._scratch = torch.zeros(streams, 6, max(widths), dtype=torch.float64, device=device)
        self._values = torch.zeros(streams, 2, len(predictors), device=device)

    def begin(self, samples: Tensor, phase: Tensor) -> None:
        """Compute the coefficients of streams that have read samples (N, `history`) and have a phase (N,)."""
        self._launch(samples, phase, begin=True)

    def __call__(self, samples: Tensor, phase: Tensor, predictors: Predictors) -> Tensor:
        """Return what `predict` returns for samples (N, `history` + 1); the next call overwrites it."""
        self._launch(samples, phase, begin=False)
        return self._values

    def _launch(self, samples: Tensor, phase: Tensor, begin: bool) -> None:
        for i, (predictor, kept) in enumerate(zip(self._predictors, self._kept, strict=True)):
            outputs = (self._values[..., i:], self._scratch, kept)
            predictor_kernels.predict_step[(len(samples),)](
                *(samples.float().contiguous(), phase.int(), *_constants(predictor, samples.device), *outputs),
                BEGIN=begin,
                **_sizes(predictor, self._predictors),
                **OPTIONS,
            )


def _width(predictor: LinearPredictor) -> int:
    """Return the length of a predictor's arrays in the kernel."""
    return power_of_two(predictor.order + 1)


def _sizes(predictor: LinearPredictor, predictors: Predictors) -> dict[str, int]:
    return {
        "ORDER": predictor.order,
        "LENGTH": predictor.length,
        "WIDTH": _width(predictor),
        "HISTORY": history(predictors),
        "HOP": predictor.hop,
        "PREDICTORS": len(predictors),
        "CHUNK": CHUNK,
    }


@cache
def _constants(predictor: LinearPredictor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the window, and the numbers that a kernel's arguments would round."""
    numbers = (
        1 + predictor.white_noise,
        predictor.noise_floor * predictor.power,
        RESOLUTION,
        LARGEST,
        WHOLE,
    )
    return (
        torch.tensor(predictor.window, dtype=torch.float32, device=device),
        torch.tensor(numbers, dtype=torch.float64, device=device),
    )
