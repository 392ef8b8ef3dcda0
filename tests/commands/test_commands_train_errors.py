"""charrnn-train rejects wrong command lines and inputs, and leaves other files alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from train_command import SMALL, assert_same_run, error, train, write_sound

from charrnn.commands.train import charrnn_train
from charrnn.storage.run_dir import Run


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty folder to work in, with sound.txt and sound.wav."""
    monkeypatch.chdir(tmp_path)
    write_sound()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--resume", "r", "--seed", "1", "--batch-size", "2"], "--batch-size, --seed"),
        (["--resume", "r", "--threads", "1"], "--print-every"),
        (["--resume", ""], "--resume: it is empty"),
        (["sound.txt", "--rnn-size", "0"], "--rnn-size: 0 is too small"),
        (["sound.txt", "--forget-bias", "normal"], "--forget-bias: 'normal'"),
        (["sound.txt", "--val-frac", "0.6", "--test-frac", "0.4"], "no data to train on"),
        (["sound.txt", "--proj-size", "3"], "--proj-size is for --cell lstmp"),
        (["sound.txt", "--cell", "lstmp", "--rnn-size", "9", "--proj-size", "9"], "--rnn-size 9"),
        (["sound.txt", "--cell", "gru", "--forget-bias", "1"], "gru has no forget gates"),
        (["sound.txt", "--recipe", "modern", "--lr-decay-every", "1"], "--lr-decay-every needs"),
        (["sound.txt", "--temperature", "1"], "--temperature needs"),
    ],
)
def test_a_wrong_command_line_exits_with_2(capsys, flags, message):
    with pytest.raises(SystemExit) as exit_:
        charrnn_train(flags)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err
    assert not Path("runs").exists()


def test_too_little_data_is_rejected_with_the_numbers(capsys):
    Path("tiny.txt").write_text("abc")
    message = error(capsys, "tiny.txt", *SMALL, "--run-dir", "r")
    assert "tiny.txt: 3 symbols" in message
    assert "needs 33" in message
    assert not Path("r").exists()


def test_inputs_that_cannot_be_used_are_rejected_and_leave_no_run(capsys):
    Path("empty.txt").write_text("")
    Path("noise.bin").write_bytes(bytes(range(128, 256)) * 9)
    Path("plain.txt").write_text("plain text " * 99)
    Path("empty-folder").mkdir()
    for inputs, name in {
        ("missing.wav",): "missing.wav",
        ("empty.txt",): "empty.txt",
        ("noise.bin",): "noise.bin",
        ("plain.txt", "sound.wav"): "plain.txt",
        ("empty-folder",): "empty-folder",
    }.items():
        assert name in error(capsys, *inputs, *SMALL)
    assert "text" in error(capsys, "plain.txt", *SMALL, "--sample-seconds", "1")
    assert not Path("runs").exists() or not any(Path("runs").iterdir())


def test_a_loss_that_is_not_finite_names_the_last_good_checkpoint(capsys):
    flags = "--learning-rate 1e29 --grad-clip 0 --max-iterations 50 --checkpoint-every 1 --val-frac 0".split()
    message = error(capsys, "sound.txt", *SMALL, *flags, "--run-dir", "r", "-q")
    assert "is not finite" in message
    assert "r/checkpoints/0000000" in message
    assert "--init-from" in message


# Folders that exist


def test_an_existing_run_is_never_overwritten(capsys):
    train("sound.txt", *SMALL, "--max-iterations", "2", "--run-dir", "r")
    before = {path: path.read_bytes() for path in Path("r").rglob("*") if path.is_file()}
    assert "--resume r" in error(capsys, "sound.txt", *SMALL, "--run-dir", "r")
    assert before == {path: path.read_bytes() for path in Path("r").rglob("*") if path.is_file()}


@pytest.mark.parametrize("other", ["log.csv", ".config.json.abc.part/x"])
def test_a_folder_with_other_files_than_an_unfinished_run_is_left_alone(capsys, other):
    Path("r/.config.json.abc.part").mkdir(parents=True)
    for name in ("lock", "corpus.bin", other):
        Path("r", name).write_text("iteration\n1\n")
    assert "empty folder" in error(capsys, "sound.txt", *SMALL, "--max-iterations", "3", "--run-dir", "r")
    assert Path("r", other).read_text() == "iteration\n1\n"


def test_a_run_that_was_killed_while_it_was_created_is_replaced(monkeypatch):
    process = os.fork()
    if not process:
        monkeypatch.setattr("charrnn.storage.run_dir.Run.write_config", lambda *_: os._exit(9))
        charrnn_train(["sound.txt", *SMALL, "--max-iterations", "3", "--run-dir", "r", "-q"])
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 9
    files = ["corpus.bin", "lock", "log.csv", "resume.safetensors", "val.csv"]
    assert sorted(path.name for path in Path("r").iterdir()) == files
    for run in ("r", "whole"):
        train("sound.txt", *SMALL, "--max-iterations", "3", "--run-dir", run)
    assert_same_run("whole", "r")


def test_a_run_that_another_process_is_creating_is_left_alone(capsys):
    Path("r").mkdir()
    run = Run(Path("r"))
    with run.locked():
        run.corpus_file.write_bytes(b"theirs")
        assert "another process is training in r" in error(capsys, "sound.txt", *SMALL, "--run-dir", "r")
        assert run.corpus_file.read_bytes() == b"theirs"
