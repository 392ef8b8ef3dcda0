"""Figures of the report page."""

from types import SimpleNamespace

import pytest

from charrnn.viz.run_summary import TrainPoint

report = pytest.importorskip("charrnn.viz.report")


@pytest.mark.parametrize(("bits", "difference"), [(3.05, "0.3 % less"), (3.366, "10.0 % more")])
def test_the_difference_from_flac_has_one_decimal(bits, difference):
    point = TrainPoint(100, 1.0, 1.0, bits, bits)
    summary = SimpleNamespace(best=lambda: point, flac=3.06, unit="", network_size="", inputs="")
    assert report._result(summary)["flac"] == f"{difference} than FLAC (3.06)"
