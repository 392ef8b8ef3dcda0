"""The one exception that stands for a user's mistake, as opposed to a mistake of ours, and checks that raise it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


class InputError(ValueError):
    """Something that was given cannot be used.

    ``str(error)`` is one or two sentences for the person who gave it: what is wrong, with the value, the
    file and the offset, and what to do. The commands print it and exit with 1; any other exception is a
    fault of the program and keeps its traceback.
    """


def check_whole(name: str, value: Any, least: int, most: int = 2**63 - 1) -> int:
    """Return ``value`` as an int, or raise InputError if it is not a whole number in [least, most]."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value <= most:
        raise InputError(f"{name} is {value!r}, and has to be a whole number {_range(least, most, 2**63 - 1)}.")
    return int(value)


def check_number(name: str, value: Any, least: float, most: float = math.inf, above: bool = False) -> float:
    """Return ``value`` as a float, or raise InputError if it is not a finite number in [least, most].

    With ``above``, ``least`` itself is rejected as well.
    """
    is_number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not is_number or not (least < value if above else least <= value) or value > most or value == math.inf:
        limits = f"greater than {least:g}" if above else _range(least, most, math.inf)
        raise InputError(f"{name} is {value!r}, and has to be a finite number {limits}.")
    return float(value)


def check_choice(name: str, value: Any, choices: Sequence[str]) -> str:
    """Return ``value``, or raise InputError if it is none of the ``choices``."""
    if not isinstance(value, str) or value not in choices:
        raise InputError(f"{name} is {value!r}, and has to be one of {', '.join(choices)}.")
    return value


def _range(least: float, most: float, unlimited: float) -> str:
    lowest, highest = (f"{limit:g}" if isinstance(limit, float) else str(limit) for limit in (least, most))
    return f"of at least {lowest}" if most == unlimited else f"from {lowest} to {highest}"
