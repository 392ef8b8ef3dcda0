"""Networks of symbols and frame predictors are sampled with one interface."""

import itertools
import sys

import numpy as np
import pytest
from engine_inputs import perturbed

import bytecodec
from charrnn.data.vocab import Vocab
from charrnn.engines.eager import EagerEngine
from charrnn.engines.level import LevelControl
from charrnn.frames.generate import FrameSampling, FrameStream, load_streams
from charrnn.frames.model import FrameCheckpoint, FrameConfig, build
from charrnn.models.config import LEVEL_BLOCK, ModelConfig
from charrnn.sampling.task import SymbolSampling
from charrnn.sampling.writers import numbered_path, open_text
from charrnn.storage import checkpoint_format
from charrnn.storage.checkpoint_format import StoredCheckpoint

SAMPLES = (3000 * np.sin(np.arange(4000) / 7)).astype(np.int16)


def symbols(tiny_model, saved=None, **fields):
    fields = {"config": tiny_model.config, "weights": {}, "vocab": Vocab("abcdefg")} | fields
    return SymbolSampling(
        StoredCheckpoint(**fields), EagerEngine(tiny_model, 2), np.array([1, 2]), saved, seed=3, chunk=4
    )


def frames(model, streams=None):
    if streams is None:
        streams = [FrameStream(model, seed=3, number=k) for k in range(2)]
    return FrameSampling(FrameCheckpoint(model), streams)


@pytest.fixture(params=["symbols", "frames"])
def task(request, tiny_model):
    """A task of two streams, and ``task.reopened(path)`` from a saved state."""
    if request.param == "symbols":
        task = symbols(tiny_model)
        task.reopened = lambda path: SymbolSampling(
            task.checkpoint,
            EagerEngine(tiny_model, 2),
            np.empty(0, int),
            checkpoint_format.load_streams(path, tiny_model.config),
        )
        return task
    model = build(FrameConfig(rnn_size=6, layers=1, taps=4, spacing=5, loss="gaussian"), 0, SAMPLES).eval()
    task = frames(model)
    task.reopened = lambda path: frames(model, load_streams(path, model))
    return task


def sampled(task, segments, length, temperature=1.0, seed=None):
    """Return the pieces of all segments, joined, (N, n)."""
    task.restart(temperature, seed)
    return np.concatenate([np.stack(pieces) for _, pieces in task.pieces(segments, length)], axis=1)


def test_a_restart_at_the_same_temperature_repeats_the_streams(task):
    first = sampled(task, 1, 23)
    assert first.shape == (2, 23)
    assert (first[0] != first[1]).any()
    assert (sampled(task, 1, 23, temperature=0.2) != first).any()
    np.testing.assert_array_equal(sampled(task, 1, 23), first)


def test_a_restart_with_another_seed_gives_other_streams_until_the_next_seed(task):
    first, other = sampled(task, 1, 23), sampled(task, 1, 23, seed=4)
    assert (first != other).any()
    np.testing.assert_array_equal(sampled(task, 1, 23), other)
    np.testing.assert_array_equal(sampled(task, 1, 23, seed=3), first)


def test_segments_are_cut_from_one_long_sample(task):
    whole = sampled(task, 1, 21)
    task.restart(1.0)
    segments = [[], [], []]
    for number, pieces in task.pieces(3, 7):
        segments[number].append(np.stack(pieces))
    segments = [np.concatenate(pieces, axis=1) for pieces in segments]
    assert [segment.shape for segment in segments] == [(2, 7)] * 3
    np.testing.assert_array_equal(np.concatenate(segments, axis=1), whole)


def test_without_a_length_it_does_not_end(task):
    whole = sampled(task, 1, 12)
    task.restart(1.0)
    some = [np.stack(pieces) for _, pieces in itertools.islice(task.pieces(1, None), 12)]
    np.testing.assert_array_equal(np.concatenate(some, axis=1)[:, :12], whole)


def test_a_saved_state_resumes_in_the_middle_of_a_piece(task, tmp_path):
    whole, first = sampled(task, 1, 30), sampled(task, 1, 13)
    task.save_state(str(tmp_path / "state"))
    resumed = task.reopened(tmp_path / "state")
    for _ in range(2):  # a restart returns to the saved state
        np.testing.assert_array_equal(np.concatenate([first, sampled(resumed, 1, 17)], axis=1), whole)


def test_the_bytes_of_a_network_are_played_in_their_encoding(tiny_model):
    data = np.array([0, 127, 128, 129, 255])
    assert symbols(tiny_model, encoding="linear").as_int16(data).tolist() == [-32768, -256, 0, 256, 32512]
    decoded = bytecodec.decode_mulaw(data.astype(np.uint8))
    assert symbols(tiny_model, encoding="mulaw").as_int16(data).tolist() == decoded.tolist()


def test_samples_beyond_full_scale_are_counted():
    model = build(FrameConfig(rnn_size=6, layers=1, taps=4, spacing=5), 0, SAMPLES).eval()
    task = frames(model)
    sampled(task, 1, 10)
    assert task.summary() == []
    model.output.bias.data.fill_(100)
    sampled(task, 1, 10)
    assert task.summary()[0].startswith("20 of 20 samples")


def test_streams_that_restart_because_they_are_too_loud_are_counted():
    config = ModelConfig(256, 5, 6, 2, context=3, prediction="lpc")
    engine = EagerEngine(perturbed(config), 1)
    engine.level_control = LevelControl(1, 0.5, 0.5, rate=11_025)
    task = SymbolSampling(
        StoredCheckpoint(config=config, weights={}, vocab=Vocab.of_alphabet("braille")), engine, np.empty(0, int)
    )
    for blocks, word in ((1, None), (2, "once"), (4, "2 times")):  # every second block fades out
        sampled(task, 1, blocks * LEVEL_BLOCK)
        assert [message.partition(" a stream was louder")[0] for message in task.summary()] == [word] * bool(word)


def test_names_of_streams_count_from_001():
    assert [numbered_path("folder", k, ".wav") for k in (0, 8, 1000)] == [
        "folder/001.wav",
        "folder/009.wav",
        "folder/1001.wav",
    ]


def test_text_on_standard_output_is_flushed_after_each_piece(monkeypatch):
    class Pipe:
        data, flushed = b"", 0

        def write(self, data):
            self.data += data

        def flush(self):
            self.flushed += 1

    pipe = Pipe()
    monkeypatch.setattr(sys, "stdout", type("", (), {"buffer": pipe})())
    with open_text("-", Vocab.of_alphabet("braille")) as text:
        text.write(np.array([0, 255]))
        assert pipe.data.decode() == "⠀⣿"
        assert pipe.flushed == 1
