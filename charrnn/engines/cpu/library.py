"""The compiled kernel in ctypes: its structures, functions and variants. `kernel/layout.h` explains the fields."""

from __future__ import annotations

import ctypes
import os
from ctypes import POINTER, byref, c_char_p, c_double, c_float, c_int, c_int32, c_int64, c_void_p
from functools import cache
from itertools import count, takewhile
from pathlib import Path

from bytecodec.errors import InputError

VARIANT_VARIABLE = "CHARRNN_KERNEL"  # environment variable that selects a variant of the kernel
LIBRARY_VARIABLE = "CHARRNN_KERNEL_LIBRARY"  # environment variable with the path of another build of the kernel


class UnavailableError(InputError):
    """Error: the compiled engine is not built or does not support the network. Another engine may."""


class Matrix(ctypes.Structure):
    """Packed matrix (16 * vectors, inputs)."""

    _fields_ = [
        ("vectors", c_int32),
        ("width", c_int32),
        ("inputs", c_int32),
        ("format", c_int32),
        ("weights", c_void_p),
        ("scale", c_void_p),
    ]


class Layer(ctypes.Structure):
    """Layer; parts that a cell does not have are 0."""

    _fields_ = [
        ("cell", c_int32),
        ("units", c_int32),
        ("outputs", c_int32),
        ("norm_size", c_int32),
        ("epsilon", c_float),
        ("input", Matrix),
        ("recurrent", Matrix),
        ("projection", Matrix),
        ("bias", c_void_p),
        ("recurrent_bias", c_void_p),
        ("gain", c_void_p),
        ("offset", c_void_p),
    ]


class Network(ctypes.Structure):
    """Network."""

    _fields_ = [
        ("vocab", c_int32),
        ("layers", c_int32),
        ("embedding_size", c_int32),
        ("table", c_void_p),
        ("embedding", c_void_p),
        ("layer", POINTER(Layer)),
        ("output", Matrix),
        ("output_bias", c_void_p),
    ]


class Work(ctypes.Structure):
    """Work of one call."""

    _fields_ = [
        ("streams", c_int64),
        ("steps", c_int64),
        ("h", c_void_p),
        ("c", c_void_p),
        ("last", c_void_p),
        ("u", c_void_p),
        ("forced", c_void_p),
        ("ids", c_void_p),
        ("scores", c_void_p),
        ("y", c_void_p),
        ("temperature", c_double),
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
    lib.charrnn_run.argtypes = [c_int, POINTER(Network), POINTER(Work), c_int]
    return lib


def variants() -> dict[str, int]:
    """Return the variants that this processor can run, by name, with their numbers, the fastest first."""
    lib = library()
    names = takewhile(bool, map(lib.charrnn_variant, count()))
    return {name.decode(): i for i, name in enumerate(names) if lib.charrnn_available(i)}


def chosen_variant() -> int:
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
