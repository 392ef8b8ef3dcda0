"""charrnn-eval --free-running: what charrnn-sample writes is measured, printed, and stored in the run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import frame_runs
import numpy as np
import pytest
import soundfile

from charrnn.commands.eval import charrnn_eval
from charrnn.commands.sample import charrnn_sample
from charrnn.commands.train import charrnn_train
from charrnn.sampling import free_running
from charrnn.sampling.audio_metrics import level_drift, long_term_spectrum, peakiness
from charrnn.storage.run_dir import Run

SMALL = "--rnn-size 12 --layers 1 --wordvec-size 6 --max-iterations 5 --rate 8000 --threads 1 -q".split()


@pytest.fixture(scope="module")
def sound_networks(frame_networks, tmp_path_factory):
    """A folder with runs called linear, mulaw, gaussian and mse, of 4.8 s of sound to train on each."""
    folder = tmp_path_factory.mktemp("free")
    for name, flags in (("linear", []), ("mulaw", ["--mulaw"])):
        command = [str(frame_networks / "voice.wav"), *SMALL, *flags, "--run-dir", str(folder / name)]
        assert charrnn_train(command) == 0
    for name in ("gaussian", "mse"):
        shutil.copytree(frame_networks / name, folder / name)
    return folder


@pytest.fixture(autouse=True)
def here(sound_networks, tmp_path, monkeypatch):
    """A working directory with copies of the runs."""
    shutil.copytree(sound_networks, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def evaluated(capsys):
    """Function that returns the JSON object that the command prints."""

    def evaluated(*arguments):
        capsys.readouterr()
        assert charrnn_eval([*map(str, arguments), "--json", "--threads", "1", "-q"]) == 0
        return json.loads(capsys.readouterr().out)

    return evaluated


@pytest.mark.parametrize("name", ["linear", "mulaw", "gaussian"])
def test_the_sound_of_each_seed_is_what_charrnn_sample_writes(name, evaluated):
    found = evaluated(name, "--free-running", "2", "--seeds", "2")["free_running"]["seeds"]
    assert [one["seed"] for one in found] == [0, 1]
    for one in found:
        command = [name, "--seed", str(one["seed"]), "--seconds", "2", "--threads", "1", "-q", "-o", "x.wav"]
        assert charrnn_sample(command) == 0
        samples, rate = soundfile.read("x.wav", dtype="int16")
        x = samples / np.float32(32768)
        assert one["drift"] == level_drift(x, rate)
        assert one["peakiness"] == peakiness(long_term_spectrum(x, rate), rate)


@pytest.mark.parametrize("name", ["linear", "gaussian"])
def test_the_run_stores_what_is_printed_beside_the_same_bits(name, evaluated):
    bits, found = evaluated(name), evaluated(name, "--free-running", "2", "--seeds", "1")
    stored = found.pop("free_running")
    assert found == bits
    assert Run(Path(name)).free_running() == stored
    assert (stored["part"], stored["stretches"]) == ("train", 2)
    assert stored["iteration"] == found["iteration"]
    assert evaluated(name, "--free-running", "2.5", "--checkpoint", "best")["free_running"]["stretches"] == 1
    assert len(Run(Path(name)).free_running()["seeds"]) == 3


def test_the_reference_of_a_file_is_all_of_it_and_the_run_is_not_changed(evaluated):
    soundfile.write("other.wav", frame_runs.voice(4), frame_runs.RATE, subtype="PCM_16")
    flags = ["--free-running", "2", "--seeds", "1"]
    loud = evaluated("linear", "other.wav", "--part", "val", *flags)
    assert (loud["part"], loud["free_running"]["part"], loud["free_running"]["stretches"]) == ("val", "all", 2)
    soundfile.write("other.wav", frame_runs.voice(4) // 2, frame_runs.RATE, subtype="PCM_16")
    quiet = evaluated("linear", "other.wav", *flags)
    levels = [found["free_running"]["seeds"][0]["level"] for found in (loud, quiet)]
    assert levels[1] - levels[0] == pytest.approx(6, abs=0.2)
    assert not Run(Path("linear")).free_running_file.exists()


def test_the_table_has_a_line_per_measure_with_the_range_of_the_recording(capsys):
    assert charrnn_eval(["linear", "--free-running", "2", "--threads", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()[-8:]
    assert lines[0].startswith("free running  ")
    assert lines[0].endswith("3 seeds of 2 s; recording: 2 stretches of voice.wav (train)")
    assert lines[1].split() == ["mean", "seeds", "recording"]
    names = ["level", "drift", "spectrum", "peakiness", "silent", "clipped"]
    assert [line.split()[0].rstrip(",") for line in lines[2:]] == names
    ranges = Run(Path("linear")).free_running()["recording"]
    for line, name in ((lines[3], "drift"), (lines[5], "peakiness")):
        assert line.endswith(f"  {ranges[name]['least']:.1f} to {ranges[name]['greatest']:.1f}")


def test_a_recording_without_a_range_is_reported(evaluated, capsys):
    for seconds, words in (("4", "single stretch"), ("5", "unknown")):
        assert charrnn_eval(["linear", "--free-running", seconds, "--seeds", "1", "--threads", "1"]) == 0
        assert words in capsys.readouterr().out
    assert Run(Path("linear")).free_running()["recording"] is None


def test_a_frame_predictor_without_random_numbers_is_sampled_once(capsys):
    assert charrnn_eval(["mse", "--free-running", "2", "--threads", "1"]) == 0
    out, err = capsys.readouterr()
    assert "1 seed of 2 s" in out
    assert "--loss mse" in err


def test_text_and_a_recording_without_a_spectrum_are_rejected_before_the_evaluation(networks, monkeypatch, capsys):
    monkeypatch.setattr("charrnn.training.evaluate.evaluate", lambda *_, **__: pytest.fail("evaluated"))
    soundfile.write("short.wav", frame_runs.voice(0.1), frame_runs.RATE, subtype="PCM_16")
    for arguments, word in (([str(networks / "poem")], "text"), (["linear", "short.wav"], "short.wav, all")):
        capsys.readouterr()
        assert charrnn_eval([*arguments, "--free-running", "-q"]) == 1
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert word in err


@pytest.mark.parametrize("flags", ["--seeds 2", "--free-running --seeds 0", "--free-running 1.9", "--free-running nan"])
def test_wrong_flags_exit_with_2(flags, capsys):
    with pytest.raises(SystemExit, match="2"):
        charrnn_eval(["linear", *flags.split()])
    assert capsys.readouterr().err.count("\n") == 1


def make_folder(path):
    path.mkdir()


def make_link_out(path):
    Path("outside.json").write_text("{}")
    path.symlink_to(Path("outside.json").resolve())


@pytest.mark.parametrize("obstruct", [make_folder, make_link_out])
def test_results_are_printed_although_the_run_cannot_store_them(obstruct, capsys):
    obstruct(Path("linear/free_running.json"))
    assert charrnn_eval(["linear", "--free-running", "2", "--seeds", "1", "--threads", "1"]) == 0
    out, err = capsys.readouterr()
    assert "peakiness" in out
    assert "free_running.json is not written" in err
    if Path("outside.json").exists():
        assert Path("outside.json").read_text() == "{}"


def test_ctrl_c_while_sampling_keeps_the_measures_of_before(evaluated, monkeypatch, capsys):
    evaluated("linear", "--free-running", "2", "--seeds", "1")
    before = Path("linear/free_running.json").read_bytes()

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(free_running, "sample", interrupt)
    assert charrnn_eval(["linear", "--free-running", "2", "--threads", "1"]) == 130
    assert capsys.readouterr().out == ""
    assert Path("linear/free_running.json").read_bytes() == before
