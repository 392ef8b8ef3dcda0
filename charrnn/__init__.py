"""A byte-level char-RNN for sound, modelled on torch-rnn.

Importing the package does not import torch: each name below is loaded from its module at first use.
"""

from __future__ import annotations

import importlib
from typing import Any

from bytecodec import __version__

_HOME = {
    "load": ("charrnn.storage.checkpoint", "load_model"),
    "engine": ("charrnn.engines", "engine"),
    "measure_seams": ("charrnn.sampling.seams", "measure_seams"),
    "CharRNN": ("charrnn.models.char_rnn", "CharRNN"),
    "ModelConfig": ("charrnn.models.config", "ModelConfig"),
    "Vocab": ("charrnn.data.vocab", "Vocab"),
}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'charrnn' has no attribute {name!r}")
    module, attribute = _HOME[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return __all__
