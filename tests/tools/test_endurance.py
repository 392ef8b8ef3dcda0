"""Long training and sampling stay correct and constant in memory, and the campaign detects when they do not."""

from __future__ import annotations

import re
import sys

import pytest
from campaigns import ROOT, linux, run_campaign

from charrnn.storage.csv_log import LOG_COLUMNS

pytestmark = linux


@pytest.fixture(scope="module")
def endurance():
    """Import tools/campaigns/endurance.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "tools" / "campaigns")
        import endurance

        yield endurance
        del sys.modules["endurance"], sys.modules["common"]


def test_sampling_through_a_pipe_loses_no_symbol(trained_run):
    code, output = run_campaign("endurance", "--only", "sample", "--network", trained_run, "--sampled", 500_000)
    assert code == 0, output
    assert " s | 50" in output  # and some thousands more, depending on the reads


def test_the_engines_agree_over_a_long_sound(trained_run, tone_file):
    flags = ["--network", trained_run, "--sound", tone_file, "--symbols", 10_000]
    code, output = run_campaign("endurance", "--only", "agree", *flags)
    assert code == 0, output
    assert "| 10,000 symbols;" in output


def test_a_failed_check_is_reported_in_its_row_and_the_exit_code(trained_run):
    flags = ["--network", trained_run, "--symbols", 2000, "--precision", "int4"]
    code, output = run_campaign("endurance", "--only", "agree", *flags)
    assert code == 1, output
    assert re.match(r"\| agree \| .* \| failed: .* differs", output)


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags", [("train", "--iterations", 5000), ("sample,agree", "--sampled", 5_000_000, "--symbols", 100_000)]
)
def test_long_runs_pass(flags):
    code, output = run_campaign("endurance", "--only", *flags)
    assert code == 0, output


@pytest.mark.parametrize(
    "rows", [["1", "3"], ["1", "1"], ["1", "2,nan"], ["1", "2,"]], ids=["gap", "twice", "nan", "empty"]
)
def test_a_log_with_a_fault_is_detected(endurance, tmp_path, rows):
    log = tmp_path / "log.csv"
    lines = (",".join([*row.split(","), *["0.5"] * (len(LOG_COLUMNS) - 1 - row.count(","))]) for row in rows)
    log.write_text("\n".join([",".join(LOG_COLUMNS), *lines]) + "\n", encoding="utf-8")
    with pytest.raises((AssertionError, ValueError)):
        endurance.check_log(log)


def test_growing_memory_is_detected(endurance):
    memory = [round(100e6 + 1e5 * second) for second in range(100)]
    with pytest.raises(AssertionError, match=r"101\.5 to 109\.5 MB"):
        endurance.growth(memory)
    assert endurance.growth(memory[90:]) == "109.1 to 109.9 MB"
