"""Damaged and hostile input is read or rejected with one message, and never crashes."""

from __future__ import annotations

import pytest
from campaigns import linux, run_campaign

TARGETS = "recordings", "texts", "checkpoint", "csv", "config"


@linux
def test_damaged_input_is_read_or_rejected(tmp_path):
    code, output = run_campaign("fuzz", "--inputs", 100, "--keep", tmp_path / "faults")
    assert code == 0, output
    assert output.count("100 inputs") == output.count(" 0 faults") == len(TARGETS)
    assert " 0 read" not in output
    assert " 0 rejected" not in output


@linux
@pytest.mark.slow
def test_much_damaged_input_is_read_or_rejected(tmp_path):
    code, output = run_campaign("fuzz", "--inputs", 3000, "--keep", tmp_path / "faults")
    assert code == 0, output
    assert output.count("3,000 inputs") == len(TARGETS)
