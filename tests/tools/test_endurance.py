"""Training and sampling may go on for long; tools/campaigns/endurance.py tries it at length."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from charrnn.storage.csv_log import LOG_COLUMNS

ROOT = Path(__file__).parents[2]
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@pytest.fixture(scope="module")
def tool():
    """tools/campaigns/endurance.py as a module."""
    sys.path.insert(0, str(ROOT / "tools" / "campaigns"))
    try:
        import endurance
    finally:
        sys.path.remove(str(ROOT / "tools" / "campaigns"))
    return endurance


def endure(*flags):
    command = [sys.executable, "tools/campaigns/endurance.py", *map(str, flags)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    return process.returncode, process.stdout + process.stderr


@linux
def test_sampling_through_a_pipe_loses_nothing_and_stays_as_large_as_it_is(trained_run):
    code, said = endure("--only", "sample", "--network", trained_run, "--sampled", 500_000)
    assert code == 0, said
    assert said.startswith("| sample | 50"), said  # and some more thousands, as pipes are read


@linux
def test_the_engines_stay_together(trained_run, tone_file):
    code, said = endure("--only", "agree", "--network", trained_run, "--sound", tone_file, "--symbols", 5000)
    assert code == 0, said
    assert said.startswith("| agree | 5,000 symbols |"), said


@linux
@pytest.mark.slow
def test_a_long_training_leaves_a_whole_log_and_stays_as_large_as_it_is():
    code, said = endure("--only", "train", "--iterations", 5000)
    assert code == 0, said
    assert said.startswith("| train | 5,000 iterations |"), said


@linux
@pytest.mark.slow
def test_much_is_sampled_and_compared():
    code, said = endure("--only", "sample,agree", "--sampled", 5_000_000, "--symbols", 100_000)
    assert code == 0, said
    assert said.count("\n| ") == 1, said


@linux
def test_a_check_that_fails_is_a_row_and_an_exit_code(trained_run):
    code, said = endure("--only", "agree", "--network", trained_run, "--symbols", 2000, "--precision", "int4")
    assert code == 1, said
    assert said.startswith("| agree | failed |"), said
    assert "it loses" in said


@linux
@pytest.mark.parametrize(
    "rows",
    [["1", "3"], ["1", "1"], ["2"], ["1", "2,nan"], ["1", "2,inf"], ["1", "2,"]],
    ids=["gap", "twice", "late", "nan", "inf", "none"],
)
def test_a_log_with_a_fault_is_found_out(tool, tmp_path, rows):
    log = tmp_path / "log.csv"
    lines = (",".join([*row.split(","), *["0.5"] * (len(LOG_COLUMNS) - 1 - row.count(","))]) for row in rows)
    log.write_text("\n".join([",".join(LOG_COLUMNS), *lines]) + "\n", encoding="utf-8")
    with pytest.raises((AssertionError, ValueError)):
        tool.whole_log(log)


@linux
def test_memory_that_grows_is_found_out(tool):
    watch = tool.Watch(0)
    watch.seconds.extend(range(101))
    watch.memory.extend(100e6 + 1e5 * second for second in range(101))
    assert watch.grown(0, 100) == pytest.approx((101.5e6, 109.5e6))
    with pytest.raises(AssertionError, match=r"memory grew from 101\.5 to 109\.5 MB"):
        tool.flat(*watch.grown(0, 100))
    assert tool.flat(100e6, 104e6) == "100.0 to 104.0 MB"
