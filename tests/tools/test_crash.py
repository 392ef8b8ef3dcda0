"""Training that is killed or loses its power resumes exactly."""

from __future__ import annotations

import pytest
from campaigns import linux, run_campaign


@linux
@pytest.mark.slow
@pytest.mark.parametrize("fault", ["kill", "power"])
def test_a_run_survives(fault):
    code, output = run_campaign("crash", "--kills", 12, "--cuts", 30, "--only", fault)
    assert code == 0, output
    assert "all survived" in output
