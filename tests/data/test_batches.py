"""Batches are contiguous rows of a part, at any position."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn.data.batches import ContiguousBatches

shapes = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 4), st.integers(0, 30))


def test_rows_are_contiguous_and_targets_are_the_inputs_shifted_by_one():
    batches = ContiguousBatches(np.arange(26, dtype=np.uint8), n=3, multiple=4)
    assert (batches.row_length, batches.rows) == (8, 3)
    x, y = batches.at(4, 4)
    assert x.tolist() == [[4, 5, 6, 7], [12, 13, 14, 15], [20, 21, 22, 23]]
    assert y.tolist() == [[5, 6, 7, 8], [13, 14, 15, 16], [21, 22, 23, 24]]
    assert x.dtype == y.dtype == np.int64


def test_the_last_batch_is_dropped_if_its_last_target_is_missing():
    lengths = {n: ContiguousBatches(np.arange(n), n=3, multiple=4).row_length for n in (13, 24, 25, 36, 37)}
    assert lengths == {13: 4, 24: 4, 25: 8, 36: 8, 37: 12}


def test_rows_repeat_from_their_beginning():
    batches = ContiguousBatches(np.arange(26), n=3, multiple=4)
    for position in (0, 4):
        for repeated, first in zip(batches.at(position + 24, 4), batches.at(position, 4), strict=True):
            np.testing.assert_array_equal(repeated, first)


@given(shapes)
def test_batches_of_any_length_that_divides_a_row_join_to_the_rows(shape):
    n, t, times, more = shape
    ids = np.arange(n * t * times + 1 + more)
    batches = ContiguousBatches(ids, n, t)
    length = batches.row_length
    assert n * length <= len(ids) - 1 < n * (length + t)  # as many batches as fit
    for steps in (s for s in range(1, length + 1) if length % s == 0):
        windows = [batches.at(position, steps) for position in range(0, length, steps)]
        x, y = (np.concatenate([window[i] for window in windows], axis=1) for i in range(2))
        np.testing.assert_array_equal(x.ravel(), ids[: n * length])
        np.testing.assert_array_equal(y.ravel(), ids[1 : n * length + 1])


@given(shapes, st.integers(1, 7))
def test_the_rows_of_all_workers_together_are_all_rows(shape, world):
    n, t, times, more = shape
    ids = np.arange(n * t * times + 1 + more)
    whole = ContiguousBatches(ids, n, t).at(0, t)
    slices = [ContiguousBatches(ids, n, t, rank, world) for rank in range(world)]
    assert sum(s.rows for s in slices) == n
    for i in range(2):
        np.testing.assert_array_equal(np.concatenate([s.at(0, t)[i] for s in slices]), whole[i])


@pytest.mark.parametrize("size", [0, 12])
def test_too_few_symbols_for_one_batch_are_rejected(size):
    with pytest.raises(ValueError, match=f"{size} symbols"):
        ContiguousBatches(np.arange(size), n=3, multiple=4)
