"""Benchmarks print each figure with its baseline."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "tools" / "bench"
SCRIPT = """
from table import Row, main
main("", "unit", [Row("plain", lambda: 200.0), Row("fast", lambda: 500.0, "plain"), Row("other", lambda: 1.0)])
"""


def test_a_chosen_row_is_measured_with_its_baseline_and_their_ratio(tmp_path):
    script = tmp_path / "bench.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(BENCH)!r})\n{SCRIPT}")
    command = [sys.executable, str(script), "--only", "fast", "--repeat", "2"]
    lines = subprocess.run(command, capture_output=True, check=True, text=True).stdout.splitlines()
    assert lines[-2:] == ["| plain | 200 (200 to 200) |  |  |", "| fast | 500 (500 to 500) | plain | 2.50 |"]


def test_every_baseline_is_a_row(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    for benchmark in ("codec", "train", "sample", "frames"):
        rows = importlib.import_module(benchmark).rows()
        del sys.modules[benchmark]
        names = [row.name for row in rows]
        assert len(set(names)) == len(names), benchmark
        assert {row.baseline for row in rows} <= {"", *names}, benchmark
