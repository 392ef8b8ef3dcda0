"""Commands read standard input, pipes and folders with unreadable files as they read a file."""

import json
import os
import shutil
from pathlib import Path

import pytest
from input_files import LFS, M4A, SMALL, files

import bytecodec
from bytecodec.errors import InputError
from charrnn.commands.eval import charrnn_eval
from charrnn.commands.plot import charrnn_plot
from charrnn.commands.sample import charrnn_sample
from charrnn.commands.train import charrnn_train
from charrnn.data.inputs import prepare_input


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_an_unknown_encoding_is_a_wrong_command_line(capsys):
    files("a.txt")
    for name in ("klingon", "base64", ""):
        with pytest.raises(SystemExit, match="2"):
            charrnn_train(["a.txt", "--encoding", name])
        assert "--encoding" in capsys.readouterr().err


# Standard input and pipes


def test_training_reads_standard_input_and_other_commands_read_its_run(stdin, capsys):
    stdin(bytecodec.encode(bytes(range(200))).encode())
    assert charrnn_train(["-", *SMALL]) == 0
    config = json.loads(Path("runs/stdin-001/config.json").read_text())
    assert (config["inputs"], config["symbols"], config["rate"]) == (["standard input"], 200, 11025)
    assert charrnn_train(["--resume", "stdin-001", "--max-iterations", "2"]) == 0
    assert charrnn_eval(["runs/stdin-001", "--part", "all"]) == 0
    assert "standard input, all: 200 symbols" in capsys.readouterr().out


def test_a_frame_predictor_is_trained_on_standard_input(stdin, tone_file):
    stdin(tone_file.read_bytes())
    flags = [flag for flag in SMALL if flag not in ("--wordvec-size", "2")]
    assert charrnn_train(["-", *flags, "--frames", "--frame-taps", "2"]) == 0
    assert json.loads(Path("runs/stdin-001/config.json").read_text())["inputs"] == ["standard input"]


@pytest.mark.parametrize("kind", ["sound", "text"])
def test_eval_and_the_start_of_sampling_read_standard_input(stdin, trained_run, tone, tone_file, capsys, kind):
    sent = tone_file.read_bytes() if kind == "sound" else bytecodec.encode(tone).encode()
    stdin(sent)
    assert charrnn_eval([str(trained_run), "-", "--json", "--threads", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["data"] == "standard input"
    made = []
    for name in ("-", str(tone_file)):
        stdin(sent)
        assert charrnn_sample([str(trained_run), "--start-file", name, "--length", "20", "--threads", "1", "-q"]) == 0
        made.append(capsys.readouterr().out)
    assert made[0] == made[1] != ""


def test_plot_draws_a_recording_or_a_log_from_standard_input(stdin, tone_file, trained_run, capsys):
    pytest.importorskip("matplotlib")
    for sent in (tone_file.read_bytes(), (trained_run / "log.csv").read_bytes()):
        stdin(sent)
        assert charrnn_plot(["-", "--width", "200", "--height", "150"]) == 0
        assert capsys.readouterr().out == "stdin.png\n"
    stdin(b"\n")
    assert charrnn_plot(["-"]) == 1
    assert "charrnn-plot: standard input " in capsys.readouterr().err


def test_an_error_in_standard_input_names_it(stdin, capsys):
    for sent in (b"", M4A, b"\x80\x81\0\x01\xff"):
        stdin(sent)
        assert charrnn_train(["-", *SMALL]) == 1
        error = capsys.readouterr().err
        assert "standard input" in error
        assert os.sep + "input" not in error  # the temporary copy
        assert not Path("runs/stdin-001").exists()


def test_standard_input_can_be_named_once(capsys):
    with pytest.raises(SystemExit, match="2"):
        charrnn_train(["-", "-"])
    assert "standard input" in capsys.readouterr().err


def test_a_network_is_not_read_from_standard_input(capsys, stdin):
    stdin(b"")
    files("a.txt")
    for call in (lambda: charrnn_sample(["-"]), lambda: charrnn_train(["a.txt", "--init-from", "-", *SMALL])):
        assert call() == 1
        assert "- is standard input" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="no pipes with names here")
def test_a_named_pipe_is_read_like_a_file():
    read, write = os.pipe()
    os.write(write, b"abc" * 20)
    os.close(write)
    try:
        assert charrnn_train([f"/dev/fd/{read}", *SMALL]) == 0
    finally:
        os.close(read)
    assert json.loads(Path("runs/pipe-001/config.json").read_text())["symbols"] == 60


def test_a_device_is_rejected(capsys):
    if not Path("/dev/zero").exists():
        pytest.skip("no devices here")
    with pytest.raises(InputError, match="/dev/zero is a device"), prepare_input("/dev/zero"):
        pass


# Whole commands


def test_train_and_eval_skip_unreadable_files_on_request(write_wav, tone, capsys):
    files("set/b.wav", content=LFS)
    write_wav(Path("set") / "a.wav", tone[:2000])
    assert charrnn_train(["set", *SMALL]) == 1
    assert "set/b.wav is a Git LFS pointer" in capsys.readouterr().err.replace(os.sep, "/")
    assert charrnn_train(["set", *SMALL, "--skip-unreadable"]) == 0
    config = json.loads(Path("runs/set-001/config.json").read_text())
    assert (config["symbols"], config["skipped"]) == (2000, [str(Path("set/b.wav"))])
    assert charrnn_train(["--resume", "set-001", "--max-iterations", "2"]) == 0
    assert charrnn_eval(["runs/set-001", "set", "--skip-unreadable"]) == 0
    assert charrnn_eval(["runs/set-001", "set"]) == 1


def test_a_file_name_that_is_not_utf8_can_be_trained_on(tone_file, capfd):
    odd = os.fsdecode(b"mod\x85 - la notte.wav")
    try:
        shutil.copy(tone_file, odd)
    except (OSError, UnicodeError):
        pytest.skip("the file system takes no such name")
    assert charrnn_train([odd, *SMALL, "-q"]) == 0
    Path(odd).write_bytes(M4A)
    assert charrnn_train([odd, *SMALL, "-q"]) == 1
    assert "la notte.wav" in capfd.readouterr().err


def test_a_latin_1_text_can_be_trained_on_evaluated_and_started_from(capsys):
    files("a.txt", content=("Zwölf Jäger " * 20).encode("latin-1"))
    assert charrnn_train(["a.txt", *SMALL]) == 1
    assert "--encoding latin-1" in capsys.readouterr().err
    assert charrnn_train(["a.txt", *SMALL, "--encoding", "latin-1", "-q"]) == 0
    assert charrnn_eval(["runs/a-001", "a.txt", "--encoding", "latin-1", "-q"]) == 0
    start = ["runs/a-001", "--start-file", "a.txt", "--length", "5", "-q"]
    assert charrnn_sample(start) == 1
    assert charrnn_sample([*start, "--encoding", "latin-1"]) == 0
