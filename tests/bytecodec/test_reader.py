"""Reading of recordings: which files pass unchanged, how samples are rounded, and which files are rejected."""

import io
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from bytecodec import InputError, encode_mulaw, read_blocks, recording
from bytecodec.resample import Resampler

AUDIO = Path(os.environ.get("AUDIO", Path(__file__).parents[3] / "shared" / "audio"))
needs_audio = pytest.mark.skipif(not AUDIO.is_dir(), reason=f"there are no recordings in {AUDIO}: set AUDIO to them")
REPRESENTATIVES = """
    cpython__pluck-pcm24-ext goaudio__misaligned-chunk hound__crash-24728523ef4be15c838293b676f6853e73723bf4
    hound__crash-e5471f5b58397287b509db7d026e95f1724454f5 hound__waveformatex-8bit-11025Hz-mono
    hound__pcmwaveformat-24bit-4byte-48kHz-stereo pocketsphinx__awful scipy__test-44100Hz-le-1ch-4bytes-early-eof
    scipy__test-8000Hz-le-3ch-5S-24bit-inconsistent scipy__test-8000Hz-le-3ch-5S-64bit
    scipy__test-8000Hz-le-5ch-9S-5bit taglib__infloop taglib__rf64 taglib__zero-size-chunk tinytag__gsm_6_10
    tinytag__mp3_audio tinytag__empty_file same_clip/espeak_stdout_unknown_length_s16_22050
    same_clip/truncated_midsample_s16_11025 same_clip/pcm_s16_48000_6ch_extensible
""".split()


@pytest.fixture(scope="module", autouse=True)
def small_blocks():
    """Blocks so small that every recording here has several."""
    before, recording._BLOCK = recording._BLOCK, 1000
    yield
    recording._BLOCK = before


def read(source, rate=11025, **options):
    return np.concatenate(list(read_blocks(source, rate, **options)))


def messages(source, **options):
    found = []
    read(source, on_message=found.append, **options)
    return found


def error(source, **options):
    with pytest.raises(InputError) as caught:
        read(source, **options)
    return str(caught.value)


def save(path, samples, rate=11025, subtype=None, dtype=np.int16):
    soundfile.write(path, np.asarray(samples, dtype), rate, subtype=subtype)
    return path


def save_bytes(path, values, rate=11025):
    return save(path, (np.asarray(values, np.int16) - 128) * 256, rate, "PCM_U8")


def noise(*shape):
    return np.random.default_rng(1).integers(-20000, 20000, shape).astype(np.int16)


# Unchanged samples.


@settings(max_examples=30)
@given(values=st.lists(st.integers(0, 255), min_size=1, max_size=50))
def test_an_8_bit_file_at_the_requested_rate_is_unchanged(values):
    file = io.BytesIO()
    soundfile.write(file, (np.array(values, np.int16) - 128) * 256, 11025, subtype="PCM_U8", format="WAV")
    for options in ({}, {"dither": True}):
        file.seek(0)
        assert read(file, **options).tolist() == values


@given(st.lists(st.integers(-32768, 32767), min_size=1, max_size=50))
def test_a_16_bit_file_at_the_requested_rate_is_unchanged_at_16_bits(values):
    file = io.BytesIO()
    soundfile.write(file, np.array(values, np.int16), 16000, format="WAV", subtype="PCM_16")
    file.seek(0)
    samples = read(file, 16000, bits=16)
    assert samples.dtype == np.int16
    assert samples.tolist() == values


def test_equal_8_bit_channels_are_unchanged(tmp_path):
    for channels in (2, 3, 6):
        path = save_bytes(tmp_path / "a.wav", np.stack([np.arange(256)] * channels, axis=1))
        assert read(path).tolist() == list(range(256))


# Rounding.


def test_16_bits_are_rounded_to_the_nearest_byte_and_clipped(tmp_path):
    samples = np.arange(-32768, 32768)
    values = read(save(tmp_path / "a.wav", samples))
    assert values.tolist() == np.minimum((samples + 128) // 256 + 128, 255).tolist()
    expected = {-32641: 0, -32640: 1, -129: 127, -128: 128, 127: 128, 128: 129, 32512: 255, 32767: 255}
    assert [values[sample + 32768] for sample in expected] == [*expected.values()]


@pytest.mark.parametrize("rate", [11025, 44100])
def test_floating_point_is_clipped_and_not_a_number_is_silence(tmp_path, rate):
    expected = {1.0: 255, -1.0: 0, 7.0: 255, -7.0: 0, np.nan: 128, np.inf: 255, -np.inf: 0, 1e300: 255}
    for sample, byte in expected.items():
        values = read(save(tmp_path / "a.wav", [sample] * 2001, rate, "DOUBLE", np.float64))
        assert values[len(values) // 2] == byte, sample


def test_floating_point_is_rounded_to_the_nearest_of_16_bits_and_clipped(tmp_path):
    expected = {0.0: 0, 1.0: 32767, 1.5: 32767, -1.0: -32768, -1.5: -32768, 0.5 / 32768: 1, -0.5 / 32768: 0}
    path = save(tmp_path / "a.wav", [*expected], 16000, "FLOAT", np.float32)
    assert read(path, 16000, bits=16).tolist() == [*expected.values()]
    assert any("samples clipped: 2" in message for message in messages(path, rate=16000, bits=16))


def test_lossless_formats_give_the_same_bytes(tmp_path):
    samples = noise(3000)
    expected = ((samples.astype(int) + 128) // 256 + 128).tolist()
    formats = {
        "wav": ["PCM_24", "PCM_32", "FLOAT", "DOUBLE"],
        "aiff": ["PCM_16", "PCM_24"],
        "flac": ["PCM_16", "PCM_24"],
    }
    for suffix, subtypes in (formats | {suffix: ["PCM_16"] for suffix in ("au", "caf", "w64", "rf64")}).items():
        for subtype in subtypes:
            path = save(tmp_path / f"a.{suffix}", samples / 32768, subtype=subtype, dtype=np.float64)
            assert read(path).tolist() == expected, (suffix, subtype)


@pytest.mark.parametrize(
    ("name", "subtypes"), [("a.wav", "ULAW ALAW IMA_ADPCM MS_ADPCM"), ("a.ogg", "VORBIS"), ("a.mp3", "MPEG_LAYER_III")]
)
def test_lossy_formats_are_close(tmp_path, name, subtypes):
    tone = 16000 * np.sin(np.arange(22050) / 11025 * 2 * np.pi * 440)
    for subtype in subtypes.split():
        values = read(save(tmp_path / name, tone, subtype=subtype)).astype(int)
        difference = np.abs(values[2000:20000] - (tone[2000:20000] / 256 + 128)).max()
        assert difference < (3 if subtype.endswith("LAW") else 8), subtype


def test_dither_is_two_steps_wide_and_reproducible(tmp_path):
    path = save(tmp_path / "a.wav", np.full(20000, 64))
    values = read(path, dither=True)
    assert set(values.tolist()) == {127, 128, 129}
    assert values.mean() == pytest.approx(128.25, abs=0.02)  # rounding alone would give 128
    assert read(path, dither=True).tolist() == values.tolist()


def test_mulaw_gives_the_bytes_of_g711(tmp_path):
    samples = np.arange(-32768, 32768).astype(np.int16)
    assert read(save(tmp_path / "a.wav", samples), mulaw=True).tolist() == encode_mulaw(samples).tolist()


# Rate and blocks.


def test_a_change_of_rate_rounds_the_output_of_the_resampler(tmp_path):
    samples = noise(6001, 2)
    resampler = Resampler(48000, 11025)
    mono = (samples.astype(np.float32).sum(axis=1) / 2) / 32768
    expected = np.floor(np.concatenate([resampler.feed(mono), resampler.close()]) * 128 + 128.5)
    assert read(save(tmp_path / "a.wav", samples, 48000)).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("rate", "options"),
    [(11025, {"dither": True}), (48000, {"normalize": True, "start": 0.03, "duration": 0.07}), (8000, {})],
)
def test_the_bytes_do_not_depend_on_the_blocks(tmp_path, monkeypatch, rate, options):
    path = save(tmp_path / "a.wav", noise(9001, 3), rate)
    whole = read(path, **options).tolist()
    for block in (300, 7000, 1 << 19):
        monkeypatch.setattr(recording, "_BLOCK", block)
        assert read(path, **options).tolist() == whole


def test_a_tone_keeps_its_level_and_an_alias_is_removed(tmp_path):
    time = np.arange(2 * 44100) / 44100
    kept = read(save(tmp_path / "a.wav", 26000 * np.sin(2 * np.pi * 1000 * time), 44100))
    removed = read(save(tmp_path / "b.wav", 26000 * np.sin(2 * np.pi * 7000 * time), 44100))
    middle = slice(5000, 5000 + 11025)
    spectrum = np.abs(np.fft.rfft((kept[middle] / 128 - 1) * np.hanning(11025))) / 11025 * 4
    assert abs(20 * np.log10(spectrum[1000] / (26000 / 32768))) < 0.05
    spectrum[990:1011] = spectrum[:5] = 0
    assert 20 * np.log10(spectrum.max()) < -55
    assert set(removed[middle].tolist()) == {128}


# Part and source.


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
def test_start_and_duration_are_exact_to_the_sample(tmp_path, name):
    path = save(tmp_path / name, noise(16000), 8000)
    whole = read(path, 8000)
    assert read(path, 8000, start=1.25).tolist() == whole[10000:].tolist()
    assert read(path, 8000, duration=0.25).tolist() == whole[:2000].tolist()
    assert read(path, 8000, start=1.0, duration=0.5).tolist() == whole[8000:12000].tolist()
    assert read(path, 8000, start=1.9, duration=60).tolist() == whole[15200:].tolist()


def test_a_pipe_is_read_like_a_file(tmp_path):
    for name in ("a.wav", "a.flac", "a.ogg"):
        path = save(tmp_path / name, noise(30000), 44100)
        with subprocess.Popen(["cat", path], stdout=subprocess.PIPE) as cat:
            assert read(cat.stdout, normalize=True).tolist() == read(path, normalize=True).tolist()


def test_progress_counts_the_frames_of_all_passes(tmp_path):
    path = save(tmp_path / "a.wav", noise(2500))
    seen = []
    read(path, normalize=True, remove_dc=True, on_progress=lambda *counts: seen.append(counts))
    assert seen == [(2500 * k + n, 7500) for k in range(3) for n in (1000, 2000, 2500)]


# Errors.


def test_files_without_samples_are_rejected(tmp_path):
    (tmp_path / "empty.wav").touch()
    assert "0 bytes" in error(tmp_path / "empty.wav")
    assert "no sound" in error(save(tmp_path / "none.wav", []))


def test_files_that_are_not_recordings_are_rejected(tmp_path):
    for path in (tmp_path / "a.wav", tmp_path / "a.raw", tmp_path / "a.txt"):
        path.write_bytes(b"Call me Ishmael. " * 100)
        assert "a text" in error(path)
        path.write_bytes(bytes(range(256)) * 100)
        assert error(path).startswith(f"{path} ")


def test_a_start_beyond_the_end_is_rejected(tmp_path):
    assert "5.00 s long" in error(save(tmp_path / "a.wav", noise(5000), 1000), start=5.0)


def test_a_rate_out_of_range_in_the_file_is_rejected(tmp_path):
    for rate in (999, 768_001):
        assert f"{rate:,} Hz is out of range" in error(save(tmp_path / "a.wav", [0], rate))


def test_a_parameter_out_of_range_is_rejected_at_once():
    wrong = [{"rate": 999}, {"start": -1.0}, {"start": np.nan}, {"duration": 0.0}, {"channel": 0}, {"gain_db": 201.0}]
    for options in [*wrong, {"bits": 24}, {"bits": 16, "mulaw": True}, {"dither": True, "mulaw": True}]:
        with pytest.raises(InputError, match=next(iter(options))):
            read_blocks("never opened.wav", **options)


def test_a_missing_file_is_an_os_error_that_names_it():
    with pytest.raises(FileNotFoundError, match=r"missing\.wav"):
        read("missing.wav")


# Files from the test suites of other projects.


def check_odd_file(path):
    """Check that a file is converted to the right length, or rejected with a short message."""
    try:
        values = read(path)
    except InputError as caught:
        message = str(caught)
    else:
        info = soundfile.info(path)
        assert len(values) == pytest.approx(info.frames * 11025 / info.samplerate, abs=2, rel=0.03)
        return
    assert message.startswith(str(path))
    assert len(message.removeprefix(str(path))) < 200


@needs_audio
@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_an_odd_file_is_converted_or_rejected_with_a_message(name, monkeypatch):
    monkeypatch.setattr(recording, "_BLOCK", 1 << 19)
    check_odd_file(AUDIO / "odd" / f"{name}.wav")


@needs_audio
@pytest.mark.slow
def test_all_odd_files_are_converted_or_rejected_with_a_message(monkeypatch):
    monkeypatch.setattr(recording, "_BLOCK", 1 << 19)
    paths = sorted((AUDIO / "odd").glob("**/*.[wr]a[vw]"))
    assert len(paths) > 150
    for path in paths:
        check_odd_file(path)


@needs_audio
def test_one_clip_in_many_encodings_is_the_same_sound():
    folder = AUDIO / "odd" / "same_clip"
    clip = read(folder / "pcm_u8_11025.wav").astype(int)
    steps = {"alaw_11025": 4, "ulaw_11025": 4, "sox_pipe_unknown_length_u8": 2, "f32_11025": 1, "f64_11025": 1}
    exact = "pcm_s16_11025 pcm_s24_11025_extensible pcm_s32_11025_extensible rifx_s16_11025 trailing_junk_s16_11025"
    for name, most in (steps | dict.fromkeys(exact.split(), 1)).items():
        assert np.abs(read(folder / f"{name}.wav")[: len(clip)] - clip).max() <= most, name
