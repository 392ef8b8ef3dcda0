"""tools/gpu_check.py works the first time that it meets a GPU: all but the GPU is rehearsed on the CPU."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "tools" / "gpu_check.py"


@pytest.fixture(scope="module")
def gpu_check():
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_is_one_sentence(gpu_check, capsys):
    assert gpu_check.main([]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "gpu_check: torch finds no NVIDIA GPU here: run this on a machine with one, where torch is built for CUDA.\n"
    )


def test_rehearsed_on_the_cpu_every_test_is_right_and_every_benchmark_has_a_figure(gpu_check, capsys, tmp_path):
    assert gpu_check.main(["--rehearse", "--json", str(tmp_path / "found.json")]) == 0
    table = capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found["rows"]) == len(gpu_check.checks(["torch"])) > 30
    for row in found["rows"]:
        assert row["check"] in table
        assert row.get("ok", True), row
        if not row["check"].startswith("test:"):
            assert row.get("ms", 0) > 0 or row.get("symbols a second", 0) > 0, row
    assert "its figures mean nothing" in table


def test_a_check_that_breaks_or_is_wrong_is_a_row_and_the_others_go_on(gpu_check, capsys, monkeypatch):
    def breaks(scene):
        raise RuntimeError("CUDA error: out of luck\nand more")

    some = [("one", breaks), ("two", lambda scene: ("wrong", False)), ("three", lambda scene: {"ms": 1.5})]
    monkeypatch.setattr(gpu_check, "checks", lambda ways: some)
    assert gpu_check.main(["--rehearse"]) == 1
    out = capsys.readouterr().out
    assert "| one | broke: RuntimeError: ['CUDA error: out of luck'] | NO |" in out
    assert "| two | wrong | NO |" in out
    assert "| three | 1.5 ms |  |" in out
    assert json.loads(out[out.index("\n{") :])["rows"][2]["ms"] == 1.5


def test_it_begins_nothing_when_its_time_is_over(gpu_check, capsys):
    assert gpu_check.main(["--rehearse", "--minutes", "-1"]) == 0
    assert capsys.readouterr().out.count("left out: no time |") == len(gpu_check.checks(["torch"]))


def test_the_floor_of_the_run_of_2016_is_its_longest_chain(gpu_check):
    scene = gpu_check.Scene("cuda", gpu_check.ModelConfig(256))
    weights = 9_721_280  # 680 (4 (110 + 680) + 2 x 4 x 1360 + 256)
    work = 6 * weights * 2500 / 990e12 + 28 * weights / 4.8e12
    assert gpu_check.floor(scene, 50) == pytest.approx(max(work, 104 * 1.5e-6))
    assert gpu_check.floor(scene, 2048) == pytest.approx(6 * weights * 2048 * 50 / 990e12 + 28 * weights / 4.8e12)
