"""Training that is killed, starved and cut off goes on as if nothing had been; tools/crash.py tries it at length."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks, and reads /proc")
@pytest.mark.parametrize("fault", ["kill", "terminate", "interrupt", "two-trainers", "clock", "power", "read-only"])
def test_a_run_survives(fault):
    if fault == "read-only" and os.geteuid():
        pytest.skip("only root can give up the right to write everywhere")
    command = [sys.executable, "tools/crash.py", "--kills", "12", "--others", "4", "--cuts", "30", "--only", fault]
    process = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, process.stderr
    assert "all survived" in process.stdout
