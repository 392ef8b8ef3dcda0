"""A checkpoint is read back bit for bit, and every other file is rejected with one message."""

import json
import pickle
import struct
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import charrnn
from bytecodec.errors import InputError
from charrnn.data.vocab import Vocab
from charrnn.models.cells import CELLS
from charrnn.models.char_rnn import build
from charrnn.models.config import ModelConfig
from charrnn.storage.checkpoint import Checkpoint, load, read_tensors, save
from charrnn.storage.checkpoint_format import Streams, load_streams, save_float16, save_streams


@pytest.fixture
def saved(tmp_path, tiny_checkpoint):
    """Path of the tiny checkpoint."""
    path = tmp_path / "tiny.safetensors"
    save(path, tiny_checkpoint)
    return path


def refusal(path, call=load, *args):
    """Return the message with which a file is rejected, which is one line that names the file."""
    with pytest.raises(InputError) as caught:
        call(path, *args)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def rewrite(path, metadata=lambda metadata: metadata, tensors=lambda tensors: tensors):
    """Change the metadata or the tensors of a file."""
    with safe_open(str(path), framework="pt") as file:
        changed = metadata(json.loads(file.metadata()["charrnn"]))
    text = changed if isinstance(changed, str) else json.dumps(changed)
    save_file(tensors(load_file(path)), path, {"charrnn": text})
    return path


def without(mapping, name):
    return {key: value for key, value in mapping.items() if key != name}


# Reading back


@pytest.mark.parametrize("cell", CELLS)
def test_a_checkpoint_is_read_back_bit_for_bit_and_can_be_trained_further(tmp_path, tiny_config, cell):
    model = build(replace(tiny_config, cell=cell), 4)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape))
    metadata = {"step": 12, "epoch": 1.5, "rate": 11025, "encoding": "mulaw", "train_loss": 1.25, "val_loss": 1.5}
    save(tmp_path / "a", Checkpoint(model, Vocab("abcdefg"), **metadata))
    found = load(tmp_path / "a")
    assert {name: getattr(found, name) for name in metadata} == metadata
    assert (found.config, found.vocab, found.path) == (model.config, Vocab("abcdefg"), str(tmp_path / "a"))
    expected, read = (dict(m.named_parameters()) for m in (model, found.model))
    assert expected.keys() == read.keys()
    for name, parameter in expected.items():
        assert torch.equal(read[name], parameter), name
        assert read[name].requires_grad == parameter.requires_grad, name
    assert not found.model.training
    x = torch.zeros(1, 3, dtype=torch.int64)
    found.model.loss(x, x, found.model.initial_state(1))[0].backward()
    save(tmp_path / "again", found)
    assert (tmp_path / "again").read_bytes() == (tmp_path / "a").read_bytes()


def test_weights_that_a_user_froze_are_saved(tmp_path, tiny_checkpoint):
    tiny_checkpoint.model.requires_grad_(False)
    save(tmp_path / "a", tiny_checkpoint)
    expected = tiny_checkpoint.model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in load(tmp_path / "a").model.state_dict().items())


def test_fields_that_older_versions_did_not_write_have_defaults(saved, tiny_checkpoint):
    def older(metadata):
        newer = ("proj_size", "layer_norm", "context", "prediction", "noise")
        model = {name: value for name, value in metadata["model"].items() if name not in newer}
        return {"format": 1, "kind": metadata["kind"], "vocab": metadata["vocab"], "model": model}

    found = load(rewrite(saved, older))
    assert found.config == tiny_checkpoint.config
    assert (found.step, found.epoch, found.rate, found.encoding, found.sound, found.val_loss) == (0, 0, *[None] * 4)


@pytest.mark.parametrize("version", [2, 3])
def test_of_older_networks_those_with_predictions_are_rejected(tmp_path, saved, tiny_checkpoint, version):
    def older(metadata):
        return metadata | {"format": version, "model": metadata["model"] | {"light_tails": False}}

    assert load(rewrite(saved, older)).config == tiny_checkpoint.config
    predicts = build(ModelConfig(256, 4, 5, 1, prediction="lpc"), 0)
    save(tmp_path / "predicts", Checkpoint(predicts, Vocab.of_alphabet("braille"), rate=11025, encoding="linear"))
    assert "train a new network" in refusal(rewrite(tmp_path / "predicts", older))


def test_the_metadata_are_json_and_parameters_that_always_are_zero_are_not_stored(tmp_path, tiny_model):
    model = build(replace(tiny_model.config, vocab_size=256), 0)
    vocab = Vocab.of_alphabet("latin")
    save(tmp_path / "a", Checkpoint(model, vocab, step=12, epoch=1.5, rate=11025, encoding="mulaw", train_loss=1.25))
    with safe_open(str(tmp_path / "a"), framework="np") as file:
        assert list(file.metadata()) == ["charrnn"]
        assert json.loads(file.metadata()["charrnn"]) == {
            "format": 4,
            "kind": "symbols",
            "model": {
                "vocab_size": 256,
                "wordvec_size": 5,
                "rnn_size": 6,
                "layers": 2,
                "cell": "lstm",
                "dropout": 0.0,
                "forget_bias": 1.0,
                "proj_size": None,
                "layer_norm": False,
                "context": 0,
                "prediction": "none",
                "noise": 0.0,
            },
            "vocab": {"alphabet": "latin"},
            "step": 12,
            "epoch": 1.5,
            "rate": 11025,
            "encoding": "mulaw",
            "sound": None,
            "train_loss": 1.25,
            "val_loss": None,
            "level": None,
            "loudest": None,
            "calibration": None,
        }
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    assert shapes == {
        "embedding.weight": (256, 5),
        "layers.0.weight_ih_l0": (24, 5),
        "layers.0.weight_hh_l0": (24, 6),
        "layers.0.bias_ih_l0": (24,),
        "layers.1.weight_ih_l0": (24, 6),
        "layers.1.weight_hh_l0": (24, 6),
        "layers.1.bias_ih_l0": (24,),
        "output.weight": (256, 6),
        "output.bias": (256,),
    }


def test_charrnn_load_returns_a_model_with_config_and_vocab(saved):
    model = charrnn.load(saved)
    assert model.config.rnn_size == 6
    assert model.vocab == Vocab("abcdefg")


def test_a_run_means_its_newest_checkpoint(trained_run):
    assert load(trained_run).path == str(trained_run / "checkpoints" / "00000400.safetensors")


# Files that are not checkpoints


def test_a_missing_file_is_named(tmp_path):
    assert "no checkpoint" in refusal(tmp_path / "none.safetensors")
    assert "no file" in refusal(tmp_path / "none", read_tensors, "symbols")


def test_other_files_are_rejected(tmp_path):
    cases = [b"", b"RIFF", bytes(8), b"\xff" * 1000, pickle.dumps({"a": np.zeros(3)}), b'{"a": 1}' * 99]
    for content in cases:
        (tmp_path / "foreign").write_bytes(content)
        assert "foreign is not a checkpoint" in refusal(tmp_path / "foreign")


def test_nothing_is_ever_unpickled(tmp_path, tiny_model, monkeypatch):
    torch.save(tiny_model.state_dict(), tmp_path / "a.pt")
    monkeypatch.setattr(pickle, "Unpickler", None)
    monkeypatch.setattr(torch, "load", None)
    refusal(tmp_path / "a.pt")


def test_a_safetensors_file_of_another_program_is_rejected(tmp_path):
    for metadata in (None, {}, {"format": "pt"}):
        save_file({"a": torch.zeros(3)}, tmp_path / "a", metadata)
        assert "another program" in refusal(tmp_path / "a")


def test_metadata_that_cannot_be_read_are_rejected(saved):
    tensors = load_file(saved)
    for text in ("", "{", "[]", '"format"', "null", '{"kind": "symbols"}', "[" * 200_000):
        save_file(tensors, saved, {"charrnn": text})
        assert "metadata" in refusal(saved)


def test_another_format_or_kind_is_named(saved):
    assert "newer version" in refusal(rewrite(saved, lambda metadata: metadata | {"format": 5}))
    assert "format 0" in refusal(rewrite(saved, lambda metadata: metadata | {"format": 0}))
    assert "format True" in refusal(rewrite(saved, lambda metadata: metadata | {"format": True}))
    rewrite(saved, lambda metadata: metadata | {"format": 1, "kind": "frames"})
    assert "is a checkpoint of a frame predictor" in refusal(saved)
    assert "name a sampling state of a character network" in refusal(saved, load_streams, ModelConfig(7))
    rewrite(saved, lambda metadata: metadata | {"kind": ["frames"]})
    assert "unknown kind ['frames']" in refusal(saved)


def test_weights_that_are_not_finite_are_rejected_by_every_reader(saved, tiny_model):
    with torch.no_grad():
        tiny_model.output.bias[2] = torch.inf
    save(saved, Checkpoint(tiny_model, Vocab("abcdefg")))
    for read in (load, charrnn.load, charrnn.engine):
        assert "output.bias has numbers that are not finite" in refusal(saved, read)


def test_impossible_metadata_are_rejected(saved, tiny_checkpoint):
    cases = [
        (lambda metadata: without(metadata, "model"), "model is missing"),
        (lambda metadata: metadata | {"model": []}, "model is []"),
        (lambda metadata: metadata | {"step": -1}, "step is -1"),
        (lambda metadata: metadata | {"vocab": {}}, "the vocabulary"),
        (lambda metadata: metadata | {"vocab": {"alphabet": "braille"}}, "7 symbols, its vocabulary 256"),
    ]
    for metadata, key in cases:
        save(saved, tiny_checkpoint)
        assert key in refusal(rewrite(saved, metadata))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"gates": 3}, "gates"),
        ({"layers": "2"}, "layers is '2'"),
        ({"layers": 10**9}, "layers is 1000000000"),
        ({"layers": 999}, "999 layers"),
        ({"layers": 1}, "layers.1.bias_ih_l0"),
        ({"cell": "gru"}, "layers.0.bias_hh_l0 is missing"),
        ({"cell": "lstmor"}, "output.recurrent_weight is missing"),
        ({"rnn_size": 10**6}, "(24,) float32"),
        ({"rnn_size": 10**12}, "(24,) float32"),
        ({"wordvec_size": 10**30}, "embedding.weight"),
        ({"forget_bias": 10**400}, "forget_bias"),
        ({"forget_bias": float("nan")}, "forget_bias is nan"),
    ],
)
def test_a_configuration_that_does_not_fit_the_weights_is_rejected_before_it_takes_memory(saved, changes, key):
    assert key in refusal(rewrite(saved, lambda metadata: metadata | {"model": metadata["model"] | changes}))


def test_a_copy_with_weights_in_float16_is_read_as_float32(saved, tmp_path):
    save_float16(tmp_path / "half.safetensors", saved)
    assert (tmp_path / "half.safetensors").stat().st_size < saved.stat().st_size
    before, half = load(saved), load(tmp_path / "half.safetensors")
    assert (half.step, half.config) == (before.step, before.config)
    for name, weights in half.model.state_dict().items():
        assert torch.equal(weights, before.model.state_dict()[name].half().float())


def test_a_tensor_that_does_not_fit_is_named(saved, tiny_checkpoint):
    cases = [
        (lambda tensors: without(tensors, "output.bias"), "output.bias is missing"),
        (lambda tensors: tensors | {"more": torch.zeros(2)}, "more"),
        (lambda tensors: tensors | {"output.bias": torch.zeros(7, 1)}, "output.bias is (7, 1) float32"),
        (lambda tensors: tensors | {"output.bias": torch.zeros(7).double()}, "output.bias is (7,) float64"),
        (lambda _: {}, "0 tensors"),
    ]
    for tensors, key in cases:
        save(saved, tiny_checkpoint)
        assert key in refusal(rewrite(saved, tensors=tensors))


def test_a_file_that_is_cut_off_anywhere_is_rejected(saved):
    whole = saved.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    for size in [*range(0, header + 8, 7), *range(header, len(whole), 997), len(whole) - 1]:
        saved.write_bytes(whole[:size])
        refusal(saved)
    saved.write_bytes(whole + b"x")
    refusal(saved)


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_header_is_rejected_or_read_and_never_raises_another_error(tmp_path, tiny_checkpoint, data):
    path = tmp_path / "tiny.safetensors"
    save(path, tiny_checkpoint)
    content = bytearray(path.read_bytes())
    header = 8 + struct.unpack("<Q", content[:8])[0]
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, header - 1))
        content[position] = data.draw(st.sampled_from(b'0123456789{}[]",:-eE.tfn\\ \x00\xff') | st.integers(0, 255))
    path.write_bytes(content)
    try:
        load(path)
    except InputError as error:
        assert str(path) in str(error)  # noqa: PT017


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failure_while_writing_leaves_the_old_file(saved, tmp_path, monkeypatch, failing):
    before = saved.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys.modules["bytecodec.console"].os, failing, fail)
    with pytest.raises(OSError, match="No space left") as caught:
        save(saved, Checkpoint(build(ModelConfig(9, 8, 7), 1), Vocab("abcdefghi")))
    assert caught.value.filename == str(saved)
    assert saved.read_bytes() == before
    assert list(tmp_path.iterdir()) == [saved]


# Streams


def streams_of(config, n=3):
    rng = np.random.default_rng(0)
    shapes = [[tuple(t.shape) for t in layer] for layer in build(config, 0).initial_state(n)]
    state = tuple(tuple(rng.normal(size=shape).astype(np.float32) for shape in layer) for layer in shapes)
    return Streams(state, np.arange(n, dtype=np.int64), seed=2**64 - 1, position=123)


@pytest.mark.parametrize("cell", ["lstm", "gru", "lstmor"])
def test_streams_are_read_back_bit_for_bit(tmp_path, tiny_config, cell):
    config = replace(tiny_config, cell=cell)
    expected = streams_of(config)
    save_streams(tmp_path / "s", expected)
    found = load_streams(tmp_path / "s", config)
    assert (found.seed, found.position) == (2**64 - 1, 123)
    np.testing.assert_array_equal(found.last, expected.last)
    for layer, other in zip(found.state, expected.state, strict=True):
        for array, same in zip(layer, other, strict=True):
            np.testing.assert_array_equal(array, same)


def test_streams_of_another_network_are_rejected(tmp_path, tiny_config):
    save_streams(tmp_path / "s", streams_of(tiny_config))
    changes = [{"rnn_size": 8}, {"layers": 3}, {"layers": 1}, {"cell": "gru"}, {"cell": "lstmor"}, {"cell": "lstmp"}]
    for change in changes:
        assert "hidden state" in refusal(tmp_path / "s", load_streams, replace(tiny_config, **change))
    assert "last symbols" in refusal(tmp_path / "s", load_streams, replace(tiny_config, vocab_size=2))
    save_streams(tmp_path / "s", streams_of(replace(tiny_config, cell="lstmor")))  # has all that an lstm needs
    assert "hidden state" in refusal(tmp_path / "s", load_streams, tiny_config)


def test_streams_whose_tensors_do_not_fit_together_are_rejected(tmp_path, tiny_config):
    cases = [
        (lambda tensors: without(tensors, "last"), "last symbols"),
        (lambda tensors: tensors | {"last": torch.zeros(3)}, "last symbols"),
        (lambda tensors: tensors | {"last": torch.tensor(1)}, "last symbols"),
        (lambda tensors: tensors | {"last": torch.tensor([0, 1, -2])}, "last symbols"),
        (lambda tensors: tensors | {"last": torch.zeros(0, dtype=torch.int64)}, "last symbols"),
        (lambda tensors: tensors | {"last": torch.zeros(2, dtype=torch.int64)}, "hidden state"),
        (lambda tensors: tensors | {"state.1.0": torch.zeros(3, 6, dtype=torch.int32)}, "hidden state"),
        (lambda tensors: without(tensors, "state.0.1"), "hidden state"),
    ]
    for tensors, key in cases:
        save_streams(tmp_path / "s", streams_of(tiny_config))
        rewrite(tmp_path / "s", tensors=tensors)
        assert key in refusal(tmp_path / "s", load_streams, tiny_config)


def test_streams_with_an_impossible_seed_are_rejected(tmp_path, tiny_config):
    save_streams(tmp_path / "s", streams_of(tiny_config))
    rewrite(tmp_path / "s", lambda metadata: metadata | {"seed": 2**64})
    assert "seed is 18446744073709551616" in refusal(tmp_path / "s", load_streams, tiny_config)
