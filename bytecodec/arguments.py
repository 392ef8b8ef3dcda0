"""Checks of the arguments of public functions, which raise InputError."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bytecodec.errors import InputError

#: Accepted rates in Hz; others come from damaged headers or typing errors.
LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000


def check_rate(rate: int, what: str = "a rate") -> None:
    """Raise InputError for a rate that is not a whole number from 1 to 768 kHz."""
    if isinstance(rate, bool) or not isinstance(rate, int | np.integer):
        raise InputError(f"{what} of {rate!r} Hz is not a whole number.")
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise InputError(f"{what} of {rate:,} Hz is out of range: use 1,000 to 768,000 Hz.")


def check_whole(name: str, value: Any, minimum: int, maximum: int = 2**63 - 1) -> int:
    """Return ``value`` as an int, or raise InputError if it is not a whole number in [minimum, maximum]."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not minimum <= value <= maximum:
        raise InputError(f"{name} is {value!r}; it must be a whole number {_range(minimum, maximum, 2**63 - 1)}.")
    return int(value)


def check_number(name: str, value: Any, minimum: float, maximum: float = math.inf, above: bool = False) -> float:
    """Return ``value`` as a float, or raise InputError if it is not a finite number in [minimum, maximum].

    With ``above``, ``minimum`` itself is rejected as well.
    """
    is_number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not is_number or not (minimum < value if above else minimum <= value) or value > maximum or value == math.inf:
        limits = f"greater than {minimum:g}" if above else _range(minimum, maximum, math.inf)
        raise InputError(f"{name} is {value!r}; it must be a finite number {limits}.")
    return float(value)


def check_choice(name: str, value: Any, choices: Sequence[str]) -> str:
    """Return ``value``, or raise InputError if it is none of the ``choices``."""
    if not isinstance(value, str) or value not in choices:
        raise InputError(f"{name} is {value!r}; it must be one of {', '.join(choices)}.")
    return value


def check_path(name: str, value: Any) -> str:
    """Return a path as a string, or raise InputError if ``value`` is not a path."""
    if not isinstance(value, str | os.PathLike):
        raise InputError(f"{name} is {value!r}; it must be a path.")
    return os.fsdecode(value)


def check_array(name: str, value: Any, dimensions: int) -> NDArray[Any]:
    """Return ``value`` as an array, or raise InputError if it has another number of dimensions."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        raise InputError(f"{name} is not an array with {dimensions} dimensions.") from None
    if array.ndim != dimensions:
        raise InputError(f"{name} has the shape {array.shape}; it must have {dimensions} dimensions.")
    return array


def check_integers(name: str, value: Any, dimensions: int) -> NDArray[np.integer[Any]]:
    """Return ``value`` as an array of whole numbers, or raise InputError for other types or dimensions."""
    array = check_array(name, value, dimensions)
    if array.dtype.kind in "iu":
        return array
    if array.size:
        raise InputError(f"{name} is an array of {array.dtype}; it must be one of whole numbers.")
    return array.astype(np.int64)  # an empty list is an array of floating-point numbers


def check_real(name: str, value: Any, dimensions: int) -> NDArray[Any]:
    """Return ``value`` as an array of finite numbers, or raise InputError for other values or dimensions."""
    array = check_array(name, value, dimensions)
    if array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        raise InputError(f"{name} contains values that are not finite numbers.")
    return array


def _range(minimum: float, maximum: float, unlimited: float) -> str:
    lowest, highest = (f"{limit:g}" if isinstance(limit, float) else str(limit) for limit in (minimum, maximum))
    return f"of at least {lowest}" if maximum == unlimited else f"from {lowest} to {highest}"
