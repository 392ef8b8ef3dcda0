"""Channels, DC offset and level: options and messages, and the common gain of a set of recordings."""

import json
import subprocess

import numpy as np
import pytest
import soundfile

from bytecodec import InputError, encode_mulaw, read_blocks
from bytecodec.commands import wav2utf8
from charrnn.data.corpus import prepare_corpus
from charrnn.data.recordings import SoundOptions
from charrnn.frames import data as frame_data

RATE = 11025
SECONDS = np.arange(3 * RATE) / RATE
TONE = np.sin(2 * np.pi * 220 * SECONDS)  # whole periods, so that its mean is 0


def save(path, samples, subtype="PCM_16", rate=RATE):
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


def stereo(left, right):
    return np.stack([left, right], axis=1)


def read(path, rate=RATE, **options):
    return np.concatenate(list(read_blocks(path, rate, **options)))


def messages(path, **options):
    found = []
    read(path, on_message=found.append, **options)
    return "\n".join(message.removeprefix(str(path)) for message in found)


# Channels.


def test_a_channel_is_taken_by_its_number(tmp_path):
    steps = np.array([[1, 2, 3], [4, 5, 6]]) / 128
    path = save(tmp_path / "a.wav", steps, "PCM_U8")
    assert [read(path, channel=n).tolist() for n in (1, 2, 3)] == [[129, 132], [130, 133], [131, 134]]
    assert read(path).tolist() == [130, 133]


def test_a_channel_that_is_not_there_is_refused_with_their_number(tmp_path):
    with pytest.raises(InputError, match="2 channels"):
        read(save(tmp_path / "a.wav", stereo(TONE, TONE)), channel=3)
    mono = save(tmp_path / "b.wav", TONE)
    with pytest.raises(InputError, match="1 channel,"):
        read(mono, channel=2)
    assert read(mono, channel=2, mono_as_is=True).tolist() == read(mono).tolist()
    with pytest.raises(InputError, match="at least 1"):
        read_blocks(mono, channel=0)


def test_an_8_bit_channel_passes_byte_for_byte(tmp_path):
    steps = np.random.default_rng(0).integers(-128, 128, (500, 2))
    path = save(tmp_path / "a.wav", steps / 128, "PCM_U8")
    assert read(path, channel=2, dither=True).tolist() == (steps[:, 1] + 128).tolist()


def test_channels_that_cancel_are_reported_and_not_called_silent(tmp_path):
    path = save(tmp_path / "a.wav", stereo(0.3 * TONE, -0.3 * TONE))
    for options in ({}, {"mulaw": True}, {"bits": 16}, {"normalize": True}, {"dither": True}):
        message = messages(path, **options)
        assert "--channel left" in message
        assert "silent" not in message
        assert "quiet" not in message


def test_channels_that_cancel_for_a_while_or_nearly_are_reported(tmp_path):
    turned = np.where(SECONDS < 2, TONE, -TONE)
    assert "1.0 of 3.0 s" in messages(save(tmp_path / "a.wav", 0.3 * stereo(TONE, turned)))
    assert "--channel" in messages(save(tmp_path / "b.wav", 0.9 * stereo(TONE, -0.7 * TONE)))
    offset = 0.5 + 0.3 * stereo(TONE, -TONE)  # which fills the mix with DC
    assert "--channel" in messages(save(tmp_path / "c.wav", offset))
    six = np.stack([0.3 * TONE, -0.3 * TONE, *np.zeros((4, len(TONE)))], axis=1)
    assert "--channel 1" in messages(save(tmp_path / "d.wav", six))


def test_ordinary_channels_are_not_reported_to_cancel(tmp_path):
    rng = np.random.default_rng(0)
    one, two = 0.1 * rng.standard_normal((2, len(TONE)))
    for left, right in [
        (one, one),
        (one, two),
        (one, 0 * one),
        (one + two, one - two),
        (one, np.roll(one, 40)),
        (TONE / 2, -0.4 * TONE / 2),  # partly, as in wide stereo
        (one, 0.9 * two - 0.5 * one),
    ]:
        assert "cancel" not in messages(save(tmp_path / "a.wav", stereo(left, right)))
    assert "cancel" not in messages(save(tmp_path / "a.wav", stereo(one, -one)[:100]))  # too short to judge
    assert messages(save(tmp_path / "a.wav", stereo(0.5 * TONE, -0.5 * TONE)), channel=1) == ""


# DC.


def test_a_dc_offset_is_reported_with_its_size_and_remedy(tmp_path):
    path = save(tmp_path / "a.wav", 0.02 * TONE - 0.9)
    message = messages(path)
    assert "-90.0 %" in message
    assert "--remove-dc" in message
    assert "3 of the 8 bits" in message  # about the mean: 2.56 steps to each side
    for options in ({"mulaw": True}, {"bits": 16}, {"normalize": True}):
        assert "--remove-dc" in messages(path, **options)
    assert "offset" not in messages(path, remove_dc=True)
    assert messages(save(tmp_path / "b.wav", 0.5 * TONE + 0.02)) == ""


def test_removing_dc_subtracts_the_mean_before_the_peak_is_measured(tmp_path):
    path = save(tmp_path / "a.wav", 0.25 * TONE + 0.5)
    without = save(tmp_path / "b.wav", 0.25 * TONE)
    for options in ({}, {"normalize": True}, {"mulaw": True}, {"gain_db": 6.0}, {"bits": 16}):
        one, other = (read(p, **options | {"remove_dc": p == path}).astype(int) for p in (path, without))
        assert np.abs(one - other).max() <= 1
    assert read(path, remove_dc=True, normalize=True).min() == 1
    assert read(path, remove_dc=True, normalize=True).max() == 255


def test_removing_dc_subtracts_the_mean_of_the_selected_part(tmp_path):
    path = save(tmp_path / "a.wav", np.repeat([0.25, -0.5, 0.75], RATE))
    assert set(read(path, start=1.0, duration=1.0, remove_dc=True)) == {128}
    assert set(read(path, start=1.0, remove_dc=True)) == {128 - 80, 128 + 80}  # -0.5 and 0.75 about 0.125


def test_8_bits_lose_a_dc_of_whole_steps_exactly(tmp_path):
    steps = np.random.default_rng(0).integers(-20, 21, 4000)
    steps -= round(steps.mean())
    path = save(tmp_path / "a.wav", (steps + 50) / 128, "PCM_U8")
    assert read(path, remove_dc=True).tolist() == (steps + 128).tolist()


@pytest.mark.parametrize("rate", [RATE, 44100])
def test_pure_dc_without_its_mean_is_silent(tmp_path, rate):
    path = save(tmp_path / "a.wav", np.full(rate, 0.3), rate=rate)
    assert "offset of +30.0 %" in messages(path)
    for options in ({}, {"normalize": True}, {"mulaw": True}, {"bits": 16}):
        silence = {"mulaw": 255, "bits": 0}.get(*options, 128) if options else 128
        assert set(read(path, remove_dc=True, **options)) == {silence}
        assert "is silent" in messages(path, remove_dc=True, **options)


# Quiet, clipped and silent.


def test_a_quiet_recording_is_reported_with_the_number_of_bits_that_it_uses(tmp_path):
    path = save(tmp_path / "a.wav", np.array([0, 31, 0]) / 128)
    assert "6 of the 8 bits; --normalize" in messages(path)
    assert messages(path, normalize=True) == ""
    assert messages(save(tmp_path / "a.wav", np.array([0, 32, 0]) / 128)) == ""


def test_clipped_samples_are_counted(tmp_path):
    path = save(tmp_path / "a.wav", np.array([32767, -32768, 20000, 16000]) / 32768)
    assert messages(path) == ""
    assert "clipped: 3" in messages(path, gain_db=6.0)


def test_normalize_brings_the_peak_to_full_scale(tmp_path):
    path = save(tmp_path / "a.wav", np.array([0, 100, -1000, 1000, 0]) / 32768)
    assert read(path, normalize=True).tolist() == [128, 141, 1, 255, 128]
    assert read(path, normalize=True, gain_db=-6.0206).tolist() == [128, 134, 65, 192, 128]
    assert read(path, gain_db=20.0).tolist() == [128, 132, 89, 167, 128]
    assert read(save(tmp_path / "b.wav", np.zeros(2)), normalize=True).tolist() == [128, 128]


def test_a_very_quiet_recording_is_not_called_silent(tmp_path):
    path = save(tmp_path / "a.wav", 0.0009 * TONE, "PCM_24")
    assert set(read(path)) == {128}
    assert "--normalize" in messages(path)
    assert "silent" not in messages(path)
    assert "silent" not in messages(path, dither=True)
    faint = save(tmp_path / "b.wav", 1e-5 * TONE, "PCM_24")
    for options in ({"bits": 16}, {"mulaw": True}):
        assert set(read(faint, **options)) <= {0, 255}
        assert "--normalize" in messages(faint, **options)
    assert "100 dB" in messages(faint, normalize=True)  # and so is its noise


def test_silence_is_called_silent(tmp_path):
    path = save(tmp_path / "a.wav", 0 * TONE)
    for options in ({}, {"normalize": True}, {"remove_dc": True}, {"mulaw": True}, {"bits": 16}, {"dither": True}):
        assert "is silent" in messages(path, **options)


def test_messages_do_not_advise_flags_that_were_given(tmp_path):
    path = save(tmp_path / "a.wav", 0.5 * TONE)
    message = messages(path, normalize=True, gain_db=6.0)
    assert "clipped" in message
    assert "--normalize" not in message
    assert messages(path, normalize=True, gain_db=-40.0) == ""


# Options together.


OPTIONS = {
    "channel": {"channel": 2},
    "remove_dc": {"remove_dc": True},
    "normalize": {"normalize": True},
    "gain": {"gain_db": -6.0},
    "part": {"start": 0.5, "duration": 1.0},
    "mulaw": {"mulaw": True},
    "dither": {"dither": True},
    "bits": {"bits": 16},
    "rate": {"rate": 8000},
}
FORMATS = {"mulaw", "dither", "bits"}  # which exclude each other
# Each option alone, all that do not exclude each other at the recording's rate, and these at another rate.
COMBINATIONS = [
    *((name,) for name in OPTIONS),
    *(tuple(OPTIONS.keys() - FORMATS - {"rate"} | {name}) for name in FORMATS),
    *(tuple(OPTIONS.keys() - FORMATS | {name}) for name in FORMATS),
]


def expected(samples, options):
    """Return the expected result, without dither and at the recording's rate."""
    part = slice(round(options.get("start", 0) * RATE), None)
    samples = samples[part][: round(options.get("duration", 9) * RATE)]
    channel = options.get("channel")
    mono = samples.mean(axis=1) if channel is None else samples[:, channel - 1]
    if options.get("remove_dc"):
        mono = mono - mono.mean()
    if options.get("normalize"):
        mono = mono * (127 / 128 / np.abs(mono).max())
    mono = mono * 10 ** (options.get("gain_db", 0) / 20)
    whole = np.floor(mono * 32768 + 0.5).clip(-32768, 32767).astype(np.int16)
    if options.get("bits") == 16:
        return whole
    return encode_mulaw(whole) if options.get("mulaw") else np.floor(128 * mono + 128.5).clip(0, 255)


@pytest.mark.parametrize("names", sorted(tuple(sorted(names)) for names in COMBINATIONS), ids="-".join)
def test_options_work_together(tmp_path, names):
    options = {key: value for name in names for key, value in OPTIONS[name].items()}
    samples = np.round(32768 * stereo(0.2 * TONE + 0.1, 0.4 * np.sin(2 * np.pi * 100 * SECONDS) - 0.2)) / 32768
    path = save(tmp_path / "a.wav", samples)
    found = read(path, **options)
    with subprocess.Popen(["cat", path], stdout=subprocess.PIPE) as cat:
        assert np.array_equal(read(cat.stdout, **options), found)
    if "rate" in options:
        assert len(found) == (8000 if "part" in names else 24000)
        return
    target = expected(samples, options).astype(int)
    assert np.abs(found.astype(int) - target).max() <= (2 if "dither" in options else 1)
    if "dither" not in options:
        assert np.count_nonzero(found != target) <= 0.02 * len(target)  # float32 rounds some to the other side


def test_wav2utf8_accepts_the_flags(tmp_path, capfdbinary):
    path = save(tmp_path / "a.wav", stereo(0.02 * TONE - 0.9, 0 * TONE))
    assert wav2utf8([str(path), "--channel", "left", "--remove-dc", "--normalize"]) == 0
    text = capfdbinary.readouterr().out.decode()
    assert (min(text), max(text)) == (chr(0x2801), chr(0x28FF))
    for wrong in ("0", "-1", "middle", "1.5", ""):
        with pytest.raises(SystemExit, match="2"):
            wav2utf8([str(path), f"--channel={wrong}"])


# Several recordings.


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "set").mkdir()
    save(tmp_path / "set/a.wav", 0.25 * TONE + 0.25)
    save(tmp_path / "set/b.wav", 0.5 * TONE)
    save(tmp_path / "set/c.wav", 0.001 * TONE - 0.1, "PCM_24")
    return tmp_path / "set"


def peaks(values):
    return [int(np.abs(part.astype(int)).max()) for part in np.split(values, 3)]


def test_a_set_gets_one_gain_and_files_each_their_own(folder, tmp_path):
    def prepared(over):
        options = SoundOptions(normalize=True, remove_dc=True, normalize_over=over)
        return prepare_corpus([str(folder)], tmp_path / "corpus", options, quiet=True)

    assert peaks(prepared("files").ids.astype(int) - 128) == [127, 127, 127]
    corpus = prepared("set")
    assert peaks(corpus.ids.astype(int) - 128) == pytest.approx([63.5, 127, 0], abs=1)
    assert corpus.sound is not None
    assert corpus.sound.set_gain_db == pytest.approx(20 * np.log10(2 * 127 / 128), abs=0.01)
    again = SoundOptions.of_network(RATE, "linear", json.loads(json.dumps(corpus.sound.to_json())))
    assert (
        prepare_corpus([str(folder / "a.wav")], tmp_path / "one", again).ids.tolist()
        == corpus.ids[: len(TONE)].tolist()
    )


def test_a_recording_too_quiet_for_the_gain_of_its_set_is_reported(
    folder, tmp_path, capsys: pytest.CaptureFixture[str]
):
    options = SoundOptions(normalize=True, remove_dc=True, normalize_over="set")
    prepare_corpus([str(folder)], tmp_path / "corpus", options)
    message = capsys.readouterr().err
    assert f"{folder}/c.wav is too quiet" in message
    assert "--normalize" not in message


def test_a_set_of_samples_for_frames_gets_one_gain(folder, tmp_path):
    options = SoundOptions(normalize=True, remove_dc=True, normalize_over="set")
    samples = frame_data.prepare([str(folder)], tmp_path / "corpus", options, quiet=True).ids
    assert peaks(samples) == pytest.approx([16256, 32512, 65], abs=2)
