"""The compiled kernel in ctypes: its structures, functions and variants. `kernel/layout.h` explains the fields."""

from __future__ import annotations

import ctypes
import os
from ctypes import POINTER, byref, c_char_p, c_double, c_float, c_int, c_int32, c_int64, c_void_p
from functools import cache
from itertools import count, takewhile
from pathlib import Path
from typing import Any

from bytecodec.errors import InputError

VARIANT_VARIABLE = "CHARRNN_KERNEL"  # environment variable that selects a variant of the kernel
LIBRARY_VARIABLE = "CHARRNN_KERNEL_LIBRARY"  # environment variable with the path of another build of the kernel


class UnavailableError(InputError):
    """Error for a compiled engine that is not built or does not support the network; another engine may."""


def _fields(kind: Any, names: str) -> list[tuple[str, Any]]:
    return [(name, kind) for name in names.split()]


class Matrix(ctypes.Structure):
    """Packed matrix (16 * vectors, inputs)."""

    _fields_ = [
        *_fields(c_int32, "vectors width inputs format"),
        *_fields(c_void_p, "weights scale"),
    ]


class Layer(ctypes.Structure):
    """Structure `Layer` of kernel/layout.h; fields that a cell does not use are 0."""

    _fields_ = [
        *_fields(c_int32, "cell units outputs norm_size"),
        *_fields(c_float, "epsilon"),
        *_fields(Matrix, "input recurrent projection"),
        *_fields(c_void_p, "bias recurrent_bias gain offset"),
    ]


class LinearPredictor(ctypes.Structure):
    """Structure `LinearPredictor` of kernel/layout.h."""

    _fields_ = [
        *_fields(c_int32, "order length hop peak"),
        *_fields(c_void_p, "window"),
        *_fields(c_double, "white_noise noise_floor"),
    ]


class Predictors(ctypes.Structure):
    """Structure `Predictors` of kernel/layout.h."""

    _fields_ = [*_fields(c_int32, "count history"), ("predictor", POINTER(LinearPredictor))]


class Network(ctypes.Structure):
    """Structure `Network` of kernel/layout.h."""

    _fields_ = [
        *_fields(c_int32, "vocab layers embedding_size"),
        *_fields(c_void_p, "table embedding"),
        ("layer", POINTER(Layer)),
        ("output", Matrix),
        ("output_bias", c_void_p),
        *_fields(c_int32, "context history"),
        ("numbers", Matrix),
        ("predictors", POINTER(Predictors)),
        ("correction", Matrix),
        ("correction_bias", c_void_p),
    ]


class Work(ctypes.Structure):
    """Structure `Work` of kernel/layout.h: the arguments of one call."""

    _fields_ = [
        *_fields(c_int64, "streams steps"),
        *_fields(c_void_p, "h c last u forced ids scores y temperatures samples phase"),
    ]


@cache
def library() -> ctypes.CDLL:
    """Load the compiled kernel, or raise UnavailableError if it was not built."""
    path = os.environ.get(LIBRARY_VARIABLE) or Path(__file__).with_name("kernel.library")
    try:
        lib = ctypes.CDLL(str(path))
    except OSError:
        raise UnavailableError(
            "the compiled engine was not built here: install charrnn again where there is a C compiler (gcc or clang)."
        ) from None
    lib.charrnn_variant.restype = c_char_p
    lib.charrnn_size.restype = c_int64
    lib.charrnn_math.argtypes = [c_int, c_int, c_int64, c_void_p, c_void_p]
    lib.charrnn_size.argtypes = [POINTER(Matrix)]
    lib.charrnn_pack.argtypes = [POINTER(Matrix), c_void_p, c_void_p, c_void_p]
    lib.charrnn_table.argtypes = [c_int64, c_int64, c_int64, c_void_p, c_void_p, c_void_p, c_void_p]
    lib.charrnn_predict.argtypes = [c_int, POINTER(Predictors), c_int64, c_int64, *[c_void_p] * 3]
    lib.charrnn_run.argtypes = [c_int, POINTER(Network), POINTER(Work), c_int]
    return lib


def variants() -> dict[str, int]:
    """Return the variants that this processor can run, by name, with their numbers, the fastest first."""
    lib = library()
    names = takewhile(bool, map(lib.charrnn_variant, count()))
    return {name.decode(): i for i, name in enumerate(names) if lib.charrnn_available(i)}


def choose_variant() -> int:
    """Return the number of the fastest variant, or of the one that the environment selects."""
    available = variants()
    name = os.environ.get(VARIANT_VARIABLE) or next(iter(available))
    if name not in available:
        raise InputError(f"{VARIANT_VARIABLE} is {name!r}: this processor can run {', '.join(available)}.")
    return available[name]


def run(variant: int, network: Network, work: Work, threads: int) -> None:
    """Run a network in the kernel, or raise MemoryError."""
    if library().charrnn_run(variant, byref(network), byref(work), threads):
        raise MemoryError
