"""Envelope, spectrogram and cue points of recordings."""

import io

import numpy as np
import pytest
import soundfile

from bytecodec import InputError, WavWriter
from charrnn.viz.sound import cue_points, picture_of_file, picture_of_samples, read_sound, spectra, window_length

RATE = 11025


def sine(frequency, seconds=1.0, amplitude=0.5):
    return (amplitude * np.sin(2 * np.pi * frequency * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)


def test_the_envelope_of_a_column_is_that_of_its_samples():
    samples = np.array([0.0, 0.5, -0.25, 0.125, 1.0, -1.0], np.float32)
    made = picture_of_samples(samples, RATE, 3)
    assert made.low.tolist() == [0.0, -0.25, -1.0]
    assert made.high.tolist() == [0.5, 0.125, 1.0]


def test_a_sine_has_its_level_at_its_frequency():
    made = picture_of_samples(sine(2000, amplitude=0.5), RATE, 50)
    frequencies = np.linspace(0, RATE / 2, len(made.decibels))
    assert np.abs(frequencies[made.decibels[:, 25].argmax()] - 2000) < RATE / window_length(RATE)
    assert made.decibels[:, 25].max() == pytest.approx(20 * np.log10(0.5), abs=1.5)


def test_a_sine_at_full_scale_has_zero_decibels():
    window = window_length(RATE)
    x = np.sin(2 * np.pi * 32 * np.arange(window) / window, dtype=np.float64).astype(np.float32)
    assert 10 * np.log10(spectra(x[None]).max()) == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("columns", [1, 500, 100000])
def test_a_file_and_its_samples_give_the_same_picture(tmp_path, columns):
    samples = sine(300, 0.2) + sine(3000, 0.2, 0.1)
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    progress = []
    one, two = picture_of_file(tmp_path / "a.wav", columns, progress.append), picture_of_samples(samples, RATE, columns)
    assert len(one.low) == min(columns, len(samples))
    for name in ("low", "high", "decibels"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert one.seconds == pytest.approx(0.2, abs=1e-3)
    assert sum(progress) <= columns


def test_channels_are_averaged(tmp_path):
    soundfile.write(tmp_path / "a.flac", np.array([[0.5, 0.0]] * 100), RATE)
    samples, rate = read_sound(tmp_path / "a.flac")
    assert rate == RATE
    np.testing.assert_allclose(samples, 0.25, atol=1e-4)
    assert picture_of_file(tmp_path / "a.flac", 10).high.max() == pytest.approx(0.25, abs=1e-4)


def test_cue_points_are_those_that_were_written(tmp_path):
    with (tmp_path / "a.wav").open("wb") as file, WavWriter(file, RATE) as wav:
        for _ in range(3):
            wav.cue()
            wav.write(bytes([128] * RATE))
    assert cue_points(tmp_path / "a.wav", RATE) == (0.0, 1.0, 2.0)
    assert picture_of_file(tmp_path / "a.wav", 10).marks == (0.0, 1.0, 2.0)


@pytest.mark.parametrize("damage", [b"RIFF", b"RIFF\0\0\0\0WAVEcue \xff\xff\xff\xff\1", b"RIFF\0\0\0\0WAVEdata"])
def test_damaged_headers_have_no_cue_points(tmp_path, damage):
    (tmp_path / "a").write_bytes(damage)
    assert cue_points(tmp_path / "a", RATE) == ()


def test_a_file_that_is_no_recording_is_rejected(tmp_path, write_wav):
    (tmp_path / "a.wav").write_text("iteration,loss\n1,2\n")
    for read in (read_sound, lambda path: picture_of_file(path, 10)):
        with pytest.raises(InputError, match=r"a\.wav .*text"):
            read(tmp_path / "a.wav")
        with pytest.raises(InputError, match=r"b\.wav .*no sound"):
            read(write_wav(tmp_path / "b.wav", b""))


def test_the_format_is_found_from_the_contents(tmp_path):
    memory = io.BytesIO()
    soundfile.write(memory, np.zeros(10), RATE, format="WAV")
    for name in ("no-ending", "sound.raw"):
        (tmp_path / name).write_bytes(memory.getvalue())
        assert picture_of_file(tmp_path / name, 10).frames == 10
