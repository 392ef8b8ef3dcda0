"""Broken and hostile input is read or refused in a sentence; tools/campaigns/fuzz.py tries it at length."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TARGETS = "recordings", "texts", "checkpoint", "t7", "csv", "config"


def fuzz(target, inputs, keep):
    command = [
        sys.executable,
        "tools/campaigns/fuzz.py",
        "--inputs",
        str(inputs),
        "--only",
        target,
        "--keep",
        str(keep),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert process.returncode == 0, process.stderr
    assert f"{inputs:,} inputs" in process.stdout
    return process.stdout


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks, and reads /proc")


@linux
def test_broken_input_is_read_or_refused_in_a_sentence(tmp_path):
    said = fuzz(",".join(TARGETS), 100, tmp_path / "faults")
    assert said.count(" 0 faults") == len(TARGETS)
    assert all(words not in said for words in (" 0 read", " 0 refused"))


@linux
@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_much_broken_input_is_read_or_refused_in_a_sentence(tmp_path, target):
    fuzz(target, 3000 if target == "config" else 10_000, tmp_path / "faults")
