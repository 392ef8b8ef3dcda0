"""Reads what Torch7's torch.save writes, in its binary format, as plain Python and numpy objects.

Nothing that a file holds is ever run: the bytecode of functions is skipped, and a class is a name beside a table of
data. What a file can make the reader do is bounded by its own size, and numbers are not copied: tensors are views of
the mapped file.

The format, as Torch7's File.lua, generic/Storage.c and generic/Tensor.c have it, on a 64-bit little-endian machine: an
object is an int (4 bytes) with its type, and then

=====================  ======================================================================================
0 nil
1 number               a double
2 string               an int with its length, its bytes
3 table                an int with its index, an int with its number of entries, each a key and a value
4 object of a class    index, two strings (``V`` with a version, and the name), what the class writes: a table
5 boolean              an int
6 function             length and bytes of its bytecode, a table of upvalues
7, 8 function          the same after an index
=====================  ======================================================================================

What has an index is written whole the first time, and afterwards as its type and index alone. A storage is a long (8
bytes) with its length and its elements. A tensor is an int with its number of dimensions, the size of each as longs,
the strides as longs, its place in the storage as a long that counts from 1, and the storage or nil.
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
MOST_VALUES = 500_000  # tables of numbers count as one, strings as one for each 64 bytes; a checkpoint has thousands
MOST_DEPTH = 64  # of tables within tables; torch-rnn's go down about ten
STRING_BYTES = 64  # that count as a value
MOST_DIMENSIONS = 8
LEAST_ENTRY = 12  # bytes of a table's entry: the shortest key takes 8, nil 4

_INT, _LONG, _DOUBLE = struct.Struct("<i"), struct.Struct("<q"), struct.Struct("<d")
_TWO_NUMBERS = np.dtype([("key type", "<i4"), ("key", "<f8"), ("value type", "<i4"), ("value", "<f8")])
_ELEMENTS = {  # cutorch and cltorch write what they have on the GPU as the CPU's classes do
    **dict.fromkeys(("Float", "Cuda", "Cl"), "<f4"),
    **dict.fromkeys(("Double", "CudaDouble"), "<f8"),
    **dict.fromkeys(("Half", "CudaHalf"), "<f2"),
    **dict.fromkeys(("Long", "CudaLong"), "<i8"),
    **dict.fromkeys(("Int", "CudaInt"), "<i4"),
    **dict.fromkeys(("Short", "CudaShort"), "<i2"),
    **dict.fromkeys(("Char", "CudaChar"), "i1"),
    **dict.fromkeys(("Byte", "CudaByte"), "u1"),
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
    """The elements (n,) that tensors lie in."""

    values: NDArray[Any]


@dataclass(frozen=True)
class TorchObject:
    """An object of a class: the class's name and what it holds."""

    name: str
    fields: Table = field(default_factory=dict, repr=False)  # may hold itself


@dataclass(frozen=True)
class Function:
    """Where a function was, whose bytecode was skipped."""


def load(path: str | os.PathLike[str]) -> Any:
    """Read a file's object; see `loads`.

    Raises
    ------
    InputError
        The file is cut off, damaged, hostile, or of another format.
    OSError
        It cannot be opened.
    """
    name = os.fspath(path)
    if is_special_file(name):
        raise InputError(f"{name} is a pipe or a device: give a file.")
    with open(name, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise InputError(f"{name} is empty.")
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # stays while a view of it does
    return loads(data, name)


def loads(data: bytes | mmap.mmap, name: str = "this") -> Any:
    """The object that ``data`` holds.

    Returns
    -------
    nil as None, a number as float, a string as str (UTF-8, with surrogates for bytes that are none, so that nothing is
    lost), a boolean as bool, a table as `Table` or `Numbers`, a storage as `Storage`, a tensor as a read-only array,
    any other class as `TorchObject`, a function as `Function`. What is shared in the file is one object here.

    Raises
    ------
    InputError
        As `load`; the message begins with ``name``.
    """
    if data[:2] in (b"3\n", b"4\n"):
        raise InputError(
            f"{name} is in Torch7's ASCII format, and only the binary format is read: "
            "in Torch7, torch.save(name, torch.load(name, 'ascii')) makes it binary."
        )
    return _Reader(data, name).read(0)


class _Reader:
    """Reads one object after the other. Recursion is as deep as the objects, and that is limited."""

    def __init__(self, data: bytes | mmap.mmap, name: str) -> None:
        self._data = memoryview(data)
        self._name = name
        self._at = 0
        self._values = 0
        self._objects: dict[int, Any] = {}

    def read(self, depth: int, fields: bool = False) -> Any:
        """The object at this place, ``depth`` objects down; ``fields``: as an object's table, which is no `Numbers`."""
        self._count(1)
        if depth > MOST_DEPTH:
            raise self._refusal(
                f"tables lie more than {MOST_DEPTH} deep within each other, which in no network they do"
            )
        begin, kind = self._at, self._int()
        if kind == NIL:
            return None
        if kind == NUMBER:
            return float(self._unpack(_DOUBLE))
        if kind == STRING:
            return self._string()
        if kind == BOOLEAN:
            return self._int() == 1
        if kind == FUNCTION:
            return self._function(depth)
        if not TABLE <= kind <= RECURSIVE_FUNCTION:
            self._at = begin
            raise self._refusal(f"type {kind} is none of the format's")
        index = self._int()
        if index in self._objects:
            return self._objects[index]
        if kind == TABLE:
            return self._table(index, depth, fields)
        if kind == TORCH:
            return self._torch(index, depth)
        self._objects[index] = Function()
        return self._function(depth)

    def _function(self, depth: int) -> Function:
        self._take(self._size("bytes of a function", 1))
        self.read(depth + 1)  # the values that it has captured
        return Function()

    def _table(self, index: int, depth: int, fields: bool) -> Table | Numbers:
        size = self._size("entries of a table", LEAST_ENTRY)
        numbers = None if fields else self._numbers(size)
        if numbers:
            self._objects[index] = numbers
            return numbers
        table: Table = {}
        self._objects[index] = table
        for _ in range(size):
            key = self.read(depth + 1)
            if not isinstance(key, str | float) or key != key:
                raise self._refusal("a table's key is neither a string nor a number, as all of torch-rnn's are")
            table[key] = self.read(depth + 1)
        return table

    def _numbers(self, size: int) -> Numbers | None:
        """The table of ``size`` entries at this place if it holds nothing but numbers."""
        if not size or size * _TWO_NUMBERS.itemsize > self._left() or self._peek() != NUMBER:
            return None
        entries = np.frombuffer(self._data, _TWO_NUMBERS, size, self._at)
        if (entries["key type"] != NUMBER).any() or (entries["value type"] != NUMBER).any():
            return None
        self._at += entries.nbytes
        return Numbers(entries["key"], entries["value"])

    def _torch(self, index: int, depth: int) -> NDArray[Any] | Storage | TorchObject:
        version = self._string()
        name = self._string() if version.startswith("V ") else version  # before there were versions, there was a name
        if name in _STORAGES:
            storage = self._objects[index] = self._storage(_STORAGES[name])
            return storage
        if name in _TENSORS:
            tensor = self._objects[index] = self._tensor(_TENSORS[name], depth)
            return tensor
        thing = self._objects[index] = TorchObject(name)  # before what it holds, which may be itself
        is_table = self._left() < _INT.size or self._peek() == TABLE
        table = self.read(depth + 1, fields=True) if is_table else None
        if not isinstance(table, dict):
            raise InputError(
                f"{self._name} holds an object of class {name[:60]!r}, whose data is in a form of its own: "
                "only classes that are tables of data can be read, as those of torch-rnn are."
            )
        thing.fields.update(table)
        return thing

    def _storage(self, dtype: np.dtype[Any]) -> Storage:
        size = self._long()
        if not 0 <= size <= self._left() // dtype.itemsize:
            raise self._too_large(f"{size:,} elements of a storage")
        values = np.frombuffer(self._data, dtype, size, self._at) if size else np.empty(0, dtype)
        self._at += values.nbytes
        return Storage(values)

    def _tensor(self, dtype: np.dtype[Any], depth: int) -> NDArray[Any]:
        dimensions = self._int()
        if not 0 <= dimensions <= MOST_DIMENSIONS:
            raise self._too_large(f"{dimensions:,} dimensions of a tensor")
        shape = [self._long() for _ in range(dimensions)]
        strides = [self._long() for _ in range(dimensions)]
        offset = self._long() - 1
        storage = self.read(depth + 1)
        if storage is None:
            storage = Storage(np.empty(0, dtype))
        if not isinstance(storage, Storage) or storage.values.dtype != dtype:
            raise self._refusal("a tensor lies in something that is no storage of its kind")
        if not dimensions or 0 in shape:
            return np.empty(0, dtype)
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        size = len(storage.values)
        # Strides of 0 would let a few bytes be more numbers than any memory holds.
        if min(offset, *shape, *strides) < 0 or last >= size or math.prod(shape) > size:
            raise self._too_large(f"a tensor of sizes {shape} and strides {strides} in a storage of {size:,}")
        steps = [dtype.itemsize * stride if n > 1 else 0 for n, stride in zip(shape, strides, strict=True)]
        view: NDArray[Any] = np.ndarray(shape, dtype, storage.values, dtype.itemsize * offset, steps)
        return view

    def _string(self) -> str:
        size = self._size("bytes of a string", 1)
        self._count(size // STRING_BYTES)
        return bytes(self._take(size)).decode("utf-8", "surrogateescape")

    def _count(self, values: int) -> None:
        self._values += values
        if self._values > MOST_VALUES:
            raise self._refusal(f"there are more than {MOST_VALUES:,} values, which no network has")

    def _size(self, what: str, least: int) -> int:
        """An int that counts things of at least ``least`` bytes each that follow."""
        size = self._int()
        if not 0 <= size <= self._left() // least:
            raise self._too_large(f"{size:,} {what}")
        return size

    def _int(self) -> int:
        return int(self._unpack(_INT))

    def _long(self) -> int:
        return int(self._unpack(_LONG))

    def _peek(self) -> int:
        return int(_INT.unpack_from(self._data, self._at)[0])

    def _unpack(self, form: struct.Struct) -> Any:
        return form.unpack(self._take(form.size))[0]

    def _take(self, size: int) -> memoryview:
        if size > self._left():
            raise InputError(
                f"{self._name} ends at byte {len(self._data):,} in the middle of an object: it was cut off. "
                "Copy it anew."
            )
        self._at += size
        return self._data[self._at - size : self._at]

    def _left(self) -> int:
        return len(self._data) - self._at

    def _too_large(self, what: str) -> InputError:
        return self._refusal(f"{what} cannot be in the {self._left():,} bytes that follow")

    def _refusal(self, what: str) -> InputError:
        return InputError(
            f"{self._name} is cut off or damaged, or not what Torch7 writes on a 64-bit machine: "
            f"at byte {self._at:,}, {what}."
        )
