"""Tables of the fields of every JSON document that charrnn stores, and the one function that validates them.

Files of a run may come from another person, from an older version or from a damaged disk, so each document is validated
when it is read. A network's ``model`` is validated by its configuration class, `charrnn.models.config`.
"""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass, replace
from typing import Any

from bytecodec.arguments import HIGHEST_RATE
from bytecodec.errors import InputError, printable
from charrnn.data.recordings import MAX_GAIN, NORMALIZE_OVER
from charrnn.runtime import MAX_THREADS

REQUIRED = object()  # default of a field that every version wrote
OPTIONAL = object()  # default of a field that stays missing
MAX_SHOWN = 60  # characters of a value in a message
MAX_INT, MAX_SEED = 2**63 - 1, 2**64 - 1
MAX_NUMBER = 1e30  # of a training setting; larger values are mistakes, and would overflow
LARGEST_FLOAT = sys.float_info.max
INFINITE = (float("inf"), -float("inf"))
UNSHOWN = (MAX_INT, MAX_SEED, MAX_NUMBER, LARGEST_FLOAT)  # bounds that messages omit
NAMES = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    list: "a list",
    dict: "a JSON object",
}


def validate(document: Any, schema: Schema, source: object, partial: bool = False) -> dict[str, Any]:
    """Return a document with the defaults of the fields that it lacks, or raise InputError, which names a wrong field.

    Fields that are not in the schema are kept as they are. If ``partial``, required fields may be missing. The message
    begins with the ``source``, usually a path.
    """
    try:
        return _validate(document, schema, partial)
    except ValueError as error:
        raise InputError(f"{source}: {error}.") from None


@dataclass(frozen=True)
class Field:
    """Type and range of a field. Bounds apply to numbers; a float field accepts an int, and no number field a bool."""

    type: type
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None  # exclusive, as the next one
    below: float | None = None
    choices: tuple[str, ...] = ()  # the texts that are possible; () for any
    nullable: bool = False
    items: Field | None = None  # what each item of a list may hold, or each value of a table whose names are free
    fields: Schema | None = None  # of a table that has no others
    default: Any = REQUIRED  # the value of a missing field, or `REQUIRED` or `OPTIONAL`

    def check(self, name: str, value: Any) -> None:
        """Raise ValueError, which names the field and the value, if the value is impossible."""
        if value is None and self.nullable:
            return
        if not self._has_type(value) or not self._in_range(value):
            raise ValueError(f"{name} is {quote(value)}, and must be {self.describe()}")
        if self.items:
            for item in value.values() if isinstance(value, dict) else value:
                self.items.check(f"an item of {name}", item)
        if self.fields is not None:
            if foreign := [key for key in value if key not in self.fields]:
                raise ValueError(f"{name} has the unknown field {quote(foreign[0])}")
            _validate(value, self.fields, where=f" of {name}")

    def _has_type(self, value: Any) -> bool:
        if isinstance(value, bool) or self.type is not float:
            return isinstance(value, self.type) and (self.type is bool or not isinstance(value, bool))
        return isinstance(value, int | float) and (value != value or abs(value) <= LARGEST_FLOAT or value in INFINITE)

    def _in_range(self, value: Any) -> bool:
        return (
            (not self.choices or value in self.choices)
            and (self.minimum is None or value >= self.minimum)
            and (self.maximum is None or value <= self.maximum)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def describe(self) -> str:
        """Return what the field may hold, such as 'a whole number at least 1'."""
        bounds = {"at least": self.minimum, "at most": self.maximum, "above": self.above, "below": self.below}
        texts = [f"{word} {bound:,g}" for word, bound in bounds.items() if bound is not None and bound not in UNSHOWN]
        kind = f"one of {', '.join(self.choices)}" if self.choices else NAMES[self.type]
        return f"{kind} {' and '.join(texts)}".rstrip() + " or null" * self.nullable


Schema = dict[str, Field]


def _validate(document: Any, schema: Schema, partial: bool = False, where: str = "") -> dict[str, Any]:
    if not isinstance(document, dict):
        raise ValueError(f"it must be a JSON object, not {'null' if document is None else quote(document)}")
    found = dict(document)
    for name, field in schema.items():
        if name in found:
            field.check(name + where, found[name])
        elif field.default is REQUIRED and not partial:
            raise ValueError(f"{name}{where} is missing")
        elif field.default is not REQUIRED and field.default is not OPTIONAL:
            found[name] = copy.copy(field.default)
    return found


def quote(value: object) -> str:
    """Return a value as messages show it, at most `MAX_SHOWN` characters of it."""
    return printable(repr(value), MAX_SHOWN)


def _count(**options: Any) -> Field:
    """Return a field for a whole number that fits in 64 bits, 0 or more unless the options set another bound."""
    return Field(int, **({"minimum": 0, "maximum": MAX_INT} | options))


_GAIN = Field(float, -MAX_GAIN, MAX_GAIN, default=OPTIONAL)
_RATE = Field(int, 1, HIGHEST_RATE, nullable=True)  # in Hz; null for text
_ENCODING = Field(str, choices=("linear", "mulaw"), nullable=True)
_SEED = Field(int, 0, MAX_SEED)

SOUND: Schema = {  # `charrnn.data.recordings.SoundOptions.to_json`
    "channel": _count(minimum=1, nullable=True, default=OPTIONAL),
    "remove_dc": Field(bool, default=OPTIONAL),
    "normalize": Field(bool, default=OPTIONAL),
    "normalize_over": Field(str, choices=NORMALIZE_OVER, default=OPTIONAL),
    "gain_db": _GAIN,
    "set_gain_db": replace(_GAIN, nullable=True),
}
_SOUND = Field(dict, fields=SOUND, nullable=True, default=None)  # older versions did not write it

CHECKPOINT: Schema = {  # metadata of a checkpoint, next to model and vocab
    "step": _count(default=0),
    "epoch": Field(float, 0, MAX_INT, default=0.0),
    "rate": replace(_RATE, default=None),
    "encoding": replace(_ENCODING, default=None),
    "sound": _SOUND,
    "train_loss": Field(float, nullable=True, default=None),
    "val_loss": Field(float, nullable=True, default=None),
}
SYMBOLS: Schema = CHECKPOINT | {  # of a character network's
    **dict.fromkeys(("level", "loudest"), Field(float, 0.5, 128, nullable=True, default=None)),
    "calibration": Field(float, 0.1, 10, nullable=True, default=None),
}
_RESUME = {"iteration": _count(), "position": _count(), "checkpointed": _count(), "seconds": Field(float, 0)}
STORED: dict[str, Schema] = {  # metadata of safetensors files, by kind
    "symbols": SYMBOLS | {"model": Field(dict), "vocab": Field(dict)},
    "frames": CHECKPOINT | {"model": Field(dict), "rate": Field(int, 1, HIGHEST_RATE)},
    "resume": _RESUME,
    "streams": {"seed": _SEED, "position": _SEED},
    "frame-streams": {"seed": _SEED, "position": _SEED},
}

BEST: Schema = {"iteration": Field(int), "val_loss": Field(float), "checkpoint": Field(str)}  # best.json

_MEASURES: Schema = {  # `charrnn.sampling.free_running.Measures`
    **dict.fromkeys(("level", "drift"), Field(float, -MAX_NUMBER, MAX_NUMBER)),
    **dict.fromkeys(("spectrum_distance", "peakiness"), Field(float, 0, MAX_NUMBER)),
    **dict.fromkeys(("silent", "clipped"), Field(float, 0, 1)),
}
FREE_RUNNING: Schema = {  # free_running.json
    "iteration": _count(),
    "data": Field(str),  # of which the recording is a part
    "part": Field(str, choices=("train", "all")),
    "seconds": Field(float, 0, MAX_NUMBER),
    "seeds": Field(list, items=Field(dict, fields={"seed": _SEED} | _MEASURES)),  # one item per generated sound
    "stretches": _count(),
    "recording": Field(  # the range of the stretches; null without one
        dict,
        fields={name: Field(dict, fields={"least": one, "greatest": one}) for name, one in _MEASURES.items()},
        nullable=True,
    ),
}

FRAMES_CONFIG: Schema = {  # config.json
    "inputs": Field(list, items=Field(str)),
    "symbols": _count(),
    "rate": _RATE,
    "encoding": _ENCODING,
    "model": Field(dict),
    "training": Field(dict),  # see `TRAINING`
    "val_frac": Field(float, 0, below=1),
    "test_frac": Field(float, 0, below=1),
    "threads": Field(int, 1, MAX_THREADS),
    # Older versions did not write the following ones.
    "sound": _SOUND,
    "processes": _count(minimum=1, default=1),
    "tensorboard": Field(bool, default=False),
    "yardsticks": Field(dict, items=Field(float), default={}),  # bits per sample of other coders, by their names
    "samples": Field(
        dict,
        fields={
            "seconds": Field(float, 0, LARGEST_FLOAT),
            "temperatures": Field(list, items=Field(float, 0, LARGEST_FLOAT)),
        },
        default={"seconds": 0.0, "temperatures": []},
    ),
}
CONFIG: Schema = FRAMES_CONFIG | {"vocab": Field(dict)}

TRAINING: Schema = {  # `charrnn.training.recipe.Settings`
    "recipe": Field(str, choices=("torch-rnn", "modern")),
    "schedule": Field(str, choices=("steps", "cosine")),
    "clip": Field(str, choices=("value", "norm")),
    "gpu_layers": Field(str, choices=("torch", "kernel")),
    "precision": Field(str, choices=("fp32", "bf16")),
    "device": Field(str, choices=("cpu", "cuda", "mps")),
    "smooth": Field(bool),
    **dict.fromkeys(("batch_size", "seq_length", "lr_decay_every", "checkpoint_every"), _count(minimum=1)),
    **dict.fromkeys(("keep", "seed", "warmup", "early_stop"), _count()),
    **dict.fromkeys(("learning_rate", "lr_decay_factor", "grad_clip", "weight_decay"), Field(float, 0, MAX_NUMBER)),
    **dict.fromkeys(("average", "beta2"), Field(float, 0, below=1)),
    **dict.fromkeys(
        ("max_epochs", "max_iterations", "max_minutes"), Field(float, maximum=LARGEST_FLOAT, above=0, nullable=True)
    ),
}
