"""Columns of CSV files, and the reduction of long curves to what a picture can show."""

import json
import math
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytecodec import InputError
from charrnn.storage import csv_log
from charrnn.storage.csv_log import read_columns
from charrnn.storage.run_dir import Run
from charrnn.viz import curves
from charrnn.viz.curves import Curve, csv_series, rolling, run_series, spread


@pytest.fixture
def csv_file(tmp_path):
    """``csv_file(text)`` writes a CSV file and returns its path."""

    def write(text):
        path = tmp_path / "a.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        (b"\xef\xbb\xbfx;y\r\n1;2\r\n3;4\r\n", [[1, 2], [3, 4]]),
        ("x\ty\n1\t2e-3\n", [[1, 0.002]]),
        ("x,y\n1,\n3,inf\n", [[1, math.nan], [3, math.inf]]),
        ('x,y,"a, b"\n1,2,"c, d"\n\n3,4,5\n', [[1, 2], [3, 4]]),
    ],
)
def test_columns_are_read_in_any_dialect(csv_file, text, rows):
    messages = []
    np.testing.assert_array_equal(read_columns(csv_file(text), ("x", "y"), messages.append), np.array(rows, float))
    assert messages == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n1,2\n", "no header"),
        ("x,y\n", "no row"),
        ("x,y\nroses,violets\n", "is not a CSV file"),
        ("1,2\n3,4\n", "'1,2'"),
        ("x,z\n1,2\n", "'y'"),
        (b"\xff\xfe\x00\x01\n", "CSV"),
    ],
)
def test_a_file_without_the_columns_is_rejected(csv_file, text, message):
    with pytest.raises(InputError) as rejected:
        read_columns(csv_file(text), ("x", "y"), lambda _: None)
    assert message in str(rejected.value)


def test_line_numbers_and_progress_do_not_depend_on_the_size_of_blocks(csv_file, monkeypatch):
    lines = [f"{n},{n / 7:.9g}" for n in range(300)]
    lines[200] = "oops"
    path = csv_file("x,y\n" + "\n".join(lines) + "\n")
    for size in (1, 7, 1000):
        monkeypatch.setattr(csv_log, "BLOCK", size)
        messages, counted = [], []
        assert len(read_columns(path, ("y",), messages.append, counted.append)) == 299
        assert "line 202" in messages[0]
        assert sum(counted) == path.stat().st_size - len("x,y\n")


def test_a_curve_is_sorted_and_has_finite_points_only():
    made = curves.curve(np.array([3.0, 1, 2, np.nan, 5]), np.array([30.0, 10, np.nan, 4, np.inf]))
    assert (made.x.tolist(), made.y.tolist()) == ([1, 3], [10, 30])


def test_the_spread_is_the_least_and_greatest_of_each_column_with_points():
    points = Curve(np.array([0.0, 1, 2, 7, 8]), np.array([5.0, 1, 4, 9, 2]))
    middle, low, high = spread(points, np.array([0.0, 2, 4, 6, 8]))
    assert (middle.tolist(), low.tolist(), high.tolist()) == ([1, 3, 7], [1, 4, 2], [5, 4, 9])


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=200), st.integers(1, 50))
def test_no_point_lies_outside_the_spread(ys, columns):
    points = Curve(np.arange(len(ys), dtype=float), np.array(ys))
    middle, low, high = spread(points, np.linspace(0, max(1, len(ys) - 1), columns + 1))
    assert (low.min(), high.max()) == (min(ys), max(ys))
    assert len(middle) <= min(columns, len(ys))
    assert (low <= high).all()


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=60), st.integers(1, 80), st.sampled_from(["mean", "median"]))
def test_rolling_equals_numpys_average_of_each_window(ys, window, kind):
    points = Curve(np.arange(len(ys), dtype=float), np.array(ys))
    rows = np.arange(len(ys))
    halves = np.minimum(rows, window // 2)
    expected = [getattr(np, kind)(ys[row - half : row + half + 1]) for row, half in zip(rows, halves, strict=True)]
    np.testing.assert_allclose(rolling(points, rows, window, kind), expected, atol=1e-9)


def test_a_line_has_one_point_per_column_and_both_ends():
    points = Curve(np.arange(1000.0), np.zeros(1000))
    rows = curves.thin_curve(points, np.linspace(0, 999, 11))
    assert (rows[0], rows[-1], len(rows)) == (0, 999, 12)
    assert len(curves.thin_curve(points, np.linspace(0, 999, 901), limit=50)) == 50


def test_a_run_has_its_validations_and_flac(trained_run):
    made = run_series(Run(trained_run), "tone")
    flac = json.loads((trained_run / "config.json").read_text())["yardsticks"]["flac"]
    assert (len(made.train), made.val.x.tolist()) == (400, [200, 400])
    assert made.flac == pytest.approx(flac * math.log(2))
    in_bits = run_series(Run(trained_run), "tone", unit="bits")
    assert in_bits.flac == pytest.approx(flac)
    assert in_bits.train.y[7] == pytest.approx(made.train.y[7] / math.log(2))
    assert run_series(Run(trained_run), "tone", "elapsed_seconds").val.x[0] > 0


def test_a_run_without_validations_or_config_has_its_training_loss(trained_run, tmp_path):
    shutil.copy(trained_run / "log.csv", tmp_path)
    assert run_series(Run(tmp_path), "").val is None
    (tmp_path / "val.csv").write_text("iteration,epoch,val_loss,val_bits,elapsed_seconds\n")
    (tmp_path / "config.json").write_text("[")
    messages = []
    made = run_series(Run(tmp_path), "", on_message=messages.append)
    assert (len(made.train), made.val, made.flac) == (400, None, None)
    assert ["config.json" in message for message in messages] == [True]


def test_columns_of_other_files_are_selected_by_name_or_by_default(csv_file):
    path = csv_file("step,accuracy,loss\n1,2,3\n2,3,4\n")
    (one,), x, ys = csv_series(path, "a")
    assert (one.name, x, ys, one.train.y.tolist()) == ("a", "step", ["loss"], [3, 4])
    series, x, ys = csv_series(path, "a", "loss", ["step", "accuracy"])
    assert ([s.name for s in series], x, ys) == (["a, step", "a, accuracy"], "loss", ["step", "accuracy"])
    (one,), x, ys = csv_series(csv_file("a,b\n1,2\n"), "a")
    assert (x, ys) == ("a", ["b"])
