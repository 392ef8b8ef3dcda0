"""The event files of a run, as TensorBoard reads them."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from charrnn.commands.train import charrnn_train
from charrnn.storage.csv_log import read_rows
from charrnn.storage.run_dir import Run
from charrnn.training.trainer import Trainer

if not importlib.util.find_spec("tensorboard"):
    pytest.skip("tensorboard is not installed", allow_module_level=True)

from charrnn.training.tensorboard import SCALARS, TensorBoard, stride

SMALL = "--rnn-size 12 --layers 1 --wordvec-size 6 --batch-size 4 --seq-length 8 --checkpoint-every 3".split()
SMALL += ["--threads", "1", "--precision", "fp32", "-q"]
SOUND = ["--sample-seconds", "0.01", "--temperature", "0.5,1"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to work in, with a sound of 2,000 samples and a text."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    soundfile.write("sound.wav", rng.integers(-3000, 3000, 2000, dtype=np.int16), 11025, subtype="PCM_16")
    Path("poem.txt").write_text("O rose, thou art sick! " * 60, encoding="utf-8")
    return tmp_path


def train(*argv):
    assert charrnn_train([*argv]) == 0


def events(folder):
    """Return the events of a run, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(Run(Path(folder)).tensorboard_folder), {"scalars": 0, "audio": 0}).Reload()


def scalars(folder):
    """Return steps and values by tag."""
    found = events(folder)
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def assert_as_logged(folder):
    """Check that each row of the logs is there once, in single precision."""
    run, found, expected = Run(Path(folder)), scalars(folder), {}
    for row in (*read_rows(run.log_file), *read_rows(run.val_file)):
        for column in SCALARS.keys() & row.keys():
            expected.setdefault(SCALARS[column], []).append((int(row["iteration"]), float(row[column])))
    assert found.keys() == expected.keys()
    for tag, events in found.items():
        steps, values = zip(*expected[tag], strict=True)
        assert tuple(step for step, _ in events) == steps
        assert [value for _, value in events] == pytest.approx(values, rel=1e-6)


def sounds(folder):
    """Return the steps of sounds by tag."""
    found = events(folder)
    return {tag: [e.step for e in found.Audio(tag)] for tag in found.Tags()["audio"]}


def test_the_values_are_those_of_the_logs_and_each_checkpoint_has_its_sound(here):
    train("sound.wav", *SMALL, *SOUND, "--max-iterations", "7", "--tensorboard", "--run-dir", "r")
    assert_as_logged("r")
    assert [step for step, _ in scalars("r")["loss/train"]] == [1, 2, 3, 4, 5, 6, 7]
    assert [step for step, _ in scalars("r")["bits/val"]] == [3, 6, 7]
    assert sounds("r") == {"sound/t0.50": [3, 6, 7], "sound/t1.00": [3, 6, 7]}
    (first, *_) = events("r").Audio("sound/t1.00")
    sound, rate = soundfile.read(io.BytesIO(first.encoded_audio_string))
    written, _ = soundfile.read(Run(Path("r")).sample_file(3, 1.0))
    assert rate == first.sample_rate == 11025
    np.testing.assert_allclose(sound, written, atol=1e-4)


@pytest.mark.parametrize("kind", ["poem.txt", "frames"])
def test_runs_of_texts_and_frame_predictors_have_events(here, kind):
    flags = [*SMALL, "--max-iterations", "4", "--tensorboard", "--run-dir", "r"]
    if kind == "frames":
        frames = ["--frames", "--loss", "mse", "--frame-taps", "4", "--rate", "11025", *SOUND]
        flags = [flag for flag in flags if flag not in ("--wordvec-size", "6")]
        train("sound.wav", *flags, *frames)
        assert sounds("r")["sound/t1.00"] == [3, 4]
    else:
        train(kind, *flags)
        assert sounds("r") == {}
    assert_as_logged("r")


@contextlib.contextmanager
def killed_at(method, iteration):
    """End a training in a method of `Trainer` at an iteration."""
    original = getattr(Trainer, method)

    def end(trainer, *args):
        if trainer.state.iteration == iteration:
            raise KeyError("killed")
        return original(trainer, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, method, end)
        with pytest.raises(KeyError):
            yield


@pytest.mark.parametrize(("method", "iteration"), [("_prepare_iteration", 5), ("_validate", 6), ("_write_samples", 6)])
def test_a_run_that_was_killed_and_resumed_has_each_step_once(here, method, iteration):
    with killed_at(method, iteration):
        charrnn_train(["sound.wav", *SMALL, *SOUND, "--max-iterations", "7", "--tensorboard", "--run-dir", "r"])
    train("--resume", "r", "-q")
    assert_as_logged("r")
    assert sounds("r") == {"sound/t0.50": [3, 6, 7], "sound/t1.00": [3, 6, 7]}


def test_events_are_complete_if_the_clock_goes_back_between_sessions(here, monkeypatch):
    now = time.time()
    for session in range(12):  # ten or more, since "10" sorts before "9"
        command = ["--resume", "r", "-q"] if session else ["sound.wav", *SMALL, "--tensorboard", "--run-dir", "r"]
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda now=now - 3600 * session: now)
            train(*command, "--max-iterations", str(session + 1))
    assert_as_logged("r")


def test_a_run_that_was_stopped_and_extended_has_each_step_once(here):
    original = Trainer._prepare_iteration

    def interrupted(trainer):
        if trainer.state.iteration == 4:
            signal.raise_signal(signal.SIGINT)
        return original(trainer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_prepare_iteration", interrupted)
        command = ["sound.wav", *SMALL, "--max-iterations", "7", "--tensorboard", "--run-dir", "r"]
        assert charrnn_train(command) == 130
    train("--resume", "r", "-q")
    train("--resume", "r", "--max-iterations", "9", "-q")
    assert_as_logged("r")


@pytest.mark.skipif(sys.platform != "linux", reason="names of other systems are UTF-8")
def test_the_name_of_the_run_need_not_be_utf8(here):
    folder = os.fsdecode(b"r\xff $x\n")
    train("sound.wav", *SMALL, *SOUND, "--max-iterations", "4", "--tensorboard", "--run-dir", folder)
    train("--resume", folder, "--max-iterations", "7", "-q")
    Path(folder).rename("r")
    assert_as_logged("r")
    assert sounds("r")["sound/t1.00"] == [3, 4, 6, 7]


def test_a_sample_that_is_not_a_sound_of_the_run_is_skipped(here, capsys):
    train("sound.wav", *SMALL, *SOUND, "--max-iterations", "3", "--tensorboard", "--run-dir", "r")
    samples = Run(Path("r")).samples_folder
    (samples / "00000003_tbroken.wav").write_bytes(b"RIFF")
    (samples / "00000003_tlink.wav").symlink_to(here / "sound.wav")
    soundfile.write(samples / "00000003_tstereo.wav", np.zeros((100, 2)), 8000)
    train("--resume", "r", "--max-iterations", "4", "-q")
    assert sounds("r") == {"sound/t0.50": [3, 4], "sound/t1.00": [3, 4], "sound/tstereo": [3]}
    err = capsys.readouterr().err
    assert "tbroken" in err
    assert "tlink" in err


def test_without_the_flag_there_are_no_events_and_tensorboard_is_not_loaded(here, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    train("sound.wav", *SMALL, "--max-iterations", "2", "--run-dir", "r")
    assert not Run(Path("r")).tensorboard_folder.exists()


@pytest.mark.parametrize("again", [False, True])
def test_a_run_does_not_start_if_tensorboard_is_missing(here, capsys, monkeypatch, again):
    command = ["sound.wav", *SMALL, "--max-iterations", "2", "--tensorboard", "--run-dir", "r"]
    if again:
        train(*command)
        command = ["--resume", "r", "--max-iterations", "3"]
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    capsys.readouterr()
    assert charrnn_train(command) == 1
    assert "pip install 'charrnn-sound[tensorboard]'" in capsys.readouterr().err
    assert Path("r").exists() == again


def test_long_runs_write_fewer_of_their_iterations():
    assert [stride(i) for i in (1, 9_999, 10_000, 99_999, 100_000, 10**6)] == [1, 1, 10, 10, 100, 1000]


def test_a_sound_of_one_sample_is_skipped(here):
    flags = ["--sample-seconds", "0.00001", "--max-iterations", "2", "--tensorboard", "--run-dir", "r"]
    train("sound.wav", *SMALL, *flags)
    assert sounds("r") == {}


def test_a_full_disk_is_reported_in_one_line(here, capfd, monkeypatch):
    original = TensorBoard.__init__

    def full(board, trainer):
        original(board, trainer)
        writer = board._writer.file_writer.event_writer._async_writer._writer

        def write(data):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(writer, "write", write)

    monkeypatch.setattr(TensorBoard, "__init__", full)
    command = ["sound.wav", *SMALL, "--max-iterations", "7", "--tensorboard", "--run-dir", "r"]
    assert charrnn_train(command) == 1
    assert "Traceback" not in (err := capfd.readouterr().err)
    assert "No space left on device" in err
    monkeypatch.undo()
    monkeypatch.chdir(here)
    train("--resume", "r", "-q")
    assert_as_logged("r")
