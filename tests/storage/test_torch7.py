"""Torch7's binary files are read as they were written, and damaged ones are rejected without large memory."""

import contextlib
import random
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch7_writer import Function, Storage, Tensor, Thing, dumps

from bytecodec.errors import InputError
from charrnn.storage import torch7
from charrnn.storage.torch7 import Numbers, TorchObject, load, loads

MEMORY = 1 << 20  # bytes for reading a file of a few kilobytes

numbers = st.floats(allow_nan=False)
strings = st.text(st.characters(codec="utf-8"), max_size=20)
things = st.recursive(
    st.none() | st.booleans() | numbers | strings,
    lambda inner: (
        st.dictionaries(strings | numbers, inner, max_size=5)
        | st.builds(Thing, st.just("nn.Something"), st.dictionaries(strings | numbers, inner, max_size=4))
    ),
    max_leaves=30,
)


def plain(x):
    """Return what was read or written in a form that == compares."""
    if isinstance(x, Numbers):
        return dict(zip(x.keys.tolist(), x.values.tolist(), strict=True))
    if isinstance(x, dict):
        return {key: plain(value) for key, value in x.items()}
    if isinstance(x, TorchObject | Thing):
        return x.name, plain(x.fields)
    return x


def sample():
    """Return a file with one object of each kind, some of them shared."""
    storage = Storage(np.arange(12, dtype="<f4"))
    weight = Tensor(storage, (3, 4), (4, 1))
    return dumps(
        {
            "model": Thing("nn.LSTM", {"weight": weight, "bias": Tensor(storage, (4,), (1,), 8), "train": True}),
            "again": weight,
            "history": {float(i): i / 2 for i in range(1, 9)},
            "tokens": {1.0: "a", 2.0: "é"},
            "none": None,
            "f": Function(upvalues={"name": "x", "value": 3.0}),
            "size": Storage(np.array([2, -1], dtype="<i8")),
        }
    )


@given(things)
def test_nested_objects_are_read_as_they_were_written(thing):
    assert plain(loads(dumps(thing))) == plain(thing)


def test_a_table_of_numbers_is_read_as_two_arrays():
    read = loads(dumps({3.0: 0.5, 1.0: 0.25}))
    assert read.keys.tolist() == [3, 1]
    assert read.values.tolist() == [0.5, 0.25]


def test_tensors_of_every_type_keep_shape_and_values():
    for dtype in ("<f4", "<f8", "<f2", "<i8", "<i4", "<i2", "i1", "u1"):
        array = np.arange(24).reshape(2, 3, 4).astype(dtype)
        read = loads(dumps({"x": array}))["x"]
        assert read.dtype == np.dtype(dtype)
        assert np.array_equal(read, array)
        assert not read.flags.writeable


def test_tensors_of_a_gpu_are_read_like_those_of_the_cpu():
    for name, dtype in [("Cuda", "<f4"), ("CudaDouble", "<f8"), ("CudaHalf", "<f2"), ("Cl", "<f4")]:
        storage = Storage(np.arange(6, dtype=dtype), name)
        assert loads(dumps(Tensor(storage, (2, 3), (3, 1), name=name))).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_offset_and_strides_select_from_the_storage():
    storage = Storage(np.arange(10, dtype="<f4"))
    assert loads(dumps(Tensor(storage, (2, 3), (1, 2), 3))).tolist() == [[3, 5, 7], [4, 6, 8]]
    assert loads(dumps(Tensor(storage, (1, 2), (2**62, 9)))).tolist() == [[0, 9]]  # a stride that is not used


def test_a_tensor_without_dimensions_or_storage_is_empty():
    assert loads(dumps(Tensor(None, (), (), name="Float"))).shape == (0,)
    assert loads(dumps(Tensor(Storage(np.empty(0, "<f4")), (0, 2**40), (1, 1)))).shape == (0,)


def test_a_shared_object_is_read_once():
    storage = Storage(np.arange(4, dtype="<f4"))
    table = {"x": "y"}
    read = loads(dumps({"a": Tensor(storage, (4,), (1,)), "b": Tensor(storage, (2,), (2,)), "t": table, "u": table}))
    assert read["t"] is read["u"]
    assert np.shares_memory(read["a"], read["b"])


def test_an_object_that_contains_itself_is_read():
    table, thing = {}, Thing("nn.Ring")
    table["me"] = table
    thing.fields = {"me": thing}
    read = loads(dumps(table))
    assert read["me"] is read
    read = loads(dumps(thing))
    assert read.fields["me"] is read


def test_strings_keep_bytes_that_are_not_utf8():
    data = bytes(range(256))
    assert loads(dumps(data)).encode("utf-8", "surrogateescape") == data


def test_a_class_without_a_version_is_read():
    assert plain(loads(dumps(Thing("nn.Old", {"x": 1.0}, version=None)))) == ("nn.Old", {"x": 1.0})


def test_a_function_is_skipped_with_its_captured_values():
    for kind in (6, 7, 8):
        table = {"f": Function(kind=kind, upvalues={"g": Function(kind=kind)}), "after": "here"}
        assert loads(dumps(table)) == {"f": torch7.Function(), "after": "here"}


def test_a_file_is_mapped_and_its_numbers_are_not_copied(tmp_path):
    path = tmp_path / "large.t7"
    path.write_bytes(dumps({"x": np.ones(1 << 20, "<f4"), "losses": {float(i): 1.0 for i in range(100_000)}}))
    tracemalloc.start()
    read = load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MEMORY
    assert read["x"].sum() == 1 << 20
    assert len(read["losses"].keys) == 100_000


def test_a_file_that_is_cut_off_anywhere_is_rejected():
    data = sample()
    loads(data)
    for end in range(len(data)):
        with pytest.raises(InputError, match=r"^cut\.t7 "):
            loads(data[:end], "cut.t7")


def number(value):
    return b"\x01\0\0\0" + struct.pack("<d", value)


def read_or_reject(data):
    """Read the data; allow only an InputError, and little memory."""
    tracemalloc.start()
    with contextlib.suppress(InputError):
        loads(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MEMORY


@settings(max_examples=400)
@given(st.integers(0, 2**32), st.integers(1, 6))
def test_a_damaged_file_is_read_or_rejectd_in_little_memory(seed, count):
    dice = random.Random(seed)
    data = bytearray(sample())
    for _ in range(count):
        at = dice.randrange(len(data) - 8)
        how = dice.randrange(4)
        if how == 0:
            data[at] = dice.randrange(256)
        elif how == 1:  # another type, index or count
            data[at // 4 * 4 : at // 4 * 4 + 4] = struct.pack(
                "<i", dice.choice([-1, *range(10), 255, 2**30, 2**31 - 1])
            )
        elif how == 2:
            data[at : at + 8] = struct.pack("<q", dice.choice([-1, 0, 1, 2**31, 2**62, -(2**63)]))
        else:
            del data[at : at + dice.randrange(1, 8)]
    read_or_reject(bytes(data))


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_rejectd(data):
    read_or_reject(data)


def test_deeply_nested_objects_are_rejected():
    levels = {
        "table": lambda i: struct.pack("<3i", 3, i, 1) + number(1),
        "key": lambda i: struct.pack("<3i", 3, i, 1),
        "object": lambda i: struct.pack("<3i", 4, 2 * i, 1) + b"C" + struct.pack("<3i", 3, 2 * i + 1, 1) + number(1),
        "function": lambda i: struct.pack("<2i", 6, 0),
    }
    for level in levels.values():
        with pytest.raises(InputError, match="nested"):
            loads(b"".join(level(i) for i in range(100_000)) + b"\0" * 4)


SIX = np.arange(6, dtype="<f4")


def test_a_storage_or_tensor_larger_than_its_data_is_rejected():
    tensors = [
        ((7,), (1,), 0),
        ((2,), (6,), 0),
        ((2,), (1,), 5),
        ((2,), (1,), -1),
        ((2,), (-1,), 3),
        ((-2,), (1,), 0),
        ((2**40,), (0,), 0),
        ((2**40, 2**40), (0, 0), 0),
        ((2**62, 1), (2**62, 1), 0),
        ((1,) * 9, (1,) * 9, 0),
    ]
    things = [Tensor(Storage(SIX), *tensor) for tensor in tensors] + [Tensor(None, (2,), (1,), name="Float")]
    for thing in [*things, *(Storage(SIX, size=size) for size in (7, 2**62, -1))]:
        with pytest.raises(InputError, match="cannot be in the"):
            loads(dumps({"x": thing}))


def test_an_object_that_torch_rnn_does_not_write_is_rejected():
    cases = [
        (Tensor({"x": 1.0}, (2,), (1,), name="Float"), "storage"),
        (Tensor(Storage(SIX), (2,), (1,), name="Double"), "storage"),
        ({True: 1.0}, "key"),
        ({float("nan"): "x"}, "key"),
        (Thing("tds.Hash", 7.0), r"'tds\.Hash'"),
        (Thing("tds.Hash", None), r"'tds\.Hash'"),
    ]
    for thing, key in cases:
        with pytest.raises(InputError, match=key):
            loads(dumps({"x": thing}))


def test_data_in_another_format_are_rejected():
    cases = [
        (struct.pack("<3i", 3, 1, 2**31 - 1), "2,147,483,647 entries"),
        (struct.pack("<2i", 2, -5), "-5 bytes"),
        (struct.pack("<3i", 8, 1, 2**30), "function"),
        (struct.pack("<i", 9), "byte 0, type 9"),
        (dumps({"x": 1.0}, order=">"), "type 50331648"),
        (dumps(np.ones((3, 4), "<f4"), long="<i"), "64-bit"),
        (b"3\n1\n0\n", "ASCII"),
    ]
    for data, key in cases:
        with pytest.raises(InputError, match=key):
            loads(data)


def test_a_tensor_whose_storage_is_the_tensor_is_rejected():
    whole = dumps(Tensor(None, (2,), (1,), name="Float"))
    with pytest.raises(InputError, match="cut off"):
        loads(whole[:-4] + struct.pack("<2i", 4, 1))


def test_a_long_class_name_is_shortened_in_the_message():
    with pytest.raises(InputError) as caught:
        loads(dumps(Thing("x" * 100_000, 1.0)))
    assert len(str(caught.value)) < 300


def test_more_values_than_a_network_has_are_rejected(monkeypatch):
    monkeypatch.setattr(torch7, "MAX_VALUES", 100)
    loads(dumps({float(i): "x" for i in range(40)}))
    loads(dumps({float(i): 1.0 for i in range(1000)}))
    for much in ({float(i): "x" for i in range(60)}, {"x": "y" * 7000}):
        with pytest.raises(InputError, match="100 values"):
            loads(dumps(much))


def test_an_empty_file_and_a_device_are_rejected(tmp_path):
    (tmp_path / "empty.t7").touch()
    with pytest.raises(InputError, match="empty"):
        load(tmp_path / "empty.t7")
    with pytest.raises(InputError, match="device"):
        load("/dev/null")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.t7")
