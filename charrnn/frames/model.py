"""The frame predictor: a network that predicts each sample, a real number, from equally spaced earlier samples.

It follows a blog of the course IFT6266 (Montreal 2016); docs/explanation/frame-predictor.md lists the choices that the
blog leaves open.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from charrnn.data.batches import ContextWindow
from charrnn.models.char_rnn import Layers, State
from charrnn.models.config import check_finite, check_layers, check_whole
from charrnn.storage import checkpoint as files
from charrnn.storage import checkpoint_format, run_dir, schema

KIND = "frames"
LOSSES = ("mse", "gaussian")
FULL_SCALE = 0x8000  # of int16
STEP = 1 / FULL_SCALE
MAX_SAMPLE = 1 - STEP  # the largest sample of int16
MAX_LOG_VARIANCE = 8.0  # relative to the recording's variance; it keeps exp() finite
NOISE_TAPS = 512  # of the filter that shapes the spectrum of the noise
RATE = 16000  # Hz


@dataclass(frozen=True)
class FrameConfig:
    """Configuration of a frame predictor; the fields up to ``layer_norm`` are those of `ModelConfig`.

    The spacing T is the distance in samples between two taps, and from the last tap to the predicted sample. One pass
    generates T samples.
    """

    rnn_size: int = 300
    layers: int = 2
    cell: str = "lstm"
    dropout: float = 0.0
    forget_bias: float | str = "uniform"
    proj_size: int | None = None
    layer_norm: bool = False
    taps: int = 40  # K, the number of samples in the input of a step
    spacing: int = 100  # T
    loss: str = "mse"  # mse: the network predicts a sample; gaussian: its mean and log-variance

    def __post_init__(self) -> None:
        check_layers(self)
        check_whole(self, "taps", "spacing")
        if self.loss not in LOSSES:
            raise ValueError(f"loss is {self.loss!r}, and has to be one of {', '.join(LOSSES)}")

    @property
    def context(self) -> ContextWindow:
        """The samples that a target is predicted from."""
        return ContextWindow(self.taps * self.spacing, self.spacing)

    def to_json(self) -> dict[str, Any]:
        """Return the configuration as it is stored in a checkpoint."""
        return asdict(self)


class FrameRNN(Layers):
    """A network that predicts sample s from samples s - K T, ..., s - 2 T, s - T and its state.

    N is the number of rows, K of taps, T their spacing. The newest input of a step is T samples old, so a window of K T
    samples is enough for T predictions at once, and carried states join windows without a seam. Inputs are divided by
    ``unit`` and predictions multiplied, so quiet recordings are learnt as fast as loud ones, at their own level.
    """

    config: FrameConfig
    window: Tensor  # (K T,) samples of the training recording from which generation begins
    unit: Tensor  # (1,) RMS level of the training recording
    noise: Tensor  # (NOISE_TAPS,) filter of the noise that a gaussian network draws, initially without effect

    def __init__(self, config: FrameConfig) -> None:
        super().__init__()
        self.stack(config, config.taps, LOSSES.index(config.loss) + 1)
        self.register_buffer("window", torch.zeros(config.taps * config.spacing))
        self.register_buffer("unit", torch.ones(1))
        if config.loss == "gaussian":
            self.register_buffer("noise", torch.eye(1, NOISE_TAPS)[0])

    def step_inputs(self, x: Tensor) -> Tensor:
        """Return the K samples (N, M, K) in the input of each of M steps, of x (N, (K - 1) T + M) in order of time.

        For M = T, this is the window of K T samples as a table of K columns, filled column by column.
        """
        taps, spacing = self.config.taps, self.config.spacing
        return x.unfold(1, (taps - 1) * spacing + 1, 1)[..., ::spacing]

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, Tensor | None, State]:
        """Predict the M samples that are T after the last M of x (N, (K - 1) T + M).

        Returns
        -------
        means (N, M) of full scale 1; variances (N, M), or None if the loss is the mean squared error; and the state.
        """
        return self._predict(self.step_inputs(x), state)

    def _predict(self, inputs: Tensor, state: State) -> tuple[Tensor, Tensor | None, State]:
        y, _, state = self.run(inputs / self.unit, state)
        y = y.float()
        means = y[..., 0] * self.unit
        if self.config.loss == "mse":
            return means, None, state
        variances = self.unit**2 * y[..., 1].clamp(max=MAX_LOG_VARIANCE).exp() + STEP**2
        return means, variances, state

    def loss(self, x: Tensor, y: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the mean squared error, or the mean nats of the density, of int16 samples y (N, M), and the state."""
        y = y.float() / FULL_SCALE
        means, variances, state = self._predict(self.step_inputs(x).float() / FULL_SCALE, state)
        if variances is None:
            return functional.mse_loss(means, y), state
        nats = ((y - means) ** 2 / variances + variances.log() + math.log(2 * math.pi)) / 2
        return nats.mean(), state

    def bits(self, loss: float) -> float:
        """Convert a loss to bits per 16-bit sample of a coder that uses the predicted densities.

        For a mean squared error, these are normal densities of that variance.
        """
        if self.config.loss == "mse":
            loss = (math.log(2 * math.pi * max(loss, STEP**2)) + 1) / 2
        return (loss - math.log(STEP)) / math.log(2)


def build(config: FrameConfig, seed: int, samples: NDArray[np.int16]) -> FrameRNN:
    """Make a network for int16 samples (n,), n > K T, with initial weights that depend only on the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = FrameRNN(config)
    level = rms(samples)
    model.unit.fill_(max(level, STEP))
    model.window.copy_(to_float(typical_window(samples, config.taps * config.spacing, level)))
    return model


def to_float(samples: NDArray[np.int16]) -> Tensor:
    """Convert int16 to [-1, 1)."""
    return torch.from_numpy(samples.astype(np.float32) / FULL_SCALE)


def rms(samples: NDArray[np.int16], block: int = 1 << 20) -> float:
    """Return the RMS level, full scale 1, of samples (n,), which are read in blocks."""
    squares = sum(
        float(np.square(samples[start : start + block], dtype=np.float64).sum())
        for start in range(0, len(samples), block)
    )
    return math.sqrt(squares / len(samples)) / FULL_SCALE


def typical_window(samples: NDArray[np.int16], length: int, level: float) -> NDArray[np.int16]:
    """Return the window whose level is closest to a level: recordings often begin and end in silence."""
    starts = range(0, len(samples) - length + 1, max(1, length // 2))
    best = min(starts, key=lambda start: abs(rms(samples[start : start + length]) - level))
    return samples[best : best + length]


@dataclass
class FrameCheckpoint:
    """A trained frame predictor and its metadata; see `charrnn.storage.checkpoint.Checkpoint`."""

    kind: ClassVar[str] = KIND
    model: FrameRNN
    step: int = 0
    epoch: float = 0.0
    rate: int = RATE
    train_loss: float | None = None
    val_loss: float | None = None
    path: str = ""
    sound: dict[str, Any] | None = None

    def metadata(self) -> dict[str, Any]:
        """Return everything but the tensors, as JSON."""
        fields = {name: getattr(self, name, None) for name in schema.CHECKPOINT}
        return {"model": self.model.config.to_json(), **fields}


def load(path: str | Path) -> FrameCheckpoint:
    """Load the checkpoint of a frame predictor, or the newest one of a run directory.

    Raises
    ------
    InputError
        The file is missing, truncated, or not a checkpoint of this kind.
    """
    path = run_dir.checkpoint_path(path)
    metadata = checkpoint_format.read_metadata(path, KIND)
    try:
        config = FrameConfig(**metadata["model"])
        model = files.meta_model(path, config.layers, lambda: FrameRNN(config))
        weights = files.read_tensors(path, KIND)[1]
        check_finite(weights, path)
        files.set_model_tensors(model, weights, assign=True)
        fields = {name: metadata[name] for name in schema.CHECKPOINT if name != "encoding"}
        return FrameCheckpoint(model.eval(), path=str(path), **fields)
    except checkpoint_format.LOAD_ERRORS as error:
        raise checkpoint_format.load_error(path, error) from None
