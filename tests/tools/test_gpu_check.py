"""The GPU check, rehearsed on the CPU: the same code on tiny networks."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from compiled_kernel import kernel_variants

TOOLS = Path(__file__).parents[2] / "tools" / "gpu"


@pytest.fixture
def check(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    yield importlib.import_module("check")
    for name in ("check", "correctness", "setups", "speed"):
        del sys.modules[name]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_ends_with_a_message(check, capsys):
    with pytest.raises(SystemExit, match="1"):
        check.main([])
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"check: {check.NO_GPU}\n"


@pytest.mark.usefixtures("bf16")
@pytest.mark.parametrize(
    "only", ["gradients", "graph", "own", "torch, 2x256", pytest.param("", marks=pytest.mark.slow)]
)
def test_every_check_passes_and_every_speed_is_positive(only, check, capsys, tmp_path):
    if not only:
        pytest.importorskip("triton", reason="the persistent kernel is written in Triton")
    if only in ("own", ""):
        kernel_variants()
    assert check.main(["--rehearse", "--only", only, "--json", str(tmp_path / "found.json")]) == 0
    rows = json.loads((tmp_path / "found.json").read_text())
    assert [row["check"] for row in rows] == [name for name in check.checks() if only in name]
    table = capsys.readouterr().out
    for row in rows:
        figures = row["figures"]
        assert f"{row['check']}: {next(name for name in figures if name != 'ok')}" in table
        assert figures.get("ok", True), row
        if row["check"].startswith(("train:", "sample:")):
            assert all(value > 0 for value in figures.values()), row


def test_a_check_that_raises_is_reported_and_the_others_still_run(check, monkeypatch, capsys, tmp_path):
    def breaks(setup):
        raise RuntimeError("CUDA error: out of luck\nand more")

    plan = {"broken": breaks, "wrong": lambda setup: {"ok": False, "loss": 1.0}, "fine": lambda setup: {"ok": True}}
    monkeypatch.setattr(check, "checks", lambda: plan)
    assert check.main(["--rehearse", "--json", str(tmp_path / "found.json")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["FAILED", "FAILED", "passed"]
    rows = json.loads((tmp_path / "found.json").read_text())
    assert rows[0]["error"] == "RuntimeError: CUDA error: out of luck"


def test_a_name_that_no_check_has_is_rejected(check, capsys):
    with pytest.raises(SystemExit, match="2"):
        check.main(["--rehearse", "--only", "zzz"])
    assert "zzz" in capsys.readouterr().err
