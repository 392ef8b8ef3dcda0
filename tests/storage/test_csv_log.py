"""Logs are continued without a gap, and columns of CSV files are read whatever is damaged in them."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytecodec.errors import InputError
from charrnn.storage import csv_log
from charrnn.storage.csv_log import (
    LOG_COLUMNS,
    VAL_COLUMNS,
    CsvLog,
    column_names,
    parse_columns,
    read_appended,
    read_columns,
    read_rows,
)

COLUMNS = ("iteration", "loss")


def rows(path):
    return [tuple(row.values()) for row in read_rows(path)]


def fill(path, iterations, start=0):
    log = CsvLog(path, COLUMNS, start)
    for i in iterations:
        log.add({"iteration": i, "loss": i / 4, "more": 1})
    log.close()


def test_a_log_has_a_header_and_a_line_per_row(tmp_path):
    fill(tmp_path / "log.csv", [1, 2, 12345678])
    assert (tmp_path / "log.csv").read_bytes() == b"iteration,loss\n1,0.25\n2,0.5\n12345678,3086419.5\n"


@given(st.floats(width=32, allow_nan=False))
def test_any_float32_is_read_back(tmp_path, value):
    log = CsvLog(tmp_path / f"{abs(hash(value))}.csv", COLUMNS, 0)
    log.add({"iteration": 1, "loss": value})
    log.close()
    assert np.float32(read_rows(log.path)[0]["loss"]) == np.float32(value)


def test_rows_after_the_iteration_to_resume_at_are_removed(tmp_path):
    fill(tmp_path / "fresh.csv", range(1, 6))
    for at in range(6):
        path = tmp_path / f"{at}.csv"
        fill(path, range(1, 6))
        log = CsvLog(path, COLUMNS, at)
        assert log.last == ({"iteration": str(at), "loss": f"{at / 4:g}"} if at else None)
        log.close()
        fill(path, range(at + 1, 6), at)
        assert path.read_bytes() == (tmp_path / "fresh.csv").read_bytes()


def test_a_row_that_is_cut_off_anywhere_is_skipped(tmp_path):
    path = tmp_path / "log.csv"
    fill(path, range(1, 4))
    whole = path.read_bytes()
    for size in range(len(b"iteration,loss\n"), len(whole) + 1):
        path.write_bytes(whole[:size])
        left = whole[:size].count(b"\n") - 1
        assert [int(row["iteration"]) for row in read_rows(path)] == list(range(1, left + 1))
        fill(path, range(left + 1, 4), 3)
        assert path.read_bytes() == whole


def test_a_row_with_a_field_too_few_or_too_many_is_skipped(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("iteration,loss\n1,0.25\n2\n3,0.5,9\n4,1\n")
    assert rows(path) == [("1", "0.25"), ("4", "1")]


def test_zero_bytes_after_a_power_cut_are_removed(tmp_path):
    """File systems fill with zero bytes what was not written."""
    path = tmp_path / "log.csv"
    path.write_bytes(b"iteration,loss\n1,0.25\n2,0.5\n" + b"\0" * 100 + b",0.75\n3,\0\n")
    CsvLog(path, COLUMNS, 2).close()
    assert path.read_bytes() == b"iteration,loss\n1,0.25\n2,0.5\n"


def test_rows_are_visible_to_readers_after_a_flush(tmp_path):
    log = CsvLog(tmp_path / "log.csv", COLUMNS, 0)
    log.add({"iteration": 1, "loss": 2})
    assert rows(log.path) == []
    log.flush()
    assert rows(log.path) == [("1", "2")]
    log.add({"iteration": 2, "loss": 2})
    log.sync()
    assert len(rows(log.path)) == 2
    log.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_names_the_log(tmp_path):
    log = CsvLog(tmp_path / "log.csv", COLUMNS, 0)
    log._file.close()
    with pytest.raises(OSError, match="No space left") as caught, open("/dev/full", "w") as full:  # noqa: PT012
        log._file = full
        log.add({"iteration": 1, "loss": 2})
        try:
            log.flush()
        finally:
            os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())
    assert caught.value.filename == str(log.path)


def test_the_columns_are_the_documented_ones():
    assert ",".join(LOG_COLUMNS) == (
        "iteration,epoch,train_loss,train_bits,learning_rate,grad_norm,symbols_per_second,elapsed_seconds"
    )
    assert ",".join(VAL_COLUMNS) == "iteration,epoch,val_loss,val_bits,elapsed_seconds"


# Columns


def test_columns_are_read_by_name_and_damaged_rows_are_reported(tmp_path):
    path, messages = tmp_path / "a.csv", []
    path.write_text("x; y;z\n1;2;3\n4;five;6\n7;;9\n8;9\n10;11;12")
    assert column_names(path) == ["x", "y", "z"]
    found = read_columns(path, ("z", "y"), messages.append)
    np.testing.assert_array_equal(found, [[3, 2], [9, np.nan]])
    assert "last row" in messages[0]
    assert "2 rows" in messages[1]
    assert "line 3" in messages[1]


def test_a_file_without_such_columns_is_rejected(tmp_path):
    cases = ["", "\n", "1,2\n3,4\n", "a,b\n", "a,b\nc,d\n", "x,y\n1,2\n"]
    for content in cases:
        path = tmp_path / "a.csv"
        path.write_text(content)
        with pytest.raises(InputError, match=r"a\.csv"):
            read_columns(path, ("a", "b"), lambda _: None)


ROWS = ("1,0.5", "2,", "x,1", "3,1,1", '"4",2', "", "\0", "é,1")


@given(st.lists(st.sampled_from(ROWS), max_size=8), st.integers(1, 9))
def test_blocks_of_any_size_give_the_same_columns(tmp_path, rows, block):
    path = tmp_path / "a.csv"
    path.write_text("".join(f"{row}\n" for row in ["a,b", *rows, "9,9"]), encoding="utf-8")
    whole = read_columns(path, ("a", "b"), lambda _: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_log, "BLOCK", block)
        np.testing.assert_array_equal(read_columns(path, ("a", "b"), lambda _: None), whole)


def test_complete_lines_that_were_appended_are_read_from_a_position(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"a,b\n1,2\n3")
    with path.open("rb") as file:
        lines = read_appended(file, 4)
        assert lines == b"1,2\n"
        path.write_bytes(b"a,b\n1,2\n3,4\n")
        numbers, broken = parse_columns(read_appended(file, 4 + len(lines)), [1], 2)
    assert (numbers.tolist(), broken) == ([[4.0]], [])
