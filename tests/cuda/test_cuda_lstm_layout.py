"""Layouts divide rows and units between programs so that they fit on a GPU."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytecodec.errors import InputError
from charrnn.cuda.lstm_layout import MULTIPLE, PIECE, layout_for, single_program


@given(
    n=st.integers(1, 600),
    units=st.integers(1, 2048),
    itemsize=st.sampled_from([2, 4]),
    multiprocessors=st.integers(1, 200),
)
def test_a_layout_covers_all_rows_and_units_and_fits(n, units, itemsize, multiprocessors):
    try:
        layout = layout_for(n, units, itemsize, multiprocessors)
    except ValueError:
        return
    assert layout.programs <= multiprocessors
    assert layout.blocks * layout.rows_each >= n > (layout.blocks - 1) * layout.rows_each
    assert layout.rows_each <= layout.rows
    assert layout.pitch - MULTIPLE < units <= layout.pitch == sum(layout.pieces)
    assert layout.pitch % layout.units == 0
    assert all(piece.bit_count() == 1 and piece * layout.rows <= PIECE for piece in layout.pieces)


def test_the_layouts_of_a_hopper_gpu():
    assert layout_for(50, 680, 2, 132) == (32, 16, 13, 4, 704, 8)
    assert layout_for(50, 680, 2, 132).programs == 88
    assert layout_for(50, 680, 2, 132).pieces == (128, 128, 64, 256, 128)
    assert layout_for(50, 680, 2, 132).register_pieces == 3
    assert layout_for(50, 680, 2, 132 // 3) == (32, 32, 25, 2, 704, 8)
    assert layout_for(50, 680, 2, 132 // 3).programs == 44
    assert layout_for(50, 256, 2, 132) == (16, 16, 13, 4, 256, 4)
    assert layout_for(50, 1024, 2, 132).programs == 128
    assert single_program(50, 680) == (1024, 64, 50, 1, 1024, 8)


@pytest.mark.parametrize(("n", "units", "itemsize", "bits"), [(50, 2048, 2, 16), (50, 680, 4, 32)])
def test_more_than_fits_on_a_gpu_is_rejected(n, units, itemsize, bits):
    with pytest.raises(InputError, match=f"^{n} rows of {units} units in {bits} bits do not fit"):
        layout_for(n, units, itemsize, 132)
