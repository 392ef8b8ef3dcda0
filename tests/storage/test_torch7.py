"""Torch7's binary format: all that it can say is read, and what is wrong with it ends in a sentence."""

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

MEMORY = 1 << 20  # bytes that reading a file of some kilobytes may take

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
    """What was read or written, in a form that == compares."""
    if isinstance(x, Numbers):
        return dict(zip(x.keys.tolist(), x.values.tolist(), strict=True))
    if isinstance(x, dict):
        return {key: plain(value) for key, value in x.items()}
    if isinstance(x, TorchObject | Thing):
        return x.name, plain(x.fields)
    return x


def sample():
    """A file with one of everything in it, which share some."""
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
def test_any_objects_within_each_other_are_read_as_they_were_written(thing):
    assert plain(loads(dumps(thing))) == plain(thing)


def test_a_table_of_numbers_is_two_arrays():
    read = loads(dumps({3.0: 0.5, 1.0: 0.25}))
    assert read.keys.tolist() == [3, 1]
    assert read.values.tolist() == [0.5, 0.25]


@pytest.mark.parametrize("dtype", ["<f4", "<f8", "<f2", "<i8", "<i4", "<i2", "i1", "u1"])
def test_tensors_of_every_type_keep_shape_and_values(dtype):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    read = loads(dumps({"x": array}))["x"]
    assert read.dtype == np.dtype(dtype)
    assert np.array_equal(read, array)
    assert not read.flags.writeable


@pytest.mark.parametrize(
    ("name", "dtype"), [("Cuda", "<f4"), ("CudaDouble", "<f8"), ("CudaHalf", "<f2"), ("Cl", "<f4")]
)
def test_tensors_of_a_gpu_are_read_as_those_of_the_cpu(name, dtype):
    storage = Storage(np.arange(6, dtype=dtype), name)
    read = loads(dumps(Tensor(storage, (2, 3), (3, 1), name=name)))
    assert read.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_offset_and_strides_choose_from_the_storage():
    storage = Storage(np.arange(10, dtype="<f4"))
    assert loads(dumps(Tensor(storage, (2, 3), (1, 2), 3))).tolist() == [[3, 5, 7], [4, 6, 8]]
    assert loads(dumps(Tensor(storage, (1, 2), (2**62, 9)))).tolist() == [[0, 9]]  # a stride that is never taken


def test_a_tensor_without_dimensions_or_storage_is_empty():
    assert loads(dumps(Tensor(None, (), (), name="Float"))).shape == (0,)
    assert loads(dumps(Tensor(Storage(np.empty(0, "<f4")), (0, 2**40), (1, 1)))).shape == (0,)


def test_what_is_shared_in_the_file_is_one_object():
    storage = Storage(np.arange(4, dtype="<f4"))
    table = {"x": "y"}
    read = loads(dumps({"a": Tensor(storage, (4,), (1,)), "b": Tensor(storage, (2,), (2,)), "t": table, "u": table}))
    assert read["t"] is read["u"]
    assert np.shares_memory(read["a"], read["b"])


def test_what_holds_itself_is_read():
    table, thing = {}, Thing("nn.Ring")
    table["me"] = table
    thing.fields = {"me": thing}
    read = loads(dumps(table))
    assert read["me"] is read
    read = loads(dumps(thing))
    assert read.fields["me"] is read


def test_strings_keep_their_bytes_whatever_they_are():
    data = bytes(range(256))
    assert loads(dumps(data)).encode("utf-8", "surrogateescape") == data


def test_a_class_from_before_there_were_versions_is_read():
    assert plain(loads(dumps(Thing("nn.Old", {"x": 1.0}, version=None)))) == ("nn.Old", {"x": 1.0})


@pytest.mark.parametrize("kind", [6, 7, 8])
def test_a_function_is_skipped_with_what_it_has_captured(kind):
    table = {"f": Function(kind=kind, upvalues={"g": Function(kind=kind)}), "after": "here"}
    read = loads(dumps(table))
    assert read == {"f": torch7.Function(), "after": "here"}


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


def test_a_file_that_is_cut_off_anywhere_is_refused():
    data = sample()
    loads(data)
    for end in range(len(data)):
        with pytest.raises(InputError, match=r"^cut\.t7 (is cut off or damaged|ends at byte)"):
            loads(data[:end], "cut.t7")


def number(value):
    return b"\x01\0\0\0" + struct.pack("<d", value)


def read_or_refuse(data):
    """Read it or have it refused; nothing else may be raised, and no large memory taken."""
    tracemalloc.start()
    with contextlib.suppress(InputError):
        loads(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MEMORY


@settings(max_examples=400)
@given(st.integers(0, 2**32), st.integers(1, 6))
def test_a_damaged_file_is_read_or_refused_in_little_memory(seed, count):
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
    read_or_refuse(bytes(data))


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data):
    read_or_refuse(data)


@pytest.mark.parametrize("kind", ["table", "key", "object", "function"])
def test_objects_deep_within_each_other_are_refused_and_not_followed(kind):
    level = {
        "table": lambda i: struct.pack("<3i", 3, i, 1) + number(1),
        "key": lambda i: struct.pack("<3i", 3, i, 1),
        "object": lambda i: struct.pack("<3i", 4, 2 * i, 1) + b"C" + struct.pack("<3i", 3, 2 * i + 1, 1) + number(1),
        "function": lambda i: struct.pack("<2i", 6, 0),
    }[kind]
    bomb = b"".join(level(i) for i in range(100_000)) + b"\0" * 4
    with pytest.raises(InputError, match="tables lie more than 64 deep within each other"):
        loads(bomb)


SIX = np.arange(6, dtype="<f4")


@pytest.mark.parametrize(
    ("thing", "words"),
    [
        (Storage(SIX, size=7), "7 elements of a storage cannot be in the 24 bytes that follow"),
        (Storage(SIX, size=2**62), "elements of a storage cannot be"),
        (Storage(SIX, size=-1), "-1 elements of a storage cannot be"),
        (Tensor(Storage(SIX), (7,), (1,)), r"a tensor of sizes \[7\] and strides \[1\] in a storage of 6 cannot be"),
        (Tensor(Storage(SIX), (2,), (6,)), "in a storage of 6 cannot be"),
        (Tensor(Storage(SIX), (2,), (1,), 5), "in a storage of 6 cannot be"),
        (Tensor(Storage(SIX), (2,), (1,), -1), "in a storage of 6 cannot be"),
        (Tensor(Storage(SIX), (2,), (-1,), 3), "in a storage of 6 cannot be"),
        (Tensor(Storage(SIX), (-2,), (1,)), "in a storage of 6 cannot be"),
        (Tensor(Storage(SIX), (2**40,), (0,)), "in a storage of 6 cannot be"),
        (Tensor(Storage(SIX), (2**40, 2**40), (0, 0)), "in a storage of 6 cannot be"),
        (Tensor(Storage(SIX), (2**62, 1), (2**62, 1)), "in a storage of 6 cannot be"),
        (Tensor(None, (2,), (1,), name="Float"), "in a storage of 0 cannot be"),
        (Tensor(Storage(SIX), (1,) * 9, (1,) * 9), "9 dimensions of a tensor cannot be"),
        (Tensor({"x": 1.0}, (2,), (1,), name="Float"), "a tensor lies in something that is no storage of its kind"),
        (Tensor(Storage(SIX), (2,), (1,), name="Double"), "a tensor lies in something that is no storage of its kind"),
        ({True: 1.0}, "a table's key is neither a string nor a number"),
        ({None: 1.0}, "a table's key is neither a string nor a number"),
        ({float("nan"): "x"}, "a table's key is neither a string nor a number"),
    ],
)
def test_what_cannot_be_is_refused(thing, words):
    with pytest.raises(InputError, match=words):
        loads(dumps({"x": thing}))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (struct.pack("<3i", 3, 1, 2**31 - 1), "2,147,483,647 entries of a table cannot be in the 0 bytes that follow"),
        (struct.pack("<3i", 3, 1, -1), "-1 entries of a table"),
        (struct.pack("<2i", 2, 2**31 - 1), "bytes of a string"),
        (struct.pack("<2i", 2, -5), "-5 bytes of a string"),
        (struct.pack("<3i", 8, 1, 2**30), "bytes of a function"),
        (struct.pack("<i", 9), "at byte 0, type 9 is none of the format's"),
        (dumps({"x": 1.0}, order=">"), "type 50331648 is none of the format's"),
        (dumps(np.ones((3, 4), "<f4"), long="<i"), "not what Torch7 writes on a 64-bit machine"),
        (dumps(Storage(SIX), long="<i"), "not what Torch7 writes on a 64-bit machine"),
        (b"3\n1\n0\n", "is in Torch7's ASCII format, and only the binary format is read"),
    ],
)
def test_what_is_not_in_the_format_is_refused(data, words):
    with pytest.raises(InputError, match=words):
        loads(data)


def test_a_tensor_that_lies_in_itself_is_refused():
    whole = dumps(Tensor(None, (2,), (1,), name="Float"))
    with pytest.raises(InputError, match="in the middle of an object"):
        loads(whole[:-4] + struct.pack("<2i", 4, 1))


@pytest.mark.parametrize("fields", [7.0, "x", None, Storage(SIX)])
def test_a_class_with_a_form_of_its_own_is_refused_by_name(fields):
    with pytest.raises(
        InputError, match=r"^this holds an object of class 'tds\.Hash', whose data is in a form of its own"
    ):
        loads(dumps({"x": Thing("tds.Hash", fields)}))


def test_a_class_without_end_is_named_in_part():
    with pytest.raises(InputError) as caught:
        loads(dumps(Thing("x" * 100_000, 1.0)))
    assert len(str(caught.value)) < 300


def test_more_values_than_a_network_has_are_refused(monkeypatch):
    monkeypatch.setattr(torch7, "MOST_VALUES", 100)
    loads(dumps({float(i): "x" for i in range(40)}))
    loads(dumps({float(i): 1.0 for i in range(1000)}))
    for much in ({float(i): "x" for i in range(60)}, {"x": "y" * 7000}):
        with pytest.raises(InputError, match="there are more than 100 values"):
            loads(dumps(much))


def test_what_is_no_regular_file_or_empty_is_refused(tmp_path):
    (tmp_path / "empty.t7").touch()
    with pytest.raises(InputError, match=r"empty\.t7 is empty\.$"):
        load(tmp_path / "empty.t7")
    with pytest.raises(InputError, match="/dev/null is a pipe or a device"):
        load("/dev/null")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.t7")
