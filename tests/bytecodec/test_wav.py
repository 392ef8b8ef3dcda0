"""Reading recordings: what passes untouched, what is rounded how, and each sentence of refusal."""

import io
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bytecodec import InputError, encode_mulaw, read_blocks, recording
from bytecodec.resample import Resampler

AUDIO = Path(os.environ.get("AUDIO", Path(__file__).parents[3] / "shared" / "audio"))
needs_audio = pytest.mark.skipif(not AUDIO.is_dir(), reason=f"there are no recordings in {AUDIO}: set AUDIO to them")


@pytest.fixture(scope="module", autouse=True)
def small_blocks() -> Any:
    """Blocks so small that every recording here has several."""
    before, recording._BLOCK = recording._BLOCK, 1000
    yield
    recording._BLOCK = before


def read(source: Any, rate: int = 11025, **options: Any) -> NDArray[np.uint8]:
    return np.concatenate(list(read_blocks(source, rate, **options)))


def heard(source: Any, **options: Any) -> list[str]:
    sentences: list[str] = []
    read(source, on_message=sentences.append, **options)
    return sentences


def refusal(source: Any, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        read(source, **options)
    return str(caught.value)


def save(path: Path, samples: Any, rate: int = 11025, subtype: str | None = None, dtype: Any = np.int16) -> Path:
    soundfile.write(path, np.asarray(samples, dtype), rate, subtype=subtype)
    return path


def save_bytes(path: Path, values: Any, rate: int = 11025) -> Path:
    return save(path, (np.asarray(values, np.int16) - 128) * 256, rate, "PCM_U8")


def noise(*shape: int, peak: int = 20000) -> NDArray[np.int16]:
    return np.random.default_rng(1).integers(-peak, peak, shape).astype(np.int16)


# What passes untouched.


def test_an_8_bit_file_at_the_rate_passes_byte_for_byte(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, 5001)
    values[:256] = range(256)
    path = save_bytes(tmp_path / "a.wav", values)
    assert read(path).tolist() == values.tolist()
    assert read(path, dither=True).tolist() == values.tolist()


@settings(derandomize=True, deadline=None, max_examples=30)
@given(values=st.lists(st.integers(0, 255), min_size=1, max_size=50))
def test_any_8_bit_samples_pass(values: list[int]) -> None:
    file = io.BytesIO()
    soundfile.write(file, (np.array(values, np.int16) - 128) * 256, 11025, subtype="PCM_U8", format="WAV")
    file.seek(0)
    assert read(file).tolist() == values


def test_equal_8_bit_channels_pass_as_one(tmp_path: Path) -> None:
    values = np.arange(256)
    for channels in (2, 3, 6):
        path = save_bytes(tmp_path / "a.wav", np.stack([values] * channels, axis=1))
        assert read(path).tolist() == values.tolist()


# How the others are rounded.


@pytest.mark.parametrize(
    ("sample", "byte"),
    [
        (-32768, 0),
        (-32641, 0),
        (-32640, 1),
        (-256, 127),
        (-129, 127),
        (-128, 128),
        (-1, 128),
        (0, 128),
        (127, 128),
        (128, 129),
        (256, 129),
        (383, 129),
        (384, 130),
        (32512, 255),
        (32639, 255),
        (32640, 255),
        (32767, 255),
    ],
)
def test_16_bits_round_to_the_nearest_byte_and_saturate(tmp_path: Path, sample: int, byte: int) -> None:
    assert read(save(tmp_path / "a.wav", [sample])).tolist() == [byte]


def test_every_byte_stands_for_256_neighbouring_values(tmp_path: Path) -> None:
    samples = np.arange(-32768, 32768)
    values = read(save(tmp_path / "a.wav", samples)).tolist()
    assert values == np.minimum((samples + 128) // 256 + 128, 255).tolist()


@pytest.mark.parametrize(
    ("sample", "byte"),
    [
        (0.0, 128),
        (1.0, 255),
        (-1.0, 0),
        (7.0, 255),
        (-7.0, 0),
        (np.nan, 128),
        (np.inf, 255),
        (-np.inf, 0),
        (1e300, 255),
    ],
)
@pytest.mark.parametrize("rate", [11025, 44100])
def test_floating_point_saturates_and_not_a_number_is_silence(
    tmp_path: Path, sample: float, byte: int, rate: int
) -> None:
    path = save(tmp_path / "a.wav", [sample] * 2001, rate, "DOUBLE", np.float64)
    assert read(path)[len(read(path)) // 2] == byte


@pytest.mark.parametrize(
    ("name", "subtype"),
    [
        ("a.wav", "PCM_16"),
        ("a.wav", "PCM_24"),
        ("a.wav", "PCM_32"),
        ("a.wav", "FLOAT"),
        ("a.wav", "DOUBLE"),
        ("a.aiff", "PCM_16"),
        ("a.aiff", "PCM_24"),
        ("a.flac", "PCM_16"),
        ("a.flac", "PCM_24"),
        ("a.au", "PCM_16"),
        ("a.caf", "PCM_16"),
        ("a.w64", "PCM_16"),
        ("a.rf64", "PCM_16"),
    ],
)
def test_lossless_formats_give_the_same_bytes(tmp_path: Path, name: str, subtype: str) -> None:
    samples = noise(3000)
    expected = ((samples.astype(int) + 128) // 256 + 128).tolist()
    path = save(tmp_path / name, samples / 32768, subtype=subtype, dtype=np.float64)
    assert read(path).tolist() == expected


@pytest.mark.parametrize(
    ("name", "subtype", "steps"),
    [
        ("a.wav", "ULAW", 3),
        ("a.wav", "ALAW", 3),
        ("a.wav", "IMA_ADPCM", 8),
        ("a.wav", "MS_ADPCM", 8),
        ("a.ogg", "VORBIS", 8),
        ("a.mp3", "MPEG_LAYER_III", 8),
    ],
)
def test_lossy_formats_come_close(tmp_path: Path, name: str, subtype: str, steps: int) -> None:
    tone = 16000 * np.sin(np.arange(22050) / 11025 * 2 * np.pi * 440)
    values = read(save(tmp_path / name, tone, subtype=subtype)).astype(int)
    assert np.abs(values[2000:20000] - (tone[2000:20000] / 256 + 128)).max() < steps


# 16 bits.


@given(st.lists(st.integers(-32768, 32767), min_size=1, max_size=50))
def test_any_16_bit_samples_pass_as_they_are(values: list[int]) -> None:
    file = io.BytesIO()
    soundfile.write(file, np.array(values, np.int16), 16000, format="WAV", subtype="PCM_16")
    file.seek(0)
    found = read(file, 16000, bits=16)
    assert found.dtype == np.int16
    assert found.tolist() == values


@pytest.mark.parametrize(
    ("value", "sample"),
    [(0.0, 0), (1.0, 32767), (1.5, 32767), (-1.0, -32768), (-1.5, -32768), (0.5 / 32768, 1), (-0.5 / 32768, 0)],
)
def test_floating_point_rounds_to_the_nearest_of_16_bits_and_saturates(
    tmp_path: Path, value: float, sample: int
) -> None:
    assert read(save(tmp_path / "a.wav", [value], 16000, "FLOAT", np.float32), 16000, bits=16).tolist() == [sample]


def test_16_bits_say_what_is_clipped_and_what_is_silent(tmp_path: Path) -> None:
    loud = save(tmp_path / "loud.wav", [1.0, 1.5, -1.5, -1.0], 16000, "FLOAT", np.float32)
    assert any("samples clipped: 2" in sentence for sentence in heard(loud, rate=16000, bits=16))
    silent = save(tmp_path / "silent.wav", np.zeros(9), 16000)
    assert any("every sample is 0" in sentence for sentence in heard(silent, rate=16000, bits=16))
    assert heard(save(tmp_path / "soft.wav", noise(100, peak=9), 16000), rate=16000, bits=16) == []


def test_16_bits_know_neither_mu_law_nor_dither(tmp_path: Path) -> None:
    for options in ({"mulaw": True}, {"dither": True}):
        with pytest.raises(ValueError, match="bits is 16"):
            read_blocks(tmp_path / "a.wav", bits=16, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="bits is 24"):
        read_blocks(tmp_path / "a.wav", bits=24)


def test_channels_are_averaged(tmp_path: Path) -> None:
    assert read(save(tmp_path / "a.wav", [[256, 768], [25600, -25600]])).tolist() == [130, 128]


def test_a_change_of_rate_rounds_what_the_resampler_gives_of_the_whole(tmp_path: Path) -> None:
    samples = noise(6001, 2)
    resampler = Resampler(48000, 11025)
    mono = (samples.astype(np.float32).sum(axis=1) / 2) / 32768
    expected = np.floor(np.concatenate([resampler.feed(mono), resampler.close()]) * 128 + 128.5)
    assert read(save(tmp_path / "a.wav", samples, 48000)).tolist() == expected.tolist()


@pytest.mark.parametrize("options", [{}, {"dither": True}, {"normalize": True, "start": 0.03, "duration": 0.07}])
@pytest.mark.parametrize("rate", [11025, 48000, 8000])
def test_the_bytes_do_not_depend_on_the_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: int, options: dict[str, Any]
) -> None:
    path = save(tmp_path / "a.wav", noise(9001, 3), rate)
    whole = read(path, **options).tolist()
    for block in (300, 7000, 1 << 19):
        monkeypatch.setattr(recording, "_BLOCK", block)
        assert read(path, **options).tolist() == whole


def test_a_tone_keeps_its_level_and_an_alias_is_gone(tmp_path: Path) -> None:
    time = np.arange(2 * 44100) / 44100
    kept = read(save(tmp_path / "a.wav", 26000 * np.sin(2 * np.pi * 1000 * time), 44100))
    gone = read(save(tmp_path / "b.wav", 26000 * np.sin(2 * np.pi * 7000 * time), 44100))
    middle = slice(5000, 5000 + 11025)
    spectrum = np.abs(np.fft.rfft((kept[middle] / 128 - 1) * np.hanning(11025))) / 11025 * 4
    assert abs(20 * np.log10(spectrum[1000] / (26000 / 32768))) < 0.05
    spectrum[990:1011] = spectrum[:5] = 0
    assert 20 * np.log10(spectrum.max()) < -55
    assert set(gone[middle].tolist()) == {128}


# The part, the level, the law.


def test_start_and_duration_cut_to_the_sample(tmp_path: Path) -> None:
    for name in ("a.wav", "a.flac"):
        path = save(tmp_path / name, noise(5000), 1000)
        whole = read(path, 1000)
        assert read(path, 1000, start=1.5).tolist() == whole[1500:].tolist()
        assert read(path, 1000, duration=0.25).tolist() == whole[:250].tolist()
        assert read(path, 1000, start=4.0, duration=0.5).tolist() == whole[4000:4500].tolist()
        assert read(path, 1000, start=4.9, duration=60).tolist() == whole[4900:].tolist()


def test_a_start_in_a_compressed_recording_is_exact_too(tmp_path: Path) -> None:
    for name in ("a.ogg", "a.mp3"):
        path = save(tmp_path / name, noise(22050), 11025)
        assert read(path, start=1.25).tolist() == read(path)[round(1.25 * 11025) :].tolist()


def test_normalize_brings_the_peak_to_full_scale(tmp_path: Path) -> None:
    quiet = save(tmp_path / "a.wav", [0, 100, -1000, 1000, 0])
    assert read(quiet, normalize=True).tolist() == [128, 141, 1, 255, 128]
    assert read(quiet, normalize=True, gain_db=-6.0206).tolist() == [128, 134, 65, 192, 128]
    assert read(save(tmp_path / "b.wav", [0, 0]), normalize=True).tolist() == [128, 128]


def test_gain_is_in_decibels(tmp_path: Path) -> None:
    assert read(save(tmp_path / "a.wav", [2560, -2560]), gain_db=20.0).tolist() == [228, 28]


def test_dither_is_two_steps_wide_and_always_the_same(tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav", np.full(20000, 64))
    values = read(path, dither=True)
    assert set(values.tolist()) == {127, 128, 129}
    assert values.mean() == pytest.approx(128.25, abs=0.02)  # which rounding alone would lose
    assert read(path, dither=True).tolist() == values.tolist()


def test_mulaw_gives_the_bytes_of_g711(tmp_path: Path) -> None:
    samples = np.arange(-32768, 32768).astype(np.int16)
    assert read(save(tmp_path / "a.wav", samples), mulaw=True).tolist() == encode_mulaw(samples).tolist()


# Where it comes from.


def test_a_pipe_reads_as_the_file_does(tmp_path: Path) -> None:
    for name in ("a.wav", "a.flac", "a.ogg"):
        path = save(tmp_path / name, noise(30000), 44100)
        with subprocess.Popen(["cat", path], stdout=subprocess.PIPE) as cat:
            assert cat.stdout is not None
            assert read(cat.stdout, normalize=True).tolist() == read(path, normalize=True).tolist()


@pytest.mark.parametrize("claimed", [0xFFFFFFFF, 0x7FFFF000])
def test_a_length_that_was_unknown_to_its_writer_reads_to_the_end(tmp_path: Path, claimed: int) -> None:
    path = save_bytes(tmp_path / "a.wav", range(100))
    data = bytearray(path.read_bytes())
    data[40:44] = claimed.to_bytes(4, "little")
    path.write_bytes(data)
    assert read(path).tolist() == list(range(100))


def test_progress_counts_the_frames_of_both_passes(tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav", noise(2500))
    seen: list[tuple[int, int | None]] = []
    read(path, normalize=True, on_progress=lambda done, of: seen.append((done, of)))
    assert seen == [(n, 5000) for n in (1000, 2000, 2500, 3500, 4500, 5000)]


# What is said.


def test_a_quiet_recording_is_told_how_many_bits_it_uses(tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav", [0, 31 * 256, 0])
    assert heard(path) == [f"{path} is quiet: its peak uses 6 of the 8 bits; --normalize brings it to full scale."]
    assert heard(path, normalize=True) == []
    assert heard(save(tmp_path / "a.wav", [0, 32 * 256, 0])) == []
    assert heard(save(tmp_path / "a.wav", [0, 0])) == [f"{path} is silent: every sample is 128."]


def test_clipped_samples_are_counted(tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav", [32767, -32768, 20000, 16000])
    assert heard(path) == []
    (message,) = heard(path, gain_db=6.0)
    assert "clipped: 3" in message


# What is refused.


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.touch()
    assert refusal(path) == f"{path} is empty: it has 0 bytes."


def test_a_recording_of_no_samples_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav", [])
    assert refusal(path) == f"{path} holds no sound: no whole sample is found in it."


@pytest.mark.parametrize("name", ["a.wav", "a.raw", "a.txt", "a.mp3"])
def test_what_is_no_recording_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"Call me Ishmael. " * 100)
    assert "a text" in refusal(path)
    path.write_bytes(bytes(range(256)) * 100)
    assert refusal(path).startswith(f"{path} ")


def test_a_recording_that_is_cut_short_is_taken_as_far_as_it_goes_and_that_is_said(tmp_path: Path) -> None:
    for name in ("a.wav", "a.aiff", "a.au"):
        path = save(tmp_path / name, noise(5000), 1000)
        whole = read(path, 1000)
        header = path.stat().st_size - 10000
        path.write_bytes(path.read_bytes()[: header + 4000])
        said: list[str] = []
        assert read(path, 1000, on_message=said.append).tolist() == whole[:2000].tolist()
        assert len(said) == 1
        assert said[0].startswith(f"{path} is cut short")
        assert "10,0" in said[0]
        assert read(path, 1000, duration=2.0).tolist() == whole[:2000].tolist()


def test_a_start_beyond_the_end_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav", noise(5000), 1000)
    assert refusal(path, start=5.0).startswith(f"{path} is 5.00 s long")


def test_a_rate_that_cannot_be_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav", [0], 999)
    assert refusal(path) == f"{path}: a rate of 999 Hz is out of range: 1,000 to 768,000 Hz are possible."
    path = save(tmp_path / "a.wav", [0], 768_001)
    assert refusal(path) == f"{path}: a rate of 768,001 Hz is out of range: 1,000 to 768,000 Hz are possible."


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rate": 999}, "a rate of 999 Hz is out of range: 1,000 to 768,000 Hz are possible."),
        ({"rate": 768_001}, "a rate of 768,001 Hz is out of range: 1,000 to 768,000 Hz are possible."),
        ({"start": -1.0}, "start is -1"),
        ({"start": np.nan}, "start is nan"),
        ({"duration": 0.0}, "duration is 0"),
        ({"gain_db": 201.0}, "gain_db is 201"),
        ({"gain_db": np.nan}, "gain_db is nan"),
        ({"mulaw": True, "dither": True}, "dither is for linear samples: leave it out, or mulaw."),
    ],
)
def test_a_parameter_out_of_range_is_refused_at_once(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        read_blocks("never opened.wav", **options)
    assert sentence in str(caught.value)


def test_a_missing_file_is_an_os_error_that_names_it() -> None:
    with pytest.raises(FileNotFoundError, match=r"missing\.wav"):
        read("missing.wav")


# Files from elsewhere.


@needs_audio
@pytest.mark.parametrize("path", sorted((AUDIO / "odd").glob("**/*.[wr]a[vw]")), ids=lambda path: str(path.name))
def test_an_odd_file_converts_or_is_refused_in_a_sentence(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "_BLOCK", 1 << 19)
    try:
        values = read(path)
    except InputError as error:
        said = str(error)
    else:
        info = soundfile.info(path)
        assert len(values) == pytest.approx(info.frames * 11025 / info.samplerate, abs=2, rel=0.03)
        return
    assert said.startswith(str(path))
    assert len(said.removeprefix(str(path))) < 200


@needs_audio
@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("alaw_11025.wav", 4),
        ("f32_11025.wav", 1),
        ("f64_11025.wav", 1),
        ("pcm_s16_11025.wav", 1),
        ("pcm_s24_11025_extensible.wav", 1),
        ("pcm_s32_11025_extensible.wav", 1),
        ("rifx_s16_11025.wav", 1),
        ("sox_pipe_unknown_length_u8.wav", 2),
        ("trailing_junk_s16_11025.wav", 1),
        ("ulaw_11025.wav", 4),
    ],
)
def test_one_clip_in_many_encodings_is_the_same_sound(name: str, steps: int) -> None:
    clip = read(AUDIO / "odd" / "same_clip" / "pcm_u8_11025.wav").astype(int)
    assert np.abs(read(AUDIO / "odd" / "same_clip" / name)[: len(clip)] - clip).max() <= steps
