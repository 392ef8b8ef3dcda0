"""tools/gpu_check.py works the first time that it meets a GPU: all but the GPU is rehearsed on the CPU."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

TOOLS = Path(__file__).parents[1] / "tools"
sys.path.insert(0, str(TOOLS))  # its processes look there, too

import gpu_check  # noqa: E402
import gpu_checks  # noqa: E402
import gpu_floor  # noqa: E402
import gpu_plan  # noqa: E402
import gpu_scene  # noqa: E402
import gpu_workers  # noqa: E402
from gpu_trouble import PLACE  # noqa: E402


@pytest.fixture
def found(tmp_path, capsys):
    """``found(function)`` does the checks of tests/gpu_trouble.py: exit code, rows by name, and what was printed."""

    def do(function, *flags):
        file = tmp_path / "found.json"
        code = gpu_check.main(["--rehearse", "--checks", f"gpu_trouble:{function}", "--json", str(file), *flags])
        return code, {row["check"]: row for row in json.loads(file.read_text())["rows"]}, capsys.readouterr().out

    return do


def process(row):
    return row["figures"]["process"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_is_one_sentence(capsys):
    assert gpu_check.main([]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "gpu_check: torch finds no NVIDIA GPU here: run this on a machine with one, where torch is built for CUDA.\n"
    )


# The checks


@pytest.mark.parametrize("which", ["gpu_trouble:quick", pytest.param("gpu_plan:checks", marks=pytest.mark.slow)])
def test_rehearsed_on_the_cpu_every_test_is_right_and_every_benchmark_has_a_figure(which, capsys, tmp_path):
    pytest.importorskip("triton", reason="some of what the GPU does at best takes kernels")
    assert gpu_check.main(["--rehearse", "--checks", which, "--json", str(tmp_path / "found.json")]) == 0
    table = capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found["rows"]) == len(gpu_workers.load(which, True)) > 40
    for row in found["rows"]:
        assert f"| {row['check']} | {row['result']} |" in table
        assert row.get("ok", True), row
        if row["check"] != "the machine" and not row["check"].startswith("test:"):
            assert all(value > 0 for value in row["figures"].values()), row
    assert "its figures mean nothing" in found["device"]
    assert list(found["floors"]) == ["as measured"]


def test_on_a_gpu_there_is_a_row_of_its_own_name_for_each_way_of_each_size():
    names = [check.name for check in gpu_plan.checks()]
    assert len(set(names)) == len(names)
    for way in gpu_scene.WAYS:
        for streams in (1, 2, 16, 64, 256, 512):
            name = f"sample: {way}, bf16, {streams} stream" + "s" * (streams > 1)
            assert (name in names) == (way != "auto")
    for way in gpu_scene.TRAINING_WAYS:
        for rows in (50, 128, 512, 2048, 4096, 8192):
            assert f"train: {way}, bf16, {rows} rows" in names


def test_what_cannot_be_recorded_breaks_instead_of_being_timed_without_a_graph(monkeypatch):
    def fails(work):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(gpu_scene.graphs, "recorded", fails)
    scene = dataclasses.replace(gpu_scene.REHEARSAL, record=gpu_scene.recorded)
    with pytest.raises(gpu_scene.NotRecordedError, match="no CUDA graph: operation not permitted"):
        gpu_checks.training(scene, "bf16", True, "torch", 3)


def test_commands_that_fail_are_not_right():
    scene = dataclasses.replace(gpu_scene.REHEARSAL, train_flags="--layers 0")
    result, ok = gpu_checks.commands(scene)
    assert result.startswith("charrnn-train ended with 2: charrnn-train: ")
    assert not ok


COMPILE = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
import gpu_ceilings

def compiled(kernel, types, **constants):
    types = iter(types.split())
    signature = {name: "constexpr" if name in constants else next(types) for name in kernel.arg_names}
    places = {(i,): constants[name] for i, name in enumerate(kernel.arg_names) if name in constants}
    source = ASTSource(fn=kernel, signature=signature, constexprs=places)
    options = {"launch_cooperative_grid": kernel is gpu_ceilings._meet}
    made = compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    print(kernel.__name__, made.asm["ptx"].count("ld.global.cg"), made.asm["ptx"].count("ld.acquire.gpu"))

compiled(gpu_ceilings._read_again, "*fp32 *fp32 i32 i32", BLOCK=gpu_ceilings.BLOCK)
compiled(gpu_ceilings._meet, "*i32 *i32 i32 i32")
"""


@pytest.mark.slow
def test_its_kernels_compile_for_a_hopper_gpu(tmp_path):
    pytest.importorskip("triton", reason="kernels are tested where Triton is installed")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(map(str, (TOOLS, TOOLS.parent)))}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (read, cached, _), (meet, _, acquired) = (line.split() for line in done.stdout.splitlines())
    assert (read, meet) == ("_read_again", "_meet")
    assert int(cached) > 0
    assert int(acquired) == 1


# Trouble


def test_a_check_that_breaks_dies_or_is_wrong_is_a_row_and_the_others_go_on(found):
    code, rows, table = found("all_kinds")
    assert code == 1
    for line in (
        "| 1: wrong | not the same |  |  |  | NO |",
        "| 2: stumbles | broke: ValueError: no such thing |  |  |  | NO |",
        "| 3: is_refused | refused: it takes 16 streams at most. |  |  |  |  |",
        "| 5: breaks | broke: RuntimeError: CUDA error: out of luck |  |  |  | NO |",
        "| 7: takes_too_much | out of memory |  |  |  |  |",
        "| 9: dies | broke: the process ended with exit code 3 |  |  |  | NO |",
        "| 11: is_killed | broke: the process was ended by SIGSEGV |  |  |  | NO |",
    ):
        assert line in table
    assert "no part of the table" not in table
    processes = [process(row) for row in rows.values() if "figures" in row]
    assert processes[0] == processes[1]  # what is only wrong leaves the process as it is
    assert len(set(processes)) == len(processes) - 1
    assert "breaks()\n" in rows["5: breaks"]["traceback"] or "in breaks\n" in rows["5: breaks"]["traceback"]
    assert rows["0: fine"] | {"seconds": 0} == {
        "check": "0: fine",
        "result": f"{processes[0]:,.3g} process",  # the lowest one only the JSON has
        "figures": {"process": processes[0], "lowest process": 1},
        "seconds": 0,
        "of the floor by the data sheet": None,
        "of the floor as measured": None,
        "of the goal": None,
    }


def test_a_check_that_hangs_is_ended_with_all_that_it_started_and_its_kind_is_left_out(found, tmp_path, monkeypatch):
    monkeypatch.setenv(PLACE, str(tmp_path / "child"))
    code, rows, _ = found("hanging")
    assert code == 1
    assert rows["0: hangs"]["result"] == "broke: it took more than 0.5 s"
    assert rows["1: fine"]["result"] == "left out: the resident broke before"
    assert process(rows["after"]) != process(rows["before"])
    state = Path("/proc", (tmp_path / "child").read_text(), "stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"


def test_a_kind_that_breaks_twice_is_left_out(found):
    _, rows, _ = found("breaking_again")
    assert [row["result"][:13] for row in rows.values()] == [
        "broke: Runtim",
        "not the same",
        "broke: Runtim",
        "left out: the",
        rows["after"]["result"][:13],
    ]


def test_processes_that_do_not_start_are_rows_too(found):
    code, rows, _ = found("not_starting")
    assert code == 1
    assert [row["result"] for row in rows.values()] == ["broke: the process ended with exit code 1"] * 2


def test_ctrl_c_ends_it_with_the_table_of_what_was_done(found):
    code, rows, table = found("interrupting")
    assert code == 130
    assert list(rows) == ["0: fine"]
    assert "| 0: fine | " in table


def test_it_begins_nothing_when_its_time_is_over(found):
    code, rows, _ = found("hanging", "--minutes", "-1")
    assert code == 0
    assert {row["result"] for row in rows.values()} == {"left out: no time"}


def test_what_is_not_done_a_little_after_the_end_of_its_time_is_ended(found, monkeypatch):
    monkeypatch.setattr(gpu_workers, "GRACE", 0.2)
    monkeypatch.setattr(gpu_workers, "START", 1e-3)  # so that it is over before a process is ready
    began = time.monotonic()
    code, rows, _ = found("interrupting", "--minutes", "0")
    assert code == 0
    assert {row["result"] for row in rows.values()} == {"left out: no time"}
    code, rows, _ = found("interrupting", "--minutes", "0.005")
    assert code == 1
    assert rows["0: fine"]["result"] == "broke: the start of a process took more than 0.001 s"
    assert time.monotonic() - began < 30


# Floors and goals


def card(**changes):
    return gpu_floor.Card(**{"flops": 989e12, "memory": 4.8e12, "cache": 4.8e12, **changes})


WEIGHTS = 9_721_280  # 680 (4 (110 + 680) + 2 x 4 x 1360 + 256)


def test_the_floor_of_the_run_of_2016_is_its_longest_chain():
    assert gpu_floor.weights(gpu_floor.CONFIG) == WEIGHTS
    work = 6 * WEIGHTS * 2500 / 989e12 + 28 * WEIGHTS / 4.8e12
    assert gpu_floor.training(card(), 50) == pytest.approx(max(work, 104 * 1.5e-6)) == pytest.approx(work)
    assert gpu_floor.training(card(meeting=4e-6), 50) == pytest.approx(416e-6)
    assert gpu_floor.training(card(), 2048) == pytest.approx(6 * WEIGHTS * 102400 / 989e12 + 28 * WEIGHTS / 4.8e12)


def test_the_floor_of_sampling_is_its_meetings_or_its_weights():
    assert gpu_floor.sampling(card(), 1) == pytest.approx(4 * 1.5e-6)
    assert gpu_floor.sampling(card(cache=1e12), 1) == pytest.approx(2 * WEIGHTS / 1e12 + 2 * WEIGHTS / 989e12)


def test_what_was_measured_stands_in_for_the_data_sheet():
    rows = [
        {"check": "ceiling: copy", "figures": {"GB/s of memory": 4000.0, "lowest GB/s of memory": 3000.0}},
        {"check": "train: torch", "figures": {"TFLOP/s": 1.0}},
    ]
    assert gpu_floor.measured(rows) is None
    rows.append({"check": "ceiling: bf16 matrix product", "figures": {"TFLOP/s": 700.0}})
    assert gpu_floor.measured(rows) == card(flops=7e14, memory=4e12, cache=4e12, meeting=1.5e-6)
    rows.append({"check": "ceiling: L2 read", "figures": {"GB/s of L2": 5500.0}})
    rows.append({"check": "ceiling: a barrier", "result": "broke: it took more than 30 s", "ok": False})
    rows.append({"check": "ceiling: a barrier", "figures": {"us a meeting": 2.0}})
    assert gpu_floor.measured(rows) == card(flops=7e14, memory=4e12, cache=5.5e12, meeting=2e-6)


@pytest.mark.parametrize(
    ("about", "speed", "goal"),
    [
        ({"rows": 50}, 2500 / 1.6e-3, 1.0),
        ({"rows": 50}, 2500 / 3.2e-3, 0.5),
        ({"rows": 128}, 1e6, None),
        ({"rows": 2048}, 12.5e6, 1.0),
        ({"streams": 1}, 88e3, 2.0),
        ({"streams": 64}, 1e6, 0.5),
        ({"streams": 512}, 1e6, None),
        ({}, 1e6, None),
    ],
)
def test_how_much_of_a_goal_was_reached(about, speed, goal):
    row = {**about, "figures": {"symbols a second": speed}}
    assert gpu_floor.of_the_goal(row) == pytest.approx(goal)
    assert gpu_floor.of_the_goal(about) is None


def test_the_table_of_a_known_card_has_both_floors(capsys):
    rows = [
        {"check": "the machine", "result": "", "figures": {"device": "NVIDIA H200"}},
        {"check": "ceiling: copy", "result": "", "figures": {"GB/s of memory": 2400.0}},
        {"check": "ceiling: bf16 matrix product", "result": "", "figures": {"TFLOP/s": 494.5}},
        {"check": "train: x", "result": "1.6 ms", "rows": 2048, "figures": {"symbols a second": 8e6}},
    ]
    lines = gpu_check.table(gpu_check.results(rows)).splitlines()
    assert lines[0] == "device NVIDIA H200"
    assert lines[1].startswith("floor by the data sheet: 0.2041 ms an iteration of 50 rows, ")
    assert lines[2].startswith("floor as measured: 0.4083 ms an iteration of 50 rows, ")
    assert lines[-1] == "| train: x | 1.6 ms | 0.476 | 0.952 | 0.64 |  |"
    assert not any(name.startswith("floor") for name in gpu_check.table(gpu_check.results(rows[3:])).splitlines())
