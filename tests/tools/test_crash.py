"""Training that is killed, interrupted or out of disk space resumes exactly; tools/campaigns/crash.py runs longer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks, and reads /proc")
@pytest.mark.parametrize("fault", ["kill", "terminate", "interrupt", "two-trainers", "clock", "power", "read-only"])
def test_a_run_survives(fault):
    if fault == "read-only" and os.geteuid():
        pytest.skip("only root can give up the right to write everywhere")
    command = [
        sys.executable,
        "tools/campaigns/crash.py",
        "--kills",
        "12",
        "--others",
        "4",
        "--cuts",
        "30",
        "--only",
        fault,
    ]
    process = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, process.stderr
    assert "all survived" in process.stdout
