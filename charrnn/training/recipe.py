"""How a run learns: its settings, the recipes that fill them in, and the learning rate of each moment.

Imports no torch, so that a command line knows its defaults at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from charrnn.storage.schema import MOST_NUMBER, TRAINING, validate

DEFAULT_RECIPE = "modern"
WARMUP_PART = 0.05  # of the planned length, by whose end the rate has risen however short the run is
GPU_LAYERS = TRAINING["gpu_layers"].choices
FORMER_GPU_LAYERS = {  # of older versions, and what replaces them
    "padded": "torch",
    "overlapped": "torch",
    "padded-overlapped": "torch",
    "kernel-overlapped": "kernel",
}


@dataclass(frozen=True)
class Settings:
    """How a run learns. The defaults are torch-rnn's.

    Attributes
    ----------
    recipe
        The name of the recipe that filled in what was not asked for.
    batch_size, seq_length
        N rows and T steps of a batch.
    learning_rate
        Of Adam (Kingma and Ba 2015), at its highest.
    schedule
        How the rate falls, as `learning_rate` says: in steps of epochs, or along a cosine to zero at the planned end.
    lr_decay_every, lr_decay_factor
        Of the schedule ``steps``: the rate is multiplied by the factor as the epochs (counted from 1) pass each
        multiple of ``every``.
    beta2
        How slowly Adam's second moment forgets, in [0, 1): it reaches back 1 / (1 - beta2) iterations.
    warmup
        Iterations over which the rate rises from zero, at most a twentieth of the planned length; 0: none.
    weight_decay
        Of the matrices, in Adam's decoupled form (Loshchilov and Hutter 2019); 0: none.
    smooth
        Whether a network of linear sound begins smooth (`charrnn.models.char_rnn.build`).
    average
        The decay of the averaged weights that are validated and kept, in [0, 1); 0: the last weights themselves.
    grad_clip, clip
        The limit of the gradient, 0: none; of each of its elements (``value``) or of its Euclidean norm (``norm``).
    max_epochs, max_iterations, max_minutes
        Where it ends: at whichever of those that are given comes first.
    early_stop
        It also ends after so many validations without a new best; 0: never.
    checkpoint_every
        Iterations from one validation and checkpoint to the next.
    keep
        How many checkpoints to keep beside the best one; 0: all.
    seed
        Of the initial values and of dropout.
    precision, device
        fp32 or bf16 (autocast; weights stay fp32); cpu, cuda or mps.
    gpu_layers
        Backend of the recurrent layers on an NVIDIA GPU (`charrnn.cuda.backends`); elsewhere torch computes them.
    """

    recipe: str = "torch-rnn"
    batch_size: int = 50
    seq_length: int = 50
    learning_rate: float = 2e-3
    schedule: str = "steps"
    lr_decay_every: int = 5
    lr_decay_factor: float = 0.5
    beta2: float = 0.999
    warmup: int = 0
    weight_decay: float = 0.0
    smooth: bool = False
    average: float = 0.0
    grad_clip: float = 5.0
    clip: str = "value"
    max_epochs: float | None = 50
    max_iterations: int | None = None
    max_minutes: float | None = None
    early_stop: int = 0
    checkpoint_every: int = 1000
    keep: int = 0
    seed: int = 0
    precision: str = "fp32"
    device: str = "cpu"
    gpu_layers: str = "torch"

    def __post_init__(self) -> None:
        validate(asdict(self), TRAINING, "training")

    def to_json(self) -> dict[str, Any]:
        """What config.json keeps of it."""
        return asdict(self)

    @classmethod
    def from_json(cls, kept: Mapping[str, Any], source: object = "training") -> Settings:
        """What config.json kept, of this version or one before it. What it does not have is as its default says.

        Raises
        ------
        TypeError, ValueError
            A name or a value is not one of ours.
        """
        fields = dict(kept)
        fields.pop("pad_units", None)  # older than gpu_layers
        backend = fields.get("gpu_layers")
        if isinstance(backend, str):
            fields["gpu_layers"] = FORMER_GPU_LAYERS.get(backend, backend)
        return cls(**validate(fields, TRAINING, f"training in {source}", partial=True))

    def iterations(self, row_length: int) -> int | None:
        """How many iterations the run takes, or None where the clock decides."""
        per_epoch = row_length // self.seq_length
        ends = [self.max_iterations] if self.max_iterations is not None else []
        if self.max_epochs is not None:
            ends.append(
                math.ceil(round(min(self.max_epochs * per_epoch, MOST_NUMBER), 6)) or 1
            )  # 1.1 x 100 is 110.00000000000001
        return min(ends, default=None)


RECIPES: dict[str, dict[str, Any]] = {
    "torch-rnn": {},
    "modern": {
        "batch_size": 100,
        "learning_rate": 3e-3,
        "schedule": "cosine",
        "beta2": 0.95,
        "warmup": 100,
        "smooth": True,
        "average": 0.995,
        "grad_clip": 1.0,
        "clip": "norm",
    },
}
"""By name, what a recipe says other than the defaults of `Settings`."""

LAYER_NORM = {"torch-rnn": False, "modern": True}
"""By name, whether a recipe's networks are normalised (`charrnn.models.char_rnn.ModelConfig`)."""


def learning_rate(settings: Settings, iteration: int, epoch: int, progress: float) -> float:
    """The rate of an iteration.

    Parameters
    ----------
    iteration
        Those done before it.
    epoch
        Epochs done before it, whole.
    progress
        The part of the planned length that is done, in [0, 1].

    Notes
    -----
    ``steps`` is torch-rnn's. ``cosine`` is that of Loshchilov and Hutter 2017 without restarts: half a period over the
    planned length, down to zero, so that the end of a run takes the smallest steps whatever its length is.
    """
    rate = settings.learning_rate
    if settings.warmup:
        rate *= min(1.0, max((iteration + 1) / settings.warmup, progress / WARMUP_PART))
    if settings.schedule == "steps":
        return rate * settings.lr_decay_factor ** ((epoch + 1) // settings.lr_decay_every)
    return rate * (1 + math.cos(math.pi * min(progress, 1.0))) / 2
