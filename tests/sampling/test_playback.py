"""Playing while it samples: what a sound device gets, and what is said where there is none."""

import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import soundfile

import bytecodec
from bytecodec.errors import InputError
from charrnn.commands.sample import charrnn_sample
from charrnn.sampling import playback

RATE = 8000
BUFFERED = round(playback.BUFFER * RATE)


class PortAudioError(Exception):
    """As sounddevice has it."""


@pytest.fixture
def device(monkeypatch):
    """A sounddevice module with one device: what it was ``asked`` for, what it ``heard``, and what it ``did``."""
    device = SimpleNamespace(asked=None, heard=b"", did=[], late=False, missing="", broken_after=10**9)

    class RawOutputStream:
        def __init__(self, **asked):
            if device.missing:
                raise PortAudioError(device.missing)
            device.asked = asked

        def __getattr__(self, name):
            return lambda: device.did.append(name)

        def write(self, data):
            assert device.did == ["start"]
            if len(device.heard) >= device.broken_after:
                raise PortAudioError("Device unavailable [PaErrorCode -9985]")
            device.heard += data
            return device.late

    module = ModuleType("sounddevice")
    module.RawOutputStream, module.PortAudioError = RawOutputStream, PortAudioError
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    return device


def heard(device):
    return np.frombuffer(device.heard, dtype=np.int16)


# The player


def test_bytes_are_played_as_loud_as_they_are(device):
    with playback.open_player(RATE) as player:
        player.write(np.array([0, 127, 128, 129, 255]))
    assert heard(device).tolist() == [-32768, -256, 0, 256, 32512]
    assert device.asked == {"samplerate": RATE, "channels": 1, "dtype": "int16", "latency": playback.BUFFER}
    assert device.did == ["start", "stop", "abort", "close"]


def test_mulaw_is_decoded(device):
    codes = np.arange(256)
    with playback.open_player(RATE, mulaw=True) as player:
        player.write(codes)
    assert heard(device).tolist() == bytecodec.decode_mulaw(codes.astype(np.uint8)).tolist()


def test_the_sound_begins_when_the_buffer_is_full(device):
    with playback.open_player(RATE) as player:
        player.write(np.full(BUFFERED - 1, 128))
        assert device.did == []
        player.write(np.full(1, 128))
        assert device.did == ["start"]
        assert len(heard(device)) == BUFFERED
        player.write(np.full(7, 128))
        assert len(heard(device)) == BUFFERED + 7


def test_gaps_are_counted_from_the_second_piece_on_and_said(device, capsys):
    device.late = True
    for quiet in (True, False):
        device.did = []
        with playback.open_player(RATE, quiet=quiet) as player:
            player.write(np.full(BUFFERED, 128))
            assert player.gaps == 0
            player.write(np.full(256, 128))
            player.write(np.full(256, 128))
    assert capsys.readouterr().err == "the sound had 2 gaps: the sampling is slower than it plays.\n"


def test_an_error_silences_it_at_once(device):
    def interrupted():
        with playback.open_player(RATE) as player:
            player.write(np.full(BUFFERED, 128))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert device.did == ["start", "abort", "close"]


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


def test_what_is_played_is_what_is_written(here, device, trained_run, capsys):
    assert charrnn_sample([str(trained_run), "--length", "5000", "--play", "-o", "x.wav"]) == 0
    samples, rate = soundfile.read("x.wav", dtype="int16")
    np.testing.assert_array_equal(heard(device), samples)
    assert device.asked["samplerate"] == rate == 11025
    assert "times real time: x.wav" in capsys.readouterr().err
    device.heard, device.did = b"", []
    assert charrnn_sample([str(trained_run), "--length", "5000", "--play", "-q"]) == 0
    np.testing.assert_array_equal(heard(device), samples)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert os.listdir() == ["x.wav"]


def test_with_a_pipe_it_does_both(here, device, trained_run, capfdbinary):
    assert charrnn_sample([str(trained_run), "--length", "300", "--play", "-o", "-", "-q"]) == 0
    text = capfdbinary.readouterr().out.decode()
    assert ((np.frombuffer(bytecodec.decode(text), dtype=np.uint8).astype(int) - 128) * 256).tolist() == list(
        heard(device)
    )


def test_a_device_that_goes_away_ends_it_and_the_file_is_kept(here, device, trained_run, capsys):
    device.broken_after = 2 * 4000
    assert charrnn_sample([str(trained_run), "--seconds", "0", "--play", "-o", "x.wav", "-q"]) == 1
    assert capsys.readouterr().err == (
        "charrnn-sample: the sound output stopped: Device unavailable [PaErrorCode -9985]. "
        "Leave --play out, and play a file of -o.\n"
    )
    samples, _ = soundfile.read("x.wav", dtype="int16")
    assert samples[: len(heard(device))].tolist() == list(heard(device))
    assert len(samples) == len(heard(device)) + 256
    assert device.did == ["start", "abort", "close"]


def test_without_a_device_it_is_one_sentence_and_no_file(here, device, trained_run, capsys):
    device.missing = "Error querying device -1"
    assert charrnn_sample([str(trained_run), "--play", "-o", "x.wav"]) == 1
    assert capsys.readouterr().err == (
        "charrnn-sample: there is no sound output that plays this: Error querying device -1. "
        "Leave --play out, and play a file of -o.\n"
    )
    assert not Path("x.wav").exists()


def test_without_sounddevice_it_says_how_to_get_it(here, trained_run, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert charrnn_sample([str(trained_run), "--play"]) == 1
    assert capsys.readouterr().err == (
        "charrnn-sample: sounddevice is not installed, which this takes: pip install 'charrnn-sound[play]' brings it.\n"
    )


def test_without_portaudio_it_says_what_to_install(monkeypatch, tmp_path):
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    with pytest.raises(InputError, match="finds no PortAudio library: install it"):
        playback.library()


def test_text_has_no_sound(here, device, text_network, capsys):
    assert charrnn_sample([text_network, "--play"]) == 1
    assert capsys.readouterr().err == (
        f"charrnn-sample: {text_network} was trained on text, which makes no sound: leave --play out.\n"
    )


@pytest.mark.parametrize("several", [["--streams", "2"], ["--temperature", "0.8,1"]])
@pytest.mark.parametrize("output", [[], ["-o", "takes"]])
def test_several_takes_are_not_played(here, device, trained_run, several, output, capsys):
    with pytest.raises(SystemExit) as exit_:
        charrnn_sample([str(trained_run), "--play", *several, *output])
    assert exit_.value.code == 2
    assert "--play is for one take." in capsys.readouterr().err
