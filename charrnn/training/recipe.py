"""Training settings, the recipes that fill them in, and the learning rate schedule.

Imports no torch, so that the command line starts quickly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from charrnn.storage.schema import MAX_NUMBER, TRAINING, validate

DEFAULT_RECIPE = "modern"
WARMUP_FRACTION = 0.05  # maximum length of the warm-up as a fraction of the planned length
GPU_LAYERS = TRAINING["gpu_layers"].choices
FORMER_GPU_LAYERS = {  # names of older versions, and their replacements
    **dict.fromkeys(("padded", "overlapped", "padded-overlapped"), "torch"),
    "kernel-overlapped": "kernel",
}
JSON_KEYS = {"smooth_init": "smooth", "ema_decay": "average"}  # of the fields with other names in config.json


@dataclass(frozen=True)
class Settings:
    """Training settings; apart from `JSON_KEYS`, the names are keys of config.json. The defaults are torch-rnn's."""

    recipe: str = "torch-rnn"  # the recipe that filled in settings that were not given
    batch_size: int = 50  # N rows
    seq_length: int = 50  # T steps
    learning_rate: float = 2e-3  # maximum rate of Adam (Kingma and Ba 2015)
    schedule: str = "steps"  # steps lowers the rate after some epochs, cosine lowers it to zero at the planned end
    lr_decay_every: int = 5  # for steps: the rate is lowered if the epoch, counted from 1, is a multiple of it
    lr_decay_factor: float = 0.5
    beta2: float = 0.999  # decay of Adam's second moment, in [0, 1)
    warmup: int = 0  # iterations in which the rate rises from zero, at most a twentieth of the planned length
    weight_decay: float = 0.0  # decoupled decay of the matrices (Loshchilov and Hutter 2019)
    smooth_init: bool = False  # whether networks of linear sound have smooth initial weights (`char_rnn.build`)
    ema_decay: float = 0.0  # decay of the averaged weights that are validated and saved, in [0, 1); 0 for none
    grad_clip: float = 5.0  # limit of the gradient, 0 for none
    clip: str = "value"  # what is limited: each element (value) or the Euclidean norm (norm)
    max_epochs: float | None = 50  # training ends at the first limit that is reached
    max_iterations: int | None = None
    max_minutes: float | None = None
    early_stop: int = 0  # validations without a new lowest loss after which training ends; 0 for never
    checkpoint_every: int = 1000  # iterations between checkpoints, each with a validation
    keep: int = 0  # newest checkpoints to keep besides the best one; 0 for all
    seed: int = 0  # of initial weights, dropout, disturbances, own sound and samples
    precision: str = "fp32"  # fp32, or bf16 (autocast); weights stay in fp32
    device: str = "cpu"  # cpu, cuda or mps
    gpu_layers: str = "torch"  # backend of the recurrent layers on an NVIDIA GPU (`charrnn.cuda.backends`)

    def __post_init__(self) -> None:
        validate(self.to_json(), TRAINING, "training")

    def to_json(self) -> dict[str, Any]:
        return {JSON_KEYS.get(name, name): value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any], source: object = "training") -> Settings:
        """Return the settings from config.json of this or an older version; missing ones have their defaults.

        Raise TypeError for an unknown name, and InputError for an impossible value.
        """
        fields = dict(stored)
        fields.pop("pad_units", None)  # older than gpu_layers
        backend = fields.get("gpu_layers")
        if isinstance(backend, str):
            fields["gpu_layers"] = FORMER_GPU_LAYERS.get(backend, backend)
        fields = validate(fields, TRAINING, f"training in {source}", partial=True)
        if foreign := JSON_KEYS.keys() & fields:
            raise TypeError(f"{min(foreign)} is not a setting in config.json")
        names = {key: name for name, key in JSON_KEYS.items()}
        return cls(**{names.get(key, key): value for key, value in fields.items()})

    def iterations(self, row_length: int) -> int | None:
        """Return the number of iterations of a run, or None if only the time is limited."""
        per_epoch = row_length // self.seq_length
        ends = [self.max_iterations] if self.max_iterations is not None else []
        if self.max_epochs is not None:
            iterations = round(min(self.max_epochs * per_epoch, MAX_NUMBER), 6)  # 1.1 x 100 is 110.00000000000001
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
        "smooth_init": True,
        "ema_decay": 0.995,
        "grad_clip": 1.0,
        "clip": "norm",
    },
}
"""Settings of each recipe that differ from the defaults of `Settings`."""

NETWORKS: dict[str, dict[str, Any]] = {"torch-rnn": {"layer_norm": False}, "modern": {"layer_norm": True}}
"""Fields of a `charrnn.models.config.ModelConfig` that each recipe sets."""

SAMPLES: dict[str, dict[str, Any]] = {
    "torch-rnn": {"context": 0, "prediction": "none", "noise": 0.0},
    "modern": {"context": 31, "prediction": "lpc-long", "noise": 2.0},
}
"""Fields of a ModelConfig that each recipe sets for linear sound, unless the flag is given."""


def learning_rate(settings: Settings, iteration: int, epoch: int, progress: float) -> float:
    """Return the learning rate after a number of iterations and of whole epochs, at a fraction of the planned length.

    The schedule ``steps`` is torch-rnn's. ``cosine`` is that of Loshchilov and Hutter 2017 without restarts: half a
    period over the planned length, down to zero.
    """
    rate = settings.learning_rate
    if settings.warmup:
        rate *= min(1.0, max((iteration + 1) / settings.warmup, progress / WARMUP_FRACTION))
    if settings.schedule == "steps":
        return rate * settings.lr_decay_factor ** ((epoch + 1) // settings.lr_decay_every)
    return rate * (1 + math.cos(math.pi * min(progress, 1.0))) / 2
