"""Validation of a run's config.json, which may have been edited by hand."""

from __future__ import annotations

from typing import Any

from bytecodec.arguments import HIGHEST_RATE
from charrnn import runtime
from charrnn.data.recordings import check_sound

NO_SAMPLES: dict[str, Any] = {"seconds": 0.0, "temperatures": []}


def uses_tensorboard(config: dict[str, Any]) -> bool:
    """Return whether the run writes event files for TensorBoard; runs of older versions do not."""
    return config.get("tensorboard") is True


def check_config(config: dict[str, Any]) -> None:
    """Raise KeyError, TypeError or ValueError for values of config.json that no other code checks in time."""
    threads, rate = config["threads"], config["rate"]
    if type(threads) is not int or not 1 <= threads <= runtime.MOST_THREADS:
        raise ValueError(f"threads is {threads!r}")
    if rate is not None and (type(rate) is not int or not 1 <= rate <= HIGHEST_RATE):
        raise ValueError(f"rate is {rate!r}")
    if config["encoding"] not in (None, "linear", "mulaw"):
        raise ValueError(f"encoding is {config['encoding']!r}")
    check_sound(config.get("sound"))  # missing in runs of older versions
    if type(config["symbols"]) is not int:
        raise ValueError(f"symbols is {config['symbols']!r}")
    for name in ("val_frac", "test_frac"):
        if not isinstance(config[name], int | float) or not 0 <= config[name] < 1:
            raise ValueError(f"{name} is {config[name]!r}")
    samples = config.get("samples", NO_SAMPLES)
    if samples.keys() != NO_SAMPLES.keys():
        raise ValueError(f"samples is {samples!r}")
    for value in (samples["seconds"], *samples["temperatures"]):
        if not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise ValueError(f"samples is {samples!r}")
    if not isinstance(config.get("tensorboard", False), bool):
        raise ValueError(f"tensorboard is {config['tensorboard']!r}")
    baselines = config.get("yardsticks", {})  # missing in runs of older versions
    if not isinstance(baselines, dict) or not all(isinstance(bits, int | float) for bits in baselines.values()):
        raise ValueError(f"yardsticks is {baselines!r}")
    if not all(isinstance(name, str) for name in config["inputs"]):
        raise ValueError(f"inputs is {config['inputs']!r}")
