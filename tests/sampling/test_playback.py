"""The samples that a sound device receives during sampling, and errors without one."""

import os
import signal
import socket
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import soundfile
from listening import wait_for

import bytecodec
from bytecodec.errors import InputError
from charrnn.commands.sample import charrnn_sample
from charrnn.sampling import playback

RATE = 8000
BUFFERED = round(playback.BUFFER * RATE)


class PortAudioError(Exception):
    """The error of sounddevice."""


@pytest.fixture
def device(monkeypatch):
    """A sounddevice module with one device, its ``settings``, the ``data`` written to it, and the ``calls``."""
    device = SimpleNamespace(settings=None, data=b"", calls=[], late=False, missing="", broken_after=10**9)

    class RawOutputStream:
        def __init__(self, **settings):
            if device.missing:
                raise PortAudioError(device.missing)
            device.settings = settings

        def __getattr__(self, name):
            return lambda: device.calls.append(name)

        def write(self, data):
            assert device.calls == ["start"]
            if len(device.data) >= device.broken_after:
                raise PortAudioError("Device unavailable [PaErrorCode -9985]")
            device.data += data
            return device.late

    module = ModuleType("sounddevice")
    module.RawOutputStream, module.PortAudioError = RawOutputStream, PortAudioError
    module.default = SimpleNamespace(device=(0, 2))
    module.query_hostapis = lambda number: {"name": "ALSA"}
    module.query_devices = lambda: [
        {"index": 0, "name": "Microphone", "hostapi": 0, "max_output_channels": 0},
        {"index": 1, "name": "Virtual Cable", "hostapi": 0, "max_output_channels": 2},
        {"index": 2, "name": "Speakers", "hostapi": 0, "max_output_channels": 2},
    ]
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    return device


def played(device):
    return np.frombuffer(device.data, dtype=np.int16)


# The player


def test_samples_are_played_unchanged(device):
    samples = np.array([-32768, -1, 0, 7, 32767], dtype=np.int16)
    with playback.open_player(RATE) as player:
        player.write(samples)
    assert played(device).tolist() == samples.tolist()
    settings = {"samplerate": RATE, "channels": 1, "dtype": "int16", "latency": playback.BUFFER, "device": None}
    assert device.settings == settings
    assert device.calls == ["start", "stop", "abort", "close"]


def test_the_sound_begins_when_the_buffer_is_full(device):
    with playback.open_player(RATE) as player:
        player.write(np.zeros(BUFFERED - 1, np.int16))
        assert device.calls == []
        player.write(np.zeros(1, np.int16))
        assert device.calls == ["start"]
        assert len(played(device)) == BUFFERED
        player.write(np.zeros(7, np.int16))
        assert len(played(device)) == BUFFERED + 7


def test_gaps_are_counted_from_the_second_piece_on_and_reported(device, capsys):
    device.late = True
    for quiet in (True, False):
        device.calls = []
        with playback.open_player(RATE, quiet=quiet) as player:
            player.write(np.zeros(BUFFERED, np.int16))
            assert player.gaps == 0
            player.write(np.zeros(256, np.int16))
            player.write(np.zeros(256, np.int16))
    assert capsys.readouterr().err.startswith("the sound had 2 gaps:")


def test_an_error_stops_the_sound_at_once(device):
    def interrupted():
        with playback.open_player(RATE) as player:
            player.write(np.zeros(BUFFERED, np.int16))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert device.calls == ["start", "abort", "close"]


# charrnn-sample --play


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def text_network(tmp_path_factory):
    from charrnn.data.vocab import Vocab
    from charrnn.models.char_rnn import ModelConfig, build
    from charrnn.storage.checkpoint import Checkpoint, save

    path = tmp_path_factory.mktemp("text") / "text.safetensors"
    save(path, Checkpoint(build(ModelConfig(3, 2, 4, 1), 0), Vocab("abc")))
    return str(path)


def test_the_sound_is_played_as_it_is_written(here, device, trained_run, capsys):
    assert charrnn_sample([str(trained_run), "--length", "5000", "--play", "-o", "x.wav"]) == 0
    samples, rate = soundfile.read("x.wav", dtype="int16")
    np.testing.assert_array_equal(played(device), samples)
    assert device.settings["samplerate"] == rate == 11025
    assert "times real time: x.wav" in capsys.readouterr().err
    device.data, device.calls = b"", []
    assert charrnn_sample([str(trained_run), "--length", "5000", "--play", "-q"]) == 0
    np.testing.assert_array_equal(played(device), samples)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert os.listdir() == ["x.wav"]


def test_a_pipe_and_the_device_receive_the_same(here, device, trained_run, capfdbinary):
    assert charrnn_sample([str(trained_run), "--length", "300", "--play", "-o", "-", "-q"]) == 0
    text = capfdbinary.readouterr().out.decode()
    assert ((np.frombuffer(bytecodec.decode(text), dtype=np.uint8).astype(int) - 128) * 256).tolist() == list(
        played(device)
    )


def test_when_the_device_stops_the_sampling_ends_and_the_file_is_kept(here, device, trained_run, capsys):
    device.broken_after = 2 * 4000
    assert charrnn_sample([str(trained_run), "--seconds", "0", "--play", "-o", "x.wav", "-q"]) == 1
    assert "Device unavailable [PaErrorCode -9985]" in capsys.readouterr().err
    samples, _ = soundfile.read("x.wav", dtype="int16")
    assert samples[: len(played(device))].tolist() == list(played(device))
    assert len(samples) == len(played(device)) + 256
    assert device.calls == ["start", "abort", "close"]


def test_without_a_device_nothing_is_written(here, device, trained_run, capsys):
    device.missing = "Error querying device -1"
    assert charrnn_sample([str(trained_run), "--play", "-o", "x.wav"]) == 1
    assert "Error querying device -1" in capsys.readouterr().err
    assert not Path("x.wav").exists()


def test_without_sounddevice_the_error_names_the_extra(here, trained_run, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert charrnn_sample([str(trained_run), "--play"]) == 1
    assert "charrnn-sound[play]" in capsys.readouterr().err


def test_without_portaudio_the_error_names_the_library(monkeypatch, tmp_path):
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    with pytest.raises(InputError, match="PortAudio"):
        playback.library()


def test_text_is_not_played(here, device, text_network, capsys):
    assert charrnn_sample([text_network, "--play"]) == 1
    assert "trained on text" in capsys.readouterr().err
    assert device.calls == []


def test_devices_are_listed_and_chosen_by_number_or_name(device, capsys, trained_run):
    assert charrnn_sample(["--list-devices"]) == 0
    assert capsys.readouterr().out == "  1 Virtual Cable, ALSA\n  2 Speakers, ALSA (default)\n"
    for given, wanted in (("1", 1), ("Cable", "Cable")):
        device.calls, device.data = [], b""
        assert charrnn_sample([str(trained_run), "--play", "--output-device", given, "--seconds", "0.5", "-q"]) == 0
        assert device.settings["device"] == wanted


def test_a_device_without_play_is_rejected(trained_run, capsys):
    with pytest.raises(SystemExit):
        charrnn_sample([str(trained_run), "--output-device", "1"])
    assert "--play" in capsys.readouterr().err


def test_osc_messages_control_endless_playback_until_ctrl_c(device, capsys, symbols_run):
    udp_client = pytest.importorskip("pythonosc.udp_client")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def control():
        with udp_client.SimpleUDPClient("127.0.0.1", port) as client:
            wait_for(lambda: device.data)
            client.send_message("/volume", 1.0)
            client.send_message("/stop", [])
            wait_for(lambda: "stop" in device.calls)
        os.kill(os.getpid(), signal.SIGINT)

    controller = threading.Thread(target=control)
    controller.start()
    code = charrnn_sample([str(symbols_run), "--play", "--osc", str(port)])
    controller.join()
    assert code == 0
    error = capsys.readouterr().err
    assert f"port {port}" in error
    assert "/volume 1 has no effect" in error


@pytest.mark.parametrize("flags", [["--osc", "9000"], ["--play", "--osc", "9000", "--seconds", "3"], ["--host", "x"]])
def test_osc_without_endless_playback_is_rejected(flags, capsys, symbols_run):
    with pytest.raises(SystemExit):
        charrnn_sample([str(symbols_run), *flags])
    assert "--osc" in capsys.readouterr().err
