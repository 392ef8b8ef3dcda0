"""The frame predictor: samples as real numbers, each predicted from samples at equal distances before it.

After a blog of the course IFT6266 (Montreal 2016); docs/model.md says what it left open.
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
from charrnn.models.config import check_layers, check_whole
from charrnn.storage import checkpoint as files
from charrnn.storage import checkpoint_format, run_dir, schema

KIND = "frames"
LOSSES = ("mse", "gaussian")
FULL_SCALE = 0x8000  # of int16
STEP = 1 / FULL_SCALE
LOUDEST = 1 - STEP  # the highest sample that int16 holds
MOST_LOG_VARIANCE = 8.0  # in units of the recording's variance: what lies above is no sound, and exp of it has an end
NOISE_TAPS = 512  # of the filter that gives what is drawn the spectrum of what cannot be predicted
RATE = 16000


@dataclass(frozen=True)
class FrameConfig:
    """Configuration of a frame predictor; the fields up to ``layer_norm`` are those of `ModelConfig`.

    Attributes
    ----------
    taps
        N, the samples that a step sees.
    spacing
        T, the samples from one to the next of them, and from the last to the one that is predicted; also the length of
        a pass.
    loss
        mse: it predicts a number; gaussian: a mean and a log-variance.
    """

    rnn_size: int = 300
    layers: int = 2
    cell: str = "lstm"
    dropout: float = 0.0
    forget_bias: float | str = "uniform"
    proj_size: int | None = None
    layer_norm: bool = False
    taps: int = 40
    spacing: int = 100
    loss: str = "mse"

    def __post_init__(self) -> None:
        check_layers(self)
        check_whole(self, "taps", "spacing")
        if self.loss not in LOSSES:
            raise ValueError(f"loss is {self.loss!r}, and has to be one of {', '.join(LOSSES)}")

    @property
    def context(self) -> ContextWindow:
        """Which samples belong to a target."""
        return ContextWindow(self.taps * self.spacing, self.spacing)

    def to_json(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return asdict(self)


class FrameRNN(Layers):
    """A network that predicts sample s from samples s - N T, ..., s - 2 T, s - T and its state.

    B rows, N taps, T their spacing. Between samples lies no more than the state, so a window of N T samples is enough
    for T predictions at once, and carried states join windows without a seam.

    Attributes
    ----------
    window
        (N T,) the samples from which it begins to generate, of the recording that it was trained on.
    unit
        The deviation of that recording, in which the network counts: what it reads is divided by it and what it
        predicts multiplied, so that quiet recordings are learnt as fast as loud ones and no level is changed.
    noise
        Of a gaussian one, (NOISE_TAPS,): the filter of what is drawn (`charrnn.frames.noise`), at first without effect.
    """

    config: FrameConfig
    window: Tensor
    unit: Tensor
    noise: Tensor

    def __init__(self, config: FrameConfig) -> None:
        super().__init__()
        self.stack(config, config.taps, LOSSES.index(config.loss) + 1)
        self.register_buffer("window", torch.zeros(config.taps * config.spacing))
        self.register_buffer("unit", torch.ones(1))
        if config.loss == "gaussian":
            self.register_buffer("noise", torch.eye(1, NOISE_TAPS)[0])

    def table(self, x: Tensor) -> Tensor:
        """The N samples (B, M, N) that each of M steps sees, of x (B, (N - 1) T + M) in the order of time.

        For M = T this is the window of N T samples as a table of N columns, filled column by column.
        """
        taps, spacing = self.config.taps, self.config.spacing
        return x.unfold(1, (taps - 1) * spacing + 1, 1)[..., ::spacing]

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, Tensor | None, State]:
        """Predictions for the M samples after x (B, (N - 1) T + M), which are T beyond its last M, and the state.

        Returns
        -------
        means (B, M), full scale 1; their variances (B, M), or None where the loss is the mean squared error; the state.
        """
        return self._predict(self.table(x), state)

    def _predict(self, table: Tensor, state: State) -> tuple[Tensor, Tensor | None, State]:
        y, state = self.run(table / self.unit, state)
        y = y.float()
        means = y[..., 0] * self.unit
        if self.config.loss == "mse":
            return means, None, state
        variances = self.unit**2 * y[..., 1].clamp(max=MOST_LOG_VARIANCE).exp() + STEP**2
        return means, variances, state

    def loss(self, x: Tensor, y: Tensor, state: State) -> tuple[Tensor, State]:
        """Mean squared error, or mean nats of the normal density, of int16 samples y (B, M) given x, and the state."""
        y = y.float() / FULL_SCALE
        means, variances, state = self._predict(self.table(x).float() / FULL_SCALE, state)
        if variances is None:
            return functional.mse_loss(means, y), state
        nats = ((y - means) ** 2 / variances + variances.log() + math.log(2 * math.pi)) / 2
        return nats.mean(), state

    def bits(self, loss: float) -> float:
        """Bits a 16-bit sample that a coder takes which is driven by the predicted densities; for a mean squared error
        by normal ones of that one variance."""
        if self.config.loss == "mse":
            loss = (math.log(2 * math.pi * max(loss, STEP**2)) + 1) / 2
        return (loss - math.log(STEP)) / math.log(2)


def build(config: FrameConfig, seed: int, samples: NDArray[np.int16]) -> FrameRNN:
    """A new network for int16 samples (n,), whose initial values hang on the seed; n > N T."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = FrameRNN(config)
    level = rms(samples)
    model.unit.fill_(max(level, STEP))
    model.window.copy_(as_numbers(typical_window(samples, config.taps * config.spacing, level)))
    return model


def as_numbers(samples: NDArray[np.int16]) -> Tensor:
    """int16 to [-1, 1)."""
    return torch.from_numpy(samples.astype(np.float32) / FULL_SCALE)


def rms(samples: NDArray[np.int16], block: int = 1 << 20) -> float:
    """The level of samples (n,), full scale 1, read in blocks."""
    squares = sum(
        float(np.square(samples[at : at + block], dtype=np.float64).sum()) for at in range(0, len(samples), block)
    )
    return math.sqrt(squares / len(samples)) / FULL_SCALE


def typical_window(samples: NDArray[np.int16], length: int, level: float) -> NDArray[np.int16]:
    """The window of so many samples whose level is nearest to that of all: recordings begin and end in silence."""
    starts = range(0, len(samples) - length + 1, max(1, length // 2))
    return samples[(best := min(starts, key=lambda at: abs(rms(samples[at : at + length]) - level))) : best + length]


@dataclass
class FrameCheckpoint:
    """A trained frame predictor and what is known of it: see `charrnn.storage.checkpoint.Checkpoint`."""

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
        """All but the tensors, as JSON."""
        fields = {name: getattr(self, name, None) for name in schema.CHECKPOINT}
        return {"model": self.model.config.to_json(), **fields}


def load(path: str | Path) -> FrameCheckpoint:
    """Read a frame predictor's checkpoint, or a run directory's newest one.

    Raises
    ------
    InputError
        The file is missing, cut off, or no checkpoint of this kind.
    """
    path = run_dir.checkpoint_path(path)
    metadata = checkpoint_format.read_metadata(path, KIND)
    try:
        config = FrameConfig(**metadata["model"])
        model = files.meta_model(path, config.layers, lambda: FrameRNN(config))
        files.set_model_tensors(model, files.read_tensors(path, KIND)[1], assign=True)
        fields = {name: metadata[name] for name in schema.CHECKPOINT if name != "encoding"}
        return FrameCheckpoint(model.eval(), path=str(path), **fields)
    except checkpoint_format.LOAD_ERRORS as error:
        raise checkpoint_format.load_error(path, error) from None
