"""Memory image of the engine of a page: the structures of a packed network as a 32-bit program reads them.

The structures are those of charrnn/engines/cpu/kernel/layout.h and charrnn/web/kernel/engine.c. A pointer has four
bytes and is stored as an offset from the start of the image; the page adds the address to which it copies the image.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from ctypes import c_double, c_float, c_int32, c_int64, c_uint64, c_void_p
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charrnn.data.predictor import PERIOD
from charrnn.engines.base import first_weights
from charrnn.engines.cpu.library import Layer, LinearPredictor, Predictors, Work
from charrnn.engines.cpu.pack import PackedNetwork
from charrnn.engines.level import LevelControl
from charrnn.models.config import LEVEL_BLOCK, ModelConfig

ALIGNMENT = 64
POINTER_BYTES = 4
POINTERS = (c_void_p, *map(ctypes.POINTER, (Layer, LinearPredictor, Predictors)))
COUNTS: dict[str, Callable[[Any], int]] = {  # number of structures behind each pointer field
    "layer": lambda network: network.layers,
    "predictors": lambda network: 1,
    "predictor": lambda predictors: predictors.count,
}


class Level(ctypes.Structure):
    """Structure `Level` of kernel/level.h."""

    _fields_ = [
        ("active", c_int32),
        ("limit", c_float),
        *[(name, c_double) for name in ("power", "share")],
        *[(name, c_float) for name in ("excess", "squares", "count", "padding")],
    ]


class Stream(ctypes.Structure):
    """Structure `Stream` of kernel/engine.c."""

    _fields_ = [
        *[(name, c_void_p) for name in ("network", "work", "first", "ids")],
        ("calibration", c_double),
        ("level", Level),
        ("seed", c_uint64),
        ("position", c_int64),
        ("period", c_int32),
    ]


@dataclass(frozen=True)
class MemoryImage:
    """Memory image of an engine with some streams. All offsets are in bytes."""

    data: bytes
    pointers: list[int]  # offsets of all pointers, which are relative to the start of the image
    network: int  # offset
    streams: list[tuple[int, int]]  # offsets of each stream and of its ids
    table: list[int] | None  # arguments of the function that fills the first layer's table; the last four are offsets


def build_memory_image(
    packed: PackedNetwork,
    config: ModelConfig,
    calibration: float,
    level_control: LevelControl | None,
    streams: int,
) -> MemoryImage:
    """Return the memory image of a network with a number of streams, which start from the zero state."""
    writer = _Writer(_arrays_of(packed))
    network = packed.network
    table = None
    if packed.table_factors:
        embedding, rows, bias = packed.table_factors
        size = 4 * len(embedding) * len(rows)
        factors = [writer.write_array(array) for array in (embedding, np.ascontiguousarray(rows.T), bias)]
        target = writer.write_zeros(size)  # filled by the page, as the factors are smaller than the table
        writer.map_address(network.table, target)
        table = [len(embedding), rows.shape[1], len(rows), *factors, target]
    at = writer.write_structure(network)
    first = writer.write_array(first_weights(config).cumsum())
    offsets = [_write_stream(writer, packed, config, at, first, calibration, level_control) for _ in range(streams)]
    return MemoryImage(bytes(writer.data), writer.pointers, at, offsets, table)


def _write_stream(
    writer: _Writer,
    packed: PackedNetwork,
    config: ModelConfig,
    network: int,
    first: int,
    calibration: float,
    level_control: LevelControl | None,
) -> tuple[int, int]:
    """Write a stream; return its offset and that of its ids."""
    layers = range(config.layers)
    history = packed.network.history
    work = {
        "h": writer.write_pointers([writer.write_zeros(4 * packed.outputs) for _ in layers]),
        "c": writer.write_pointers([writer.write_zeros(4 * packed.units) for _ in layers]),
        "last": writer.write_zeros(8),
        "u": writer.write_zeros(4 * LEVEL_BLOCK),
        "ids": writer.write_zeros(8 * LEVEL_BLOCK),
        "temperatures": writer.write_zeros(8),
        "samples": writer.write_zeros(history + LEVEL_BLOCK),
        "phase": writer.write_zeros(8),
    }
    ids = writer.write_zeros(4 * LEVEL_BLOCK)
    stream = Stream(calibration=calibration, period=PERIOD)
    if level_control:
        stream.level = Level(1, level_control.limit, level_control.power, level_control.share)
    pointers = {"network": network, "work": writer.write_structure(Work(1, 0), work), "first": first, "ids": ids}
    return writer.write_structure(stream, pointers), ids


def _arrays_of(packed: PackedNetwork) -> dict[int, NDArray[Any]]:
    """Return all arrays that a packed network refers to, by address."""
    arrays = dict(packed.arrays)
    if packed.network.predictors:
        predictors = packed.network.predictors.contents
        for one in predictors.predictor[: predictors.count]:
            arrays[one.window] = np.ctypeslib.as_array((ctypes.c_int16 * one.length).from_address(one.window))
    return arrays


class _Writer:
    """Writer of arrays and structures to an image; each method returns the offset of what it has written."""

    def __init__(self, arrays: Mapping[int, NDArray[Any]]) -> None:
        self.data = bytearray(ALIGNMENT)  # so that no offset is 0, which is the null pointer
        self.pointers: list[int] = []
        self._arrays = arrays
        self._offsets: dict[int, int] = {}  # by address, of the arrays that were written

    def map_address(self, address: int, offset: int) -> None:
        """Map an address to an offset whose contents are written already."""
        self._offsets[address] = offset

    def write_zeros(self, size: int) -> int:
        self.data.extend(bytes(-len(self.data) % ALIGNMENT))
        offset = len(self.data)
        self.data.extend(bytes(size))
        return offset

    def write_array(self, array: NDArray[Any]) -> int:
        content = np.ascontiguousarray(array).tobytes()
        offset = self.write_zeros(len(content))
        self.data[offset : offset + len(content)] = content
        return offset

    def write_pointers(self, offsets: list[int]) -> int:
        at = self.write_zeros(POINTER_BYTES * len(offsets))
        for i, offset in enumerate(offsets):
            self._pointer(at + POINTER_BYTES * i, offset)
        return at

    def write_structure(self, value: ctypes.Structure, pointers: Mapping[str, int] | None = None) -> int:
        """Write a structure and what it refers to; ``pointers`` are the offsets of targets that exist."""
        at = self.write_zeros(_size_of(type(value)))
        self._fill(at, value, pointers or {})
        return at

    def _fill(self, at: int, value: ctypes.Structure, pointers: Mapping[str, int]) -> None:
        for name, kind, offset in _layout(type(value)):
            field = getattr(value, name)
            if kind in POINTERS:
                target = pointers.get(name) or self._target(value, name, field)
                if target:
                    self._pointer(at + offset, target)
            elif issubclass(kind, ctypes.Structure):
                self._fill(at + offset, field, {})
            else:
                self.data[at + offset : at + offset + ctypes.sizeof(kind)] = bytes(kind(field))

    def _target(self, value: ctypes.Structure, name: str, field: Any) -> int:
        """Write what a pointer refers to unless it is written already; return its offset, or 0 for a null pointer."""
        if not field:
            return 0
        if name in COUNTS:
            structures = field[: COUNTS[name](value)]
            size = _size_of(type(structures[0]))
            at = self.write_zeros(size * len(structures))
            for i, one in enumerate(structures):
                self._fill(at + i * size, one, {})
            return at
        if field not in self._offsets:
            self._offsets[field] = self.write_array(self._arrays[field])
        return self._offsets[field]

    def _pointer(self, at: int, offset: int) -> None:
        self.data[at : at + POINTER_BYTES] = offset.to_bytes(POINTER_BYTES, "little")
        self.pointers.append(at)


def _layout(structure: type[ctypes.Structure]) -> list[tuple[str, Any, int]]:
    """Return name, type and offset of each field as a 32-bit compiler lays them out."""
    fields, offset = [], 0
    for name, kind, *_ in structure._fields_:
        offset += -offset % _alignment_of(kind)
        fields.append((name, kind, offset))
        offset += _size_of(kind)
    return fields


def _size_of(kind: Any) -> int:
    if kind in POINTERS:
        return POINTER_BYTES
    if issubclass(kind, ctypes.Structure):
        _, last, offset = _layout(kind)[-1]
        end = offset + _size_of(last)
        return end + -end % _alignment_of(kind)
    return ctypes.sizeof(kind)


def _alignment_of(kind: Any) -> int:
    if isinstance(kind, type) and issubclass(kind, ctypes.Structure):
        return max(_alignment_of(field) for _, field, *_ in kind._fields_)
    return _size_of(kind)
