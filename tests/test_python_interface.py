"""The public functions raise InputError for wrong arguments before they compute or write anything."""

import io

import numpy as np
import pytest
import torch

import bytecodec
import charrnn
from bytecodec.errors import InputError
from charrnn.data import baselines
from charrnn.data.vocab import Vocab
from charrnn.engines.eager import EagerEngine
from charrnn.frames import model as frame_model
from charrnn.frames.generate import FrameStream
from charrnn.sampling import audio_metrics
from charrnn.sampling.free_running import Reference
from charrnn.sampling.generate import generate, prime
from charrnn.sampling.stitch import stitch
from charrnn.storage import checkpoint
from charrnn.training.evaluate import evaluate

NOT_PATHS = (None, 5, b"run", ["run"])
NOT_SEEDS = (-1, 2**64, 1.0, "1", None, True)
NOT_TEMPERATURES = (-0.1, np.nan, np.inf, "1", None, True)
NOISE = np.random.default_rng(0).integers(0, 256, 4000)


@pytest.fixture
def engine(tiny_model):
    return EagerEngine(tiny_model, 2)


@pytest.fixture
def predictor():
    return frame_model.build(
        frame_model.FrameConfig(8, 1, taps=2, spacing=10), 0, (100 * np.sin(np.arange(500))).astype(np.int16)
    )


def assert_rejected(function, *args, **kwargs):
    with pytest.raises(InputError):
        function(*args, **kwargs)


def assert_each_rejected(function, right, wrong):
    """Assert that each wrong value of each argument is rejected beside right ones."""
    for name, values in wrong.items():
        for value in values:
            try:
                function(**right | {name: value})
            except InputError:
                continue
            pytest.fail(f"{name} = {value!r} is accepted")


def test_encoding_and_decoding_reject_wrong_arguments():
    for data in (None, 5, "text", [1, 2], np.zeros(3), np.zeros(3, np.int64), np.zeros((2, 2), np.uint8)):
        assert_rejected(bytecodec.encode, data)
        assert_rejected(bytecodec.Encoder().feed, data)
        if not isinstance(data, str):
            assert_rejected(bytecodec.Decoder().feed, data)
    for alphabet in (None, "klingon", [], 5):
        assert_rejected(bytecodec.encode, b"", alphabet)
        assert_rejected(bytecodec.Encoder, alphabet)
    for text in (None, 5, b"bytes", ["⠀"], "plain"):
        assert_rejected(bytecodec.decode, text)
    assert_rejected(bytecodec.Decoder, None)


def test_bytes_need_not_be_contiguous():
    samples = np.arange(10, dtype=np.uint8)
    assert bytecodec.decode(bytecodec.encode(samples[::2])) == bytes(range(0, 10, 2))
    assert bytecodec.decode(bytecodec.encode(memoryview(b"abcd")[::2])) == b"ac"
    file = io.BytesIO()
    with bytecodec.WavWriter(file, 11025) as wav:
        wav.write(samples[::2])
    assert file.getvalue()[44:49] == bytes(range(0, 10, 2))


def test_reading_recordings_rejects_wrong_arguments(tone_file):
    wrong = {
        "source": (None, 5, ["a"]),
        "rate": (0, 999, 768001, 11025.0, "11025", None, True),
        "start": (-1, np.nan, np.inf, "0", None),
        "duration": (0, -1, np.nan, np.inf, "1"),
        "gain_db": (-201, 201, np.nan, "0", None),
        "bits": (0, 24, "8", None),
    }
    assert_each_rejected(bytecodec.read_blocks, {"source": tone_file}, wrong)


def test_writing_recordings_rejects_wrong_arguments():
    wrong = {"stream": (None, "x.wav", io.StringIO()), "rate": (0, -1, 11025.0, "11025", None), "bits": (0, 24, "8")}
    assert_each_rejected(bytecodec.WavWriter, {"stream": io.BytesIO(), "rate": 11025}, wrong)
    file = io.BytesIO()
    with bytecodec.WavWriter(file, 11025) as wav:
        for samples in (None, "text", [1, 2], np.zeros(3), np.zeros(3, np.int16), np.zeros((2, 2), np.uint8)):
            assert_rejected(wav.write, samples)
        assert_rejected(wav.cue, -1)
    assert wav.samples == 0
    assert_rejected(wav.write, b"after the end")
    with bytecodec.WavWriter(io.BytesIO(), 11025, bits=16) as wav:
        for samples in (np.zeros(3, np.uint8), np.zeros(3, np.float32), b"odd"):
            assert_rejected(wav.write, samples)


def test_loading_and_saving_checkpoints_reject_wrong_arguments(tmp_path, tiny_checkpoint):
    for load in (charrnn.load, checkpoint.load, frame_model.load):
        for path in (*NOT_PATHS, "", tmp_path / "none", tmp_path):
            assert_rejected(load, path)
    checkpoint.save(tmp_path / "tiny", tiny_checkpoint)
    for device in ("steam", "cuda:99", None, 5.0, ["cpu"]):
        assert_rejected(charrnn.load, tmp_path / "tiny", device)
    for wrong in (None, tiny_checkpoint.model, "tiny"):
        assert_rejected(checkpoint.save, tmp_path / "new", wrong)
    for path in (*NOT_PATHS, tmp_path / "none" / "new"):
        assert_rejected(checkpoint.save, path, tiny_checkpoint)
    assert not (tmp_path / "new").exists()


def test_sampling_rejects_wrong_arguments(engine):
    wrong = {
        "engine": (None, "eager"),
        "length": (-1, 1.0, "5", True),
        "temperature": NOT_TEMPERATURES,
        "seed": NOT_SEEDS,
        "chunk": (0, -1, 1.0, None),
        "position": (-1, 1.0, None),
        "first_stream": (-1, 2**64 - 1, 1.0, None),
    }
    assert_each_rejected(generate, {"engine": engine, "length": 5}, wrong)
    wrong |= {"segments": (0, -1, 1.0, None), "join": ("glue", None), "start": (5, [[1]], [0.5], "ab")}
    assert_each_rejected(stitch, {"engine": engine, "segments": 2, "length": 5}, wrong)
    for ids in (None, 5, [[1], [2]], [0.5], [7], [-1]):
        assert_rejected(prime, engine, ids)


def test_measuring_seams_rejects_wrong_arguments():
    wrong = {
        "samples": (None, 5, "text", NOISE[None], [np.nan] * 4000),
        "seams": (None, 5, [1000.5], [[1000]], "ab"),
        "seed": NOT_SEEDS,
        "window": (0, -1, 1.0, None),
    }
    assert_each_rejected(charrnn.measure_seams, {"samples": NOISE, "seams": [2000]}, wrong)


def test_streams_of_a_frame_predictor_reject_wrong_arguments(predictor):
    wrong = {
        "model": (None, "run"),
        "window": (5, torch.zeros(19), torch.zeros(1, 20), torch.full((20,), torch.nan), ["a"] * 20),
        "seed": NOT_SEEDS,
        "number": NOT_SEEDS,
        "temperature": NOT_TEMPERATURES,
        "join": ("glue", None),
    }
    assert_each_rejected(FrameStream, {"model": predictor}, wrong)
    for max_samples in (0, -1, 1.5, None):
        assert_rejected(FrameStream(predictor).read, max_samples)


def test_a_stream_copies_the_window_that_it_receives(predictor):
    window = torch.full((20,), 0.25)
    take, other = FrameStream(predictor, window), FrameStream(predictor, window.clone())
    window.zero_()
    np.testing.assert_array_equal(take.read(10), other.read(10))


def test_evaluation_rejects_wrong_arguments(tiny_model):
    wrong = {
        "model": (None, "run"),
        "ids": (None, 5, np.zeros(1, np.int64), np.zeros((2, 5), np.int64), np.zeros(5), np.full(5, 7), np.full(5, -1)),
        "precision": ("fp8", None),
    }
    assert_each_rejected(evaluate, {"model": tiny_model, "ids": np.arange(20) % 7}, wrong)


def test_baselines_reject_wrong_arguments():
    vocab = Vocab.of_alphabet("braille")
    not_ids = (None, 5, [], [[1]], [0.5], [-1], [256], "ab")
    assert_each_rejected(
        baselines.flac_bits, {"ids": NOISE, "rate": 11025}, {"ids": not_ids, "rate": (0, -1, 1.5, "1", None)}
    )
    assert_each_rejected(baselines.bzip2_bits, {"ids": NOISE, "vocab": vocab}, {"ids": not_ids})
    wrong = {"ids": not_ids, "train": (None, 5, [0.5], [-1], [256]), "symbols": (0, -1, 1.5, None, 100)}
    assert_each_rejected(baselines.order0_bits, {"train": NOISE, "ids": NOISE, "symbols": 256}, wrong)


def test_audio_metrics_reject_wrong_arguments():
    sound = NOISE / 256
    not_sounds = (None, 5, [], [[0.5] * 4000], [np.nan] * 4000, "ab", sound[:100])
    not_rates = (0, -1, 1.5, "1", None)
    wrong = {"x": not_sounds, "y": not_sounds, "rate": not_rates}
    assert_each_rejected(audio_metrics.spectrum_distance, {"x": sound, "y": sound, "rate": 1000}, wrong)
    del wrong["y"]
    for measure in (audio_metrics.long_term_spectrum, audio_metrics.level_drift):
        assert_each_rejected(measure, {"x": sound, "rate": 1000}, wrong)
    spectrum = audio_metrics.long_term_spectrum(sound, 1000)
    not_spectra = (None, 5, [], sound, -spectrum, spectrum[1:])
    wrong = {"a": not_spectra, "b": not_spectra, "rate": not_rates}
    assert_each_rejected(audio_metrics.distance_of_spectra, {"a": spectrum, "b": spectrum, "rate": 1000}, wrong)
    wrong = {"spectrum": not_spectra, "rate": not_rates}
    assert_each_rejected(audio_metrics.peakiness, {"spectrum": spectrum, "rate": 1000}, wrong)
    not_numbers = (None, "1", np.nan, np.inf, -np.inf)
    wrong = {"x": (*not_sounds[:-1], sound[:99]), "rate": not_rates, "reference": not_numbers}
    assert_each_rejected(audio_metrics.silent_share, {"x": sound, "rate": 1000, "reference": -20}, wrong)
    wrong = {"x": not_sounds[:-1], "lowest": (*not_numbers, 1), "highest": (*not_numbers, -1)}
    assert_each_rejected(audio_metrics.clipped_share, {"x": sound, "lowest": -1, "highest": 1}, wrong)


def test_a_reference_of_free_running_rejects_wrong_arguments():
    recording = NOISE.astype(np.uint8)
    wrong = {
        "recording": (None, 5, [], NOISE, recording[:1023], recording[None]),
        "rate": (0, 999, 1000.0, "1000", None),
        "length": (1999, 2000.0, None),
    }
    assert_each_rejected(Reference, {"recording": recording, "rate": 1000, "length": 2000}, wrong)
    for sound in (None, 5, [], np.zeros(3000), NOISE[:1999]):
        assert_rejected(Reference(recording, 1000, 2000).measure, sound)
