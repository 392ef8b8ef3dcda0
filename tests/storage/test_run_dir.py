"""Runs and checkpoints are found by name, and one process at a time writes to a run."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bytecodec.errors import InputError
from charrnn.storage.run_dir import Run, checkpoint_path, find_run, new_run, newest_run, write_json


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


def test_a_folder_that_is_not_a_run_does_not_hide_a_run_under_runs(here):
    Path("data").mkdir()
    assert "data" in refusal(find_run, "data")
    make_run("runs/data")
    assert find_run("data").path == Path("runs/data")


def test_the_newest_run_is_the_one_written_to_last(here):
    for age, name in enumerate(["b", "c", "a"]):
        run = make_run(f"runs/{name}")
        os.utime(run.config_file, (1000 - age, 1000 - age))
    Path("runs/notes").mkdir()
    assert newest_run().path == Path("runs/b")
    Run(Path("runs/a")).log_file.write_text("iteration\n")
    os.utime("runs/a/log.csv", (2000, 2000))
    assert newest_run().path == Path("runs/a")


def test_the_message_without_any_run_tells_how_to_make_one(here):
    assert "charrnn-train" in refusal(newest_run)
    Path("runs").mkdir()
    assert "charrnn-train" in refusal(newest_run)


def test_a_name_denotes_a_checkpoint_file_or_one_of_a_run(here):
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
    assert checkpoint_path(files[0]) == files[0]
    assert "omit it" in refusal(checkpoint_path, files[0], "best")


def test_a_checkpoint_that_does_not_exist_is_rejected(here):
    make_run("runs/new")
    run = make_run("runs/voice", [1000, 2000])
    assert "none" in refusal(checkpoint_path, "none")
    assert "no checkpoint yet" in refusal(checkpoint_path, "new")
    for which in ("1500", "-1", "latest", "²"):
        assert f"no checkpoint {which}. It has newest, best, 1000, 2000." in refusal(checkpoint_path, "voice", which)
    assert "no validation yet" in refusal(checkpoint_path, "voice", "best")
    for damaged in ("", "[1]", "{}", '{"checkpoint": 3}', '{"iteration": 1}', "{"):
        run.best_file.write_text(damaged)
        assert run.best() is None
        assert "best.json cannot be read" in refusal(checkpoint_path, "voice", "best")


def test_checkpoints_are_sorted_by_iteration_beyond_eight_digits(here):
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


def test_an_existing_run_or_folder_is_never_overwritten(here):
    make_run("mine")
    assert "--resume mine" in refusal(new_run, "mine", "x.wav")
    Path("full").mkdir()
    Path("full/a").touch()
    for name in ("full", "full/a"):
        assert name in refusal(new_run, name, "x.wav")
    Path("empty").mkdir()
    assert new_run("empty", "x.wav") == Path("empty")


def test_a_config_that_cannot_be_read_or_is_impossible_is_rejected(here):
    run = Run(here)
    assert "config.json" in refusal(run.config)
    for content in (b"{", b"\xff", b"[]", b'{"threads": 0}', b'{"val_frac": 0.5, "test_frac": 0.5}'):
        run.config_file.write_bytes(content)
        assert str(run.config_file) in refusal(run.config)


def test_a_config_is_read_with_defaults_and_need_not_be_complete(here):
    run = Run(here)
    run.write_config({"inputs": ["größe.wav"]})
    config = run.config()
    assert (config["inputs"], config["processes"]) == (["größe.wav"], 1)
    assert "symbols" in refusal(run.config, True)


# Writing


def test_json_is_written_whole_and_unescaped(tmp_path):
    write_json(tmp_path / "a.json", {"name": "größe", "n": [1, 2]})
    text = (tmp_path / "a.json").read_text("utf-8")
    assert text == '{\n  "name": "größe",\n  "n": [\n    1,\n    2\n  ]\n}\n'
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", object())
    assert (tmp_path / "a.json").read_text("utf-8") == text
    assert list(tmp_path.iterdir()) == [tmp_path / "a.json"]


# The lock


def hold_lock(folder):
    """Start another process, which holds the lock until its input ends."""
    program = (
        "import sys; from pathlib import Path; from charrnn.storage.run_dir import Run\n"
        "with Run(Path(sys.argv[1])).locked(): print('locked', flush=True); sys.stdin.read()\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("ending", ["end", "kill"])
def test_a_second_writer_is_rejected_until_the_first_process_has_ended(tmp_path, ending):
    run = Run(tmp_path)
    with hold_lock(tmp_path) as other:
        assert other.stdout.readline() == "locked\n"
        assert str(tmp_path) in refusal(run.locked().__enter__)
        if ending == "kill":
            os.kill(other.pid, signal.SIGKILL)
        else:
            other.stdin.close()
        other.wait()
    with run.locked():
        pass


def test_the_lock_is_released_after_an_error(tmp_path):
    run = Run(tmp_path)
    with pytest.raises(KeyError), run.locked():
        raise KeyError
    with run.locked(), pytest.raises(InputError), Run(tmp_path).locked():
        pass
