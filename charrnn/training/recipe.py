"""Training settings, the recipes that fill them in, and the learning rate schedule.

Imports no torch, so that the command line starts quickly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from charrnn.storage.schema import MOST_NUMBER, TRAINING, validate

DEFAULT_RECIPE = "modern"
WARMUP_PART = 0.05  # maximum length of the warm-up as a fraction of the planned length
GPU_LAYERS = TRAINING["gpu_layers"].choices
FORMER_GPU_LAYERS = {  # names of older versions, and their replacements
    "padded": "torch",
    "overlapped": "torch",
    "padded-overlapped": "torch",
    "kernel-overlapped": "kernel",
}


@dataclass(frozen=True)
class Settings:
    """Training settings; the names are keys of config.json. The defaults are torch-rnn's.

    Attributes
    ----------
    recipe
        Name of the recipe that filled in settings that were not given.
    batch_size, seq_length
        N rows and T steps of a batch.
    learning_rate
        Maximum rate of Adam (Kingma and Ba 2015).
    schedule
        ``steps`` lowers the rate after some epochs, ``cosine`` lowers it to zero at the planned end (`learning_rate`).
    lr_decay_every, lr_decay_factor
        For ``steps``: the rate is multiplied by the factor whenever the epoch, counted from 1, is a multiple of
        ``lr_decay_every``.
    beta2
        Decay of Adam's second moment, in [0, 1).
    warmup
        Iterations in which the rate rises from zero, at most a twentieth of the planned length; 0 for none.
    weight_decay
        Decoupled weight decay of the matrices (Loshchilov and Hutter 2019); 0 for none.
    smooth
        Whether networks of linear sound have smooth initial weights (`charrnn.models.char_rnn.build`).
    average
        Decay of the averaged weights that are validated and saved, in [0, 1); 0 for the weights themselves.
    grad_clip, clip
        Limit of the gradient, 0 for none: of each element (``value``) or of its Euclidean norm (``norm``).
    max_epochs, max_iterations, max_minutes
        Limits of the length; training ends at the first that is reached.
    early_stop
        Number of validations without a new lowest loss after which training ends; 0 for never.
    checkpoint_every
        Number of iterations between checkpoints, each with a validation.
    keep
        Number of newest checkpoints to keep besides the best one; 0 for all.
    seed
        Seed of initial weights and dropout.
    precision, device
        fp32 or bf16 (autocast; weights stay in fp32); cpu, cuda or mps.
    gpu_layers
        Backend of the recurrent layers on an NVIDIA GPU (`charrnn.cuda.backends`).
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
        """Return the settings for config.json."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any], source: object = "training") -> Settings:
        """Return the settings from config.json of this or an older version; missing ones have their defaults.

        Raises
        ------
        TypeError, ValueError
            A name or a value is not valid.
        """
        fields = dict(stored)
        fields.pop("pad_units", None)  # older than gpu_layers
        backend = fields.get("gpu_layers")
        if isinstance(backend, str):
            fields["gpu_layers"] = FORMER_GPU_LAYERS.get(backend, backend)
        return cls(**validate(fields, TRAINING, f"training in {source}", partial=True))

    def iterations(self, row_length: int) -> int | None:
        """Return the number of iterations of a run, or None if only the time is limited."""
        per_epoch = row_length // self.seq_length
        ends = [self.max_iterations] if self.max_iterations is not None else []
        if self.max_epochs is not None:
            iterations = round(min(self.max_epochs * per_epoch, MOST_NUMBER), 6)  # 1.1 x 100 is 110.00000000000001
            ends.append(math.ceil(iterations) or 1)
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
"""Settings of each recipe that differ from the defaults of `Settings`."""

LAYER_NORM = {"torch-rnn": False, "modern": True}
"""Whether the networks of each recipe have layer normalisation (`charrnn.models.config.ModelConfig`)."""


def learning_rate(settings: Settings, iteration: int, epoch: int, progress: float) -> float:
    """Return the learning rate of an iteration.

    The schedule ``steps`` is torch-rnn's. ``cosine`` is that of Loshchilov and Hutter 2017 without restarts: half a
    period over the planned length, down to zero.

    Parameters
    ----------
    iteration
        Number of iterations before this one.
    epoch
        Number of whole epochs before it.
    progress
        Fraction of the planned length before it, in [0, 1].
    """
    rate = settings.learning_rate
    if settings.warmup:
        rate *= min(1.0, max((iteration + 1) / settings.warmup, progress / WARMUP_PART))
    if settings.schedule == "steps":
        return rate * settings.lr_decay_factor ** ((epoch + 1) // settings.lr_decay_every)
    return rate * (1 + math.cos(math.pi * min(progress, 1.0))) / 2
