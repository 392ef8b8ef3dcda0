"""Training that is killed, interrupted or out of disk space resumes exactly."""

from __future__ import annotations

import os

import pytest
from campaigns import linux, run_campaign


@linux
@pytest.mark.slow
@pytest.mark.parametrize("fault", ["kill", "terminate", "interrupt", "two-trainers", "clock", "power", "read-only"])
def test_a_run_survives(fault):
    if fault == "read-only" and os.geteuid():
        pytest.skip("only root can drop the right to write everywhere")
    code, output = run_campaign("crash", "--kills", 12, "--others", 4, "--cuts", 30, "--only", fault)
    assert code == 0, output
    assert "all survived" in output
