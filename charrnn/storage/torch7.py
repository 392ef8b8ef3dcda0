"""Reader of the binary files of Torch7's torch.save, as plain Python and numpy objects.

Nothing in a file is executed: the bytecode of functions is skipped, and a class is a name with a table of data. Time
and memory are bounded by the size of the file, and numbers are not copied: tensors are views of the mapped file.

The format, from Torch7's File.lua, generic/Storage.c and generic/Tensor.c, on a 64-bit little-endian machine: an object
is an int (4 bytes) with its type, and then

=====================  ======================================================================================
0 nil
1 number               a double
2 string               an int with its length, its bytes
3 table                an int with its index, an int with its number of entries, each a key and a value
4 object of a class    index, two strings (``V`` with a version, and the name), the data of the class: a table
5 boolean              an int
6 function             length and bytes of its bytecode, a table of upvalues
7, 8 function          the same after an index
=====================  ======================================================================================

An object with an index is written whole the first time, and then only as its type and index. A storage is a long (8
bytes) with its length, and its elements. A tensor is an int with its number of dimensions, the sizes as longs, the
strides as longs, its offset in the storage as a long that counts from 1, and the storage or nil.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bytecodec.errors import InputError
from bytecodec.files import is_special_file

NIL, NUMBER, STRING, TABLE, TORCH, BOOLEAN, FUNCTION, LEGACY_RECURSIVE_FUNCTION, RECURSIVE_FUNCTION = range(9)
MAX_VALUES = 500_000  # a table of numbers counts as one, a string as one per 64 bytes; a checkpoint has thousands
MAX_DEPTH = 64  # of nested tables; torch-rnn nests about ten
STRING_BYTES = 64  # that count as a value
MAX_DIMENSIONS = 8
MIN_ENTRY = 12  # bytes of the shortest entry of a table: a key of 8, nil of 4

_INT, _LONG, _DOUBLE = struct.Struct("<i"), struct.Struct("<q"), struct.Struct("<d")
_TWO_NUMBERS = np.dtype([("key type", "<i4"), ("key", "<f8"), ("value type", "<i4"), ("value", "<f8")])
_CODES = {"Double": "<f8", "Half": "<f2", "Long": "<i8", "Int": "<i4", "Short": "<i2", "Char": "i1", "Byte": "u1"}
# cutorch and cltorch write arrays of a GPU in the format of the CPU's classes.
_ELEMENTS = {
    **dict.fromkeys(("Float", "Cuda", "Cl"), "<f4"),
    **{prefix + name: code for prefix in ("", "Cuda") for name, code in _CODES.items()},
}
_TENSORS = {f"torch.{name}Tensor": np.dtype(code) for name, code in _ELEMENTS.items()}
_STORAGES = {f"torch.{name}Storage": np.dtype(code) for name, code in _ELEMENTS.items()}

Table = dict[str | float, Any]


@dataclass(frozen=True)
class Numbers:
    """A table whose keys and values are all numbers, such as a history of losses: two views (n,), n >= 1."""

    keys: NDArray[np.float64]
    values: NDArray[np.float64]


@dataclass(frozen=True)
class Storage:
    """The elements (n,) that tensors are views of."""

    values: NDArray[Any]


@dataclass(frozen=True)
class TorchObject:
    """An object of a class: the name of the class, and its data."""

    name: str
    fields: Table = field(default_factory=dict, repr=False)  # may contain the object itself


@dataclass(frozen=True)
class Function:
    """A placeholder for a function, whose bytecode is skipped."""


def load(path: str | os.PathLike[str]) -> Any:
    """Read the object of a file, or raise InputError if it is cut off, damaged or of another format; see `loads`."""
    name = os.fspath(path)
    if is_special_file(name):
        raise InputError(f"{name} is a pipe or a device: give a file.")
    with open(name, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise InputError(f"{name} is empty.")
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # stays open as long as a view of it
    return loads(data, name)


def loads(data: bytes | mmap.mmap, name: str = "this") -> Any:
    """Read the object in ``data``; the messages of errors begin with ``name``.

    Return nil as None, a number as float, a string as str (UTF-8, with surrogates for other bytes), a boolean as bool,
    a table as `Table` or `Numbers`, a storage as `Storage`, a tensor as a read-only array, an object of any other class
    as `TorchObject`, a function as `Function`. An object that is shared in the file is one object here.
    """
    if data[:2] in (b"3\n", b"4\n"):
        raise InputError(
            f"{name} is in Torch7's ASCII format, and only the binary format is read: "
            "in Torch7, torch.save(name, torch.load(name, 'ascii')) makes it binary."
        )
    return _Reader(data, name).read(0)


class _Reader:
    """Reader of one object after the other. It recurses as deep as the objects are nested, up to `MAX_DEPTH`."""

    def __init__(self, data: bytes | mmap.mmap, name: str) -> None:
        self._data = memoryview(data)
        self._name = name
        self._position = 0
        self._values = 0
        self._objects: dict[int, Any] = {}

    def read(self, depth: int, fields: bool = False) -> Any:
        """Read the next object, nested ``depth`` deep; ``fields``: as the table of an object, not as `Numbers`."""
        self._count(1)
        if depth > MAX_DEPTH:
            raise self._error(f"tables are nested more than {MAX_DEPTH} deep, which is more than any network needs")
        begin, kind = self._position, self._unpack(_INT)
        if kind == NIL:
            return None
        if kind == NUMBER:
            return float(self._unpack(_DOUBLE))
        if kind == STRING:
            return self._string()
        if kind == BOOLEAN:
            return bool(self._unpack(_INT) == 1)
        if kind == FUNCTION:
            return self._function(depth)
        if not TABLE <= kind <= RECURSIVE_FUNCTION:
            self._position = begin
            raise self._error(f"type {kind} does not exist in the format")
        index = self._unpack(_INT)
        if index in self._objects:
            return self._objects[index]
        if kind == TABLE:
            return self._table(index, depth, fields)
        if kind == TORCH:
            return self._torch(index, depth)
        self._objects[index] = Function()
        return self._function(depth)

    def _function(self, depth: int) -> Function:
        self._read_bytes(self._size("bytes of a function", 1))
        self.read(depth + 1)  # the captured values
        return Function()

    def _table(self, index: int, depth: int, fields: bool) -> Table | Numbers:
        size = self._size("entries of a table", MIN_ENTRY)
        numbers = None if fields else self._numbers(size)
        if numbers:
            self._objects[index] = numbers
            return numbers
        table: Table = self._objects.setdefault(index, {})
        for _ in range(size):
            key = self.read(depth + 1)
            if not isinstance(key, str | float) or key != key:
                raise self._error("a table's key is neither a string nor a number")
            table[key] = self.read(depth + 1)
        return table

    def _numbers(self, size: int) -> Numbers | None:
        """Read the table of ``size`` entries at this position if all of them are numbers."""
        if not size or size * _TWO_NUMBERS.itemsize > self._left() or self._peek() != NUMBER:
            return None
        entries = np.frombuffer(self._data, _TWO_NUMBERS, size, self._position)
        if (entries["key type"] != NUMBER).any() or (entries["value type"] != NUMBER).any():
            return None
        self._position += entries.nbytes
        return Numbers(entries["key"], entries["value"])

    def _torch(self, index: int, depth: int) -> NDArray[Any] | Storage | TorchObject:
        version = self._string()
        name = self._string() if version.startswith("V ") else version  # classes without a version have only the name
        if name in _STORAGES:
            storage = self._objects[index] = self._storage(_STORAGES[name])
            return storage
        if name in _TENSORS:
            tensor = self._objects[index] = self._tensor(_TENSORS[name], depth)
            return tensor
        thing = self._objects[index] = TorchObject(name)  # registered before its data, which may contain it
        is_table = self._left() < _INT.size or self._peek() == TABLE
        table = self.read(depth + 1, fields=True) if is_table else None
        if not isinstance(table, dict):
            raise InputError(
                f"{self._name} holds an object of class {name[:60]!r}, whose data is not a table: "
                "only classes with a table of data can be read, such as those of torch-rnn."
            )
        thing.fields.update(table)
        return thing

    def _storage(self, dtype: np.dtype[Any]) -> Storage:
        size = self._unpack(_LONG)
        if not 0 <= size <= self._left() // dtype.itemsize:
            raise self._too_large(f"{size:,} elements of a storage")
        values = np.frombuffer(self._data, dtype, size, self._position) if size else np.empty(0, dtype)
        self._position += values.nbytes
        return Storage(values)

    def _tensor(self, dtype: np.dtype[Any], depth: int) -> NDArray[Any]:
        dimensions = self._unpack(_INT)
        if not 0 <= dimensions <= MAX_DIMENSIONS:
            raise self._too_large(f"{dimensions:,} dimensions of a tensor")
        shape, strides = ([self._unpack(_LONG) for _ in range(dimensions)] for _ in range(2))
        offset = self._unpack(_LONG) - 1
        storage = self.read(depth + 1)
        if storage is None:
            storage = Storage(np.empty(0, dtype))
        if not isinstance(storage, Storage) or storage.values.dtype != dtype:
            raise self._error("a tensor is not a view of a storage of its type")
        if not dimensions or 0 in shape:
            return np.empty(0, dtype)
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        size = len(storage.values)
        # With strides of 0, a few bytes would encode more numbers than fit in memory.
        if min(offset, *shape, *strides) < 0 or last >= size or math.prod(shape) > size:
            raise self._too_large(f"a tensor of sizes {shape} and strides {strides} in a storage of {size:,}")
        steps = [dtype.itemsize * stride if n > 1 else 0 for n, stride in zip(shape, strides, strict=True)]
        view: NDArray[Any] = np.ndarray(shape, dtype, storage.values, dtype.itemsize * offset, steps)
        return view

    def _string(self) -> str:
        size = self._size("bytes of a string", 1)
        self._count(size // STRING_BYTES)
        return bytes(self._read_bytes(size)).decode("utf-8", "surrogateescape")

    def _count(self, values: int) -> None:
        self._values += values
        if self._values > MAX_VALUES:
            raise self._error(f"there are more than {MAX_VALUES:,} values, which is more than any network needs")

    def _size(self, what: str, item_bytes: int) -> int:
        """Read the number of following items, of at least ``item_bytes`` bytes each."""
        size: int = self._unpack(_INT)
        if not 0 <= size <= self._left() // item_bytes:
            raise self._too_large(f"{size:,} {what}")
        return size

    def _peek(self) -> int:
        return int(_INT.unpack_from(self._data, self._position)[0])

    def _unpack(self, form: struct.Struct) -> Any:
        return form.unpack(self._read_bytes(form.size))[0]

    def _read_bytes(self, size: int) -> memoryview:
        if size > self._left():
            raise InputError(
                f"{self._name} ends at byte {len(self._data):,} in the middle of an object: it was cut off. "
                "Copy it again."
            )
        self._position += size
        return self._data[self._position - size : self._position]

    def _left(self) -> int:
        return len(self._data) - self._position

    def _too_large(self, what: str) -> InputError:
        return self._error(f"{what} cannot be in the {self._left():,} bytes that follow")

    def _error(self, what: str) -> InputError:
        return InputError(
            f"{self._name} is cut off or damaged, or not what Torch7 writes on a 64-bit machine: "
            f"at byte {self._position:,}, {what}."
        )
