"""charrnn-sample with frame predictors."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from frame_runs import RATE, voice
from sample_command import PROGRAM, error, int16

from charrnn.commands import sample_task
from charrnn.commands.sample import charrnn_sample
from charrnn.commands.train import charrnn_train
from charrnn.engines.cpu import library as cpu_library
from charrnn.frames import model as frame_model
from charrnn.sampling import task
from charrnn.sampling.seams import measure_seams
from charrnn.storage import checkpoint

KERNEL = Path(cpu_library.__file__).with_name("kernel.library")
SPACING = 100
pytestmark = pytest.mark.usefixtures("in_frame_networks")


def sample(*argv):
    """Return the int16 samples that charrnn-sample writes to x.wav."""
    assert charrnn_sample([*argv, "-q", "-o", "x.wav"]) == 0
    sound, rate = soundfile.read("x.wav", dtype="int16")
    assert rate == RATE
    return sound


def test_a_small_network_uses_one_thread_by_default(monkeypatch):
    for flags, variable, small, threads in (
        ([], "0", 10**9, 1),
        ([], "0", 1, 0),
        ([], "3", 10**9, 3),
        (["--threads", "2"], "0", 10**9, 2),
    ):
        found = []
        monkeypatch.setenv("CHARRNN_THREADS", variable)
        monkeypatch.setattr(sample_task, "SMALL_NETWORK", small)
        monkeypatch.setattr(sample_task.runtime, "set_threads", found.append)
        sample("mse", "--length", "10", *flags)
        assert found == [threads]


def test_the_default_is_ten_seconds_of_16_bit_sound(monkeypatch):
    assert task.DEFAULT_SECONDS == 10
    monkeypatch.setattr(task, "DEFAULT_SECONDS", 1)
    assert len(sample("mse")) == RATE
    assert soundfile.info("x.wav").subtype == "PCM_16"


def test_floats_are_the_same_sound_before_rounding():
    rounded = sample("gaussian", "--seconds", "0.5")
    assert charrnn_sample(["gaussian", "--seconds", "0.5", "--float", "-q", "-o", "f.wav"]) == 0
    assert soundfile.info("f.wav").subtype == "FLOAT"
    assert np.abs(soundfile.read("f.wav")[0] * 32768 - rounded).max() <= 0.501


@pytest.mark.skipif(not KERNEL.exists(), reason="the compiled engine was not built")
def test_compiled_layers_and_torch_generate_the_same_sound():
    for name in ("mse", "gaussian"):
        compiled = sample(name, "--seconds", "0.5", "--engine", "cpu")
        assert np.array_equal(sample(name, "--seconds", "0.5"), compiled)
        assert np.abs(sample(name, "--seconds", "0.5", "--engine", "eager").astype(int) - compiled).max() <= 2


def test_without_the_compiled_engine_torch_is_used_and_reported(monkeypatch, capfd):
    eager = sample("mse", "--length", "300", "--engine", "eager")
    monkeypatch.setenv(cpu_library.LIBRARY_VARIABLE, "none.library")
    cpu_library.library.cache_clear()
    try:
        assert charrnn_sample(["mse", "--length", "300", "-o", "y.wav"]) == 0
        assert "Sampling with torch" in capfd.readouterr().err
        assert np.array_equal(int16("y.wav"), eager)
        assert charrnn_sample(["mse", "--length", "300", "--engine", "cpu", "-o", "z.wav"]) == 1
        assert "not built" in capfd.readouterr().err
    finally:
        cpu_library.library.cache_clear()


def test_seed_and_temperature_determine_the_noise():
    first = sample("gaussian", "--length", "999")
    assert len(first) == 999
    assert np.array_equal(first, sample("gaussian", "--length", "999", "--seed", "0"))
    assert not np.array_equal(first, sample("gaussian", "--length", "999", "--seed", "1"))
    assert np.std(sample("gaussian", "--length", "999", "--temperature", "0.1")) < np.std(first)


def test_a_stream_does_not_depend_on_the_others():
    argv = ["gaussian", "--seconds", "0.2", "-q"]
    assert charrnn_sample([*argv, "--streams", "3", "-o", "streams"]) == 0
    streams = [int16(f"streams/00{k}.wav") for k in (1, 2, 3)]
    assert np.array_equal(streams[0], sample(*argv))
    assert not np.array_equal(streams[0], streams[1])
    assert charrnn_sample([*argv, "--temperature", "0.5,1", "-o", "warm"]) == 0
    assert np.array_equal(int16("warm/002.wav"), streams[0])


def test_segments_are_cut_from_one_sound_and_marked():
    whole = sample("mse", "--seconds", "0.3")
    joined = sample("mse", "--segments", "3", "--segment-seconds", "0.1", "--segments-dir", "parts")
    assert np.array_equal(whole, joined)
    assert np.array_equal(np.concatenate([int16(f"parts/00{k}.wav") for k in (1, 2, 3)]), whole)
    data = Path("x.wav").read_bytes()
    assert data[data.rindex(b"cue ") + 8] == 2


def test_reset_applies_to_every_pass():
    carried, reset = sample("mse", "--length", "80"), sample("mse", "--length", "80", "--join", "reset")
    assert np.array_equal(carried[:20], reset[:20])
    assert not np.array_equal(carried[20:], reset[20:])


def test_a_saved_state_resumes_as_if_it_had_not_been_interrupted():
    for name in ("mse", "gaussian"):
        whole = sample(name, "--length", "500", "--seed", "4")
        first = sample(name, "--length", "213", "--seed", "4", "--state-out", "s")
        second = sample(name, "--length", "287", "--state-in", "s")
        assert np.array_equal(np.concatenate([first, second]), whole), name


def test_a_start_file_replaces_the_first_window():
    model = frame_model.load("mse").model
    found = sample("mse", "--length", "20", "--start-file", "voice.wav")
    assert not np.array_equal(found, sample("mse", "--length", "20"))
    means, _, _ = model(frame_model.to_float(voice(6)[-80:])[None], model.initial_state(1))
    assert np.abs(found - means[0].detach().numpy() * 32768).max() < 1


def test_standard_input_is_read_once_for_several_temperatures(monkeypatch):
    """It was read again for each temperature, and was empty then."""
    with open("voice.wav", "rb") as file:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(file.read())))
    flags = ["gaussian", "--length", "50", "--temperature", "0.5,1", "-q", "-o", "several"]
    assert charrnn_sample([*flags, "--start-file", "-"]) == 0
    assert np.array_equal(int16("several/002.wav"), sample("gaussian", "--length", "50", "--start-file", "voice.wav"))


def test_sound_is_written_to_a_pipe_until_it_is_closed():
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    argv = [sys.executable, "-c", PROGRAM, "gaussian", "--seconds", "0"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        data = process.stdout.read(5000)
        process.stdout.close()
        assert "Traceback" not in process.stderr.read().decode()
        assert process.wait(60) == 0
    header = data.index(b"data") + 8
    found = np.array(struct.unpack_from("<1000h", data, header))
    assert np.array_equal(found, sample("gaussian", "--seconds", "0.1")[:1000])


def test_samples_beyond_full_scale_are_counted_and_reported(capsys):
    loud = frame_model.load("mse")
    loud.model.output.bias.data.fill_(100)
    checkpoint.save("loud.safetensors", loud)
    assert charrnn_sample(["loud.safetensors", "--length", "50", "-o", "x.wav"]) == 0
    assert "50 of 50 samples" in capsys.readouterr().err
    assert set(int16("x.wav")) == {32767}


@pytest.mark.parametrize(
    ("argv", "code", "word"),
    [
        (["--temperature", "0.5"], 1, "--temperature"),
        (["--start-text", "a"], 2, "--start-text"),
        (["--encoding", "latin-1"], 2, "--encoding"),
        (["--start-file", "voice.wav", "--start-seconds", "1"], 2, "--start-seconds"),
        (["--play"], 2, "--play"),
        (["--precision", "bf16"], 2, "--precision bf16"),
        (["--engine", "onnx"], 2, "--engine onnx"),
        (["-o", "x.txt"], 2, "makes sound"),
        (["--start-file", "poem.txt"], 1, "not a recording"),
        (["--start-file", "tiny.wav"], 1, "too short"),
        (["--state-in", "voice.wav"], 1, "not a sampling state"),
    ],
)
def test_what_does_not_fit_a_frame_predictor_is_rejected(capsys, argv, code, word):
    soundfile.write("tiny.wav", voice(0.1)[:50], RATE, subtype="PCM_16")
    output = [] if "-o" in argv else ["-o", "x.wav"]
    assert word in error(capsys, "mse", *argv, *output, code=code)
    assert not Path("x.wav").exists()


def test_a_truncated_checkpoint_is_rejected(capsys):
    Path("cut.safetensors").write_bytes(Path(frame_model.load("mse").path).read_bytes()[:-100])
    assert "cut.safetensors is not a checkpoint" in error(capsys, "cut.safetensors", "-o", "x.wav")


def test_seams_between_windows_are_as_smooth_as_the_inside_if_the_state_is_carried_and_not_if_it_is_reset(
    frame_recordings,
):
    flags = "--frames --loss mse --cell lstm --rnn-size 32 --layers 1 --seq-length 100 --frame-taps 8 --batch-size 10"
    more = "--max-iterations 400 --learning-rate 0.01 --threads 1 -q --run-dir seams"
    assert charrnn_train([str(frame_recordings / "voice.wav"), *flags.split(), *more.split()]) == 0
    seams, measures = range(SPACING, 5 * RATE, SPACING), {}
    for join in ("carry", "reset"):
        measures[join] = measure_seams(sample("seams", "--seconds", "5", "--join", join), seams, window=SPACING // 4)
    assert measures["carry"].jump < 0.6  # with this many seams, even a smaller difference is significant
    assert measures["carry"].spectrum < 0.6
    assert measures["reset"].jump > 0.75
    assert measures["reset"].audible()
