"""Runs are found by name, logs go on without a gap, and one process writes at a time."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytecodec.errors import InputError
from charrnn.storage.csv_log import LOG_COLUMNS, TIME_COLUMNS, VAL_COLUMNS, CsvLog, read_rows
from charrnn.storage.run_dir import Run, checkpoint_path, find_run, new_run, newest_run, write_json

COLUMNS = ("iteration", "loss")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_run(path, steps=(), best=None):
    run = Run(Path(path))
    run.checkpoints_folder.mkdir(parents=True)
    run.write_config({})
    for step in steps:
        run.checkpoint_file(step).touch()
    if best is not None:
        write_json(run.best_file, best)
    return run


def refusal(call, *args):
    with pytest.raises(InputError) as caught:
        call(*args)
    return str(caught.value)


# Names


def test_a_name_is_a_path_before_it_is_a_run_under_runs(here):
    make_run("runs/voice")
    assert find_run("voice").path == Path("runs/voice")
    assert find_run("runs/voice").path == Path("runs/voice")
    make_run("voice")
    assert find_run("voice").path == Path("voice")
    assert find_run(str(here / "runs" / "voice")).path == here / "runs" / "voice"


def test_a_folder_that_is_no_run_does_not_hide_one_under_runs(here):
    make_run("runs/data")
    Path("data").mkdir()
    assert find_run("data").path == Path("runs/data")


def test_a_missing_run_is_a_sentence(here):
    assert refusal(find_run, "voice") == "there is no run voice, nor runs/voice."


def test_the_newest_run_is_the_one_written_to_last(here):
    for age, name in enumerate(["b", "c", "a"]):
        run = make_run(f"runs/{name}")
        os.utime(run.config_file, (1000 - age, 1000 - age))
    Path("runs/notes").mkdir()
    assert newest_run().path == Path("runs/b")
    Run(Path("runs/a")).log_file.write_text("iteration\n")
    os.utime("runs/a/log.csv", (2000, 2000))
    assert newest_run().path == Path("runs/a")


def test_without_runs_the_message_says_how_to_make_one(here):
    message = "there is no trained network under ./runs: make one with `charrnn-train INPUT`, or name one."
    assert refusal(newest_run) == message
    Path("runs").mkdir()
    assert refusal(newest_run) == message


def test_a_checkpoint_is_a_file_or_one_of_a_runs(here):
    run = make_run(
        "runs/voice",
        [1000, 2000, 2500],
        {"iteration": 2000, "val_loss": 1.5, "checkpoint": "checkpoints/00002000.safetensors"},
    )
    files = [Path(f"runs/voice/checkpoints/0000{step}.safetensors") for step in (1000, 2000, 2500)]
    assert run.checkpoints() == files
    assert checkpoint_path("voice") == files[2]
    assert checkpoint_path(Path("runs/voice"), "newest") == files[2]
    assert checkpoint_path("voice", "best") == files[1]
    assert checkpoint_path("voice", "1000") == checkpoint_path("voice", "00001000") == files[0]
    assert checkpoint_path(files[0], "best") == files[0]


def test_a_checkpoint_that_is_not_there_is_a_sentence(here):
    make_run("runs/new")
    make_run("runs/voice", [1000, 2000])
    assert refusal(checkpoint_path, "none") == "there is no run none, nor runs/none."
    assert refusal(checkpoint_path, "new") == (
        "the run runs/new has no checkpoint yet: let it train until its first one."
    )
    assert refusal(checkpoint_path, "voice", "best") == (
        "the run runs/voice has no validation yet, so none of its checkpoints is best."
    )
    for which in ("1500", "-1", "latest", "²"):
        assert refusal(checkpoint_path, "voice", which) == (
            f"the run runs/voice has no checkpoint {which}. It has newest, best, 1000, 2000."
        )


@pytest.mark.parametrize("content", ["", "[1]", "7", "{}", '{"checkpoint": 3}', '{"iteration": 1}', "{"])
def test_a_best_json_of_another_hand_names_no_best(here, content):
    run = make_run("runs/voice", [1000])
    run.best_file.write_text(content)
    assert run.best() is None
    assert refusal(checkpoint_path, "voice", "best").endswith("so none of its checkpoints is best.")


def test_checkpoints_are_in_the_order_of_their_iterations_beyond_eight_digits(here):
    run = make_run("runs/long", [99_999_999, 100_000_000])
    (run.checkpoints_folder / "1-mine.safetensors").touch()
    (run.checkpoints_folder / ".00001000.safetensors.x.part").touch()
    assert [int(file.stem) for file in run.checkpoints()] == [99_999_999, 100_000_000]


def test_a_new_run_counts_up_from_001(here):
    assert new_run(None, "in/voice.wav") == Path("runs/voice-001")
    for name in ("voice-001", "voice-003", "other-002"):
        make_run(f"runs/{name}")
    assert new_run(None, "in/voice.wav") == Path("runs/voice-002")
    make_run("runs/voice-002")
    assert new_run(None, "in/voice.wav") == Path("runs/voice-004")
    assert new_run(None, "/") == Path("runs/run-001")


def test_an_existing_run_is_never_trained_over(here):
    make_run("mine")
    assert refusal(new_run, "mine", "x.wav") == (
        "there is a run in mine already: go on with --resume mine, or name another --run-dir."
    )
    Path("full").mkdir()
    Path("full/a").touch()
    for name in ("full", "full/a"):
        assert refusal(new_run, name, "x.wav") == (
            f"{name} is there already and is no empty folder: name another --run-dir."
        )
    Path("empty").mkdir()
    assert new_run("empty", "x.wav") == Path("empty")


def test_a_config_that_cannot_be_read_is_a_sentence(here):
    run = Run(here)
    assert refusal(run.config) == f"{here} is not a run: there is no config.json in it."
    run.config_file.write_text("{")
    assert refusal(run.config).startswith(f"{run.config_file} cannot be read (")
    run.config_file.write_bytes(b"\xff")
    assert refusal(run.config).startswith(f"{run.config_file} cannot be read (")
    run.config_file.write_text("[]")
    assert str(run.config_file) in refusal(run.config)
    run.write_config({"inputs": ["größe.wav"]})
    assert run.config()["inputs"] == ["größe.wav"]


# Logs


def rows(path):
    return [tuple(row.values()) for row in read_rows(path)]


def fill(path, iterations, start=0):
    log = CsvLog(path, COLUMNS, start)
    for i in iterations:
        log.add({"iteration": i, "loss": i / 4, "more": 1})
    log.close()


def test_a_log_is_a_header_and_a_row_each(tmp_path):
    fill(tmp_path / "log.csv", [1, 2, 12345678])
    assert (tmp_path / "log.csv").read_bytes() == b"iteration,loss\n1,0.25\n2,0.5\n12345678,3086419.5\n"


@given(st.floats(width=32, allow_nan=False))
def test_nine_digits_bring_back_any_float32(tmp_path, value):
    log = CsvLog(tmp_path / f"{abs(hash(value))}.csv", COLUMNS, 0)
    log.add({"iteration": 1, "loss": value})
    log.close()
    assert np.float32(read_rows(log.path)[0]["loss"]) == np.float32(value)


@pytest.mark.parametrize("at", range(6))
def test_rows_after_the_place_to_go_on_from_are_cut_away(tmp_path, at):
    path = tmp_path / "log.csv"
    fill(path, range(1, 6))
    log = CsvLog(path, COLUMNS, at)
    assert log.last == ({"iteration": str(at), "loss": f"{at / 4:g}"} if at else None)
    log.close()
    fill(path, range(at + 1, 6), at)
    fresh = tmp_path / "fresh.csv"
    fill(fresh, range(1, 6))
    assert path.read_bytes() == fresh.read_bytes()


def test_a_torn_row_is_no_row_wherever_it_is_torn(tmp_path):
    path = tmp_path / "log.csv"
    fill(path, range(1, 4))
    whole = path.read_bytes()
    for size in range(len(b"iteration,loss\n"), len(whole) + 1):
        path.write_bytes(whole[:size])
        left = whole[:size].count(b"\n") - 1
        assert [int(row["iteration"]) for row in read_rows(path)] == list(range(1, left + 1))
        fill(path, range(left + 1, 4), 3)
        assert path.read_bytes() == whole


def test_a_row_with_a_field_too_few_or_too_many_is_left_out(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("iteration,loss\n1,0.25\n2\n3,0.5,9\n4,1\n")
    assert rows(path) == [("1", "0.25"), ("4", "1")]


def test_what_a_power_cut_leaves_in_a_log_is_cut_away(tmp_path):
    """File systems fill what was not written yet with zero bytes."""
    path = tmp_path / "log.csv"
    path.write_bytes(b"iteration,loss\n1,0.25\n2,0.5\n" + b"\0" * 100 + b",0.75\n3,\0\n")
    CsvLog(path, COLUMNS, 2).close()
    assert path.read_bytes() == b"iteration,loss\n1,0.25\n2,0.5\n"


def test_rows_reach_a_reader_at_a_flush(tmp_path):
    log = CsvLog(tmp_path / "log.csv", COLUMNS, 0)
    log.add({"iteration": 1, "loss": 2})
    assert rows(log.path) == []
    log.flush()
    assert rows(log.path) == [("1", "2")]
    log.add({"iteration": 2, "loss": 2})
    log.sync()
    assert len(rows(log.path)) == 2
    log.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_names_the_log(tmp_path):
    log = CsvLog(tmp_path / "log.csv", COLUMNS, 0)
    log._file.close()
    with pytest.raises(OSError, match="No space left") as caught, open("/dev/full", "w") as full:  # noqa: PT012
        log._file = full
        log.add({"iteration": 1, "loss": 2})
        try:
            log.flush()
        finally:
            os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())
    assert caught.value.filename == str(log.path)


def test_json_is_written_whole_and_readable(tmp_path):
    write_json(tmp_path / "a.json", {"name": "größe", "n": [1, 2]})
    text = (tmp_path / "a.json").read_text("utf-8")
    assert text == '{\n  "name": "größe",\n  "n": [\n    1,\n    2\n  ]\n}\n'
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", object())
    assert (tmp_path / "a.json").read_text("utf-8") == text
    assert list(tmp_path.iterdir()) == [tmp_path / "a.json"]


# The lock


def hold_lock(folder):
    """Another process that holds the lock until its input ends."""
    program = (
        "import sys; from pathlib import Path; from charrnn.storage.run_dir import Run\n"
        "with Run(Path(sys.argv[1])).locked(): print('locked', flush=True); sys.stdin.read()\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("way_to_die", ["end", "kill"])
def test_a_second_writer_is_refused_until_the_first_is_gone_however_it_goes(tmp_path, way_to_die):
    run = Run(tmp_path)
    with hold_lock(tmp_path) as other:
        assert other.stdout.readline() == "locked\n"
        message = f"another process is training in {tmp_path}: wait for it, or stop it first."
        assert refusal(run.locked().__enter__) == message
        if way_to_die == "kill":
            os.kill(other.pid, signal.SIGKILL)
        else:
            other.stdin.close()
        other.wait()
    with run.locked():
        pass


def test_the_lock_is_let_go_of_after_an_error(tmp_path):
    run = Run(tmp_path)
    with pytest.raises(KeyError), run.locked():
        raise KeyError
    with run.locked(), pytest.raises(InputError), Run(tmp_path).locked():
        pass


def test_the_columns_are_those_that_are_documented():
    assert ",".join(LOG_COLUMNS) == (
        "iteration,epoch,train_loss,train_bits,learning_rate,grad_norm,symbols_per_second,elapsed_seconds"
    )
    assert ",".join(VAL_COLUMNS) == "iteration,epoch,val_loss,val_bits,elapsed_seconds"
    assert json.dumps(TIME_COLUMNS) == '["symbols_per_second", "elapsed_seconds"]'
