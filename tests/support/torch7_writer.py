"""Writer of Torch7's binary format, which charrnn.storage.torch7 documents."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np

NAMES = {
    "f4": "Float",
    "f8": "Double",
    "f2": "Half",
    "i8": "Long",
    "i4": "Int",
    "i2": "Short",
    "i1": "Char",
    "u1": "Byte",
}


@dataclass(eq=False)
class Thing:
    """An object of a class."""

    name: str
    fields: object = field(default_factory=dict)
    version: str | None = "V 1"


@dataclass(eq=False)
class Function:
    """A Lua function: 6 has no index, 7 and 8 have one."""

    code: bytes = b"\x1bLJ\x02 os.exit()"
    upvalues: object = field(default_factory=dict)
    kind: int = 8


@dataclass(eq=False)
class Storage:
    """Elements; ``size`` is the size that the file declares."""

    values: np.ndarray
    name: str = ""
    size: int | None = None


@dataclass(eq=False)
class Tensor:
    """A view of a storage, in elements; the offset counts from 0 here."""

    storage: object
    shape: tuple
    strides: tuple
    offset: int = 0
    name: str = ""


def dumps(thing, long="<q", order="<"):
    """Return the bytes of an object; a shared object is written once."""
    return _Writer(long, order).dumps(thing)


class _Writer:
    def __init__(self, long, order):
        self.long, self.order = long, order
        self.indices, self.alive = {}, []

    def dumps(self, x):
        if x is None:
            return self.int(0)
        if isinstance(x, bool):
            return self.int(5) + self.int(x)
        if isinstance(x, int | float):
            return self.int(1) + struct.pack(self.order + "d", x)
        if isinstance(x, str | bytes):
            return self.int(2) + self.string(x)
        if isinstance(x, Function) and x.kind == 6:
            return self.int(6) + self.string(x.code) + self.dumps(x.upvalues)
        kind = 3 if isinstance(x, dict) else x.kind if isinstance(x, Function) else 4
        if id(x) in self.indices:
            return self.int(kind) + self.int(self.indices[id(x)])
        self.alive.append(x)
        self.indices[id(x)] = len(self.indices) + 1
        return self.int(kind) + self.int(self.indices[id(x)]) + self.contents(x)

    def contents(self, x):
        if isinstance(x, dict):
            return self.int(len(x)) + b"".join(self.dumps(k) + self.dumps(v) for k, v in x.items())
        if isinstance(x, Function):
            return self.string(x.code) + self.dumps(x.upvalues)
        if isinstance(x, Thing):
            version = b"" if x.version is None else self.string(x.version)
            return version + self.string(x.name) + self.dumps(x.fields)
        if isinstance(x, Storage):
            name = x.name or NAMES[x.values.dtype.str[1:]]
            size = len(x.values) if x.size is None else x.size
            return self.string("V 1") + self.string(f"torch.{name}Storage") + self.longs(size) + x.values.tobytes()
        if isinstance(x, np.ndarray):
            strides = tuple(np.cumprod((1, *x.shape[:0:-1]))[::-1].tolist()) if x.ndim else ()
            x = Tensor(Storage(x.ravel()), x.shape, strides)
        name = x.name or NAMES[x.storage.values.dtype.str[1:]]
        sizes = self.longs(*x.shape, *x.strides, x.offset + 1)
        head = self.string("V 1") + self.string(f"torch.{name}Tensor") + self.int(len(x.shape))
        return head + sizes + self.dumps(x.storage)

    def string(self, text):
        data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
        return self.int(len(data)) + data

    def int(self, value):
        return struct.pack(self.order + "i", value)

    def longs(self, *values):
        return b"".join(struct.pack(self.long, value) for value in values)
