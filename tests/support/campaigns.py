"""Runs of the scripts in tools/campaigns/ as a user starts them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the campaigns fork and read /proc")


def run_campaign(name, *flags):
    """Run a campaign; return its exit code and what it printed."""
    command = [sys.executable, f"tools/campaigns/{name}.py", *map(str, flags)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    return process.returncode, process.stdout + process.stderr
