"""A checkpoint comes back bit for bit, and whatever else a file may be is refused in one sentence."""

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
from charrnn.storage import checkpoint as files
from charrnn.storage.checkpoint import Checkpoint, load, save
from charrnn.storage.checkpoint_format import Streams, load_streams, save_streams


@pytest.fixture
def saved(tmp_path, tiny_checkpoint):
    """The tiny checkpoint on disk."""
    path = tmp_path / "tiny.safetensors"
    save(path, tiny_checkpoint)
    return path


def sentence(path, call=load, *args):
    """The one sentence (or two) with which a file is refused, which names the file."""
    with pytest.raises(InputError) as caught:
        call(path, *args)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert message.endswith(".")
    return message.replace(str(path), "FILE")


def rewritten(path, change_facts=lambda facts: facts, change_tensors=lambda tensors: tensors):
    """The same file with facts or tensors changed."""
    with safe_open(str(path), framework="pt") as file:
        facts = json.loads(file.metadata()["charrnn"])
    facts = change_facts(facts)
    text = facts if isinstance(facts, str) else json.dumps(facts)
    save_file(change_tensors(load_file(path)), path, {"charrnn": text})
    return path


# There and back


def test_a_checkpoint_comes_back_bit_for_bit(saved, tiny_checkpoint):
    found = load(saved)
    assert found.model.config == tiny_checkpoint.model.config
    assert found.vocab == tiny_checkpoint.vocab
    for name in ("step", "epoch", "rate", "encoding", "train_loss", "val_loss"):
        assert getattr(found, name) == getattr(tiny_checkpoint, name)
    assert found.path == str(saved)
    want = tiny_checkpoint.model.state_dict()
    for name, tensor in found.model.state_dict().items():
        assert torch.equal(tensor, want[name]), name


def test_what_comes_back_evaluates_and_can_learn_but_for_the_frozen_bias(saved):
    model = load(saved).model
    assert not model.training
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"layers.0.bias_hh_l0", "layers.1.bias_hh_l0"}
    assert not any(model.state_dict()[name].any() for name in frozen)
    x = torch.zeros(1, 3, dtype=torch.int64)
    model.loss(x, x, model.initial_state(1))[0].backward()


@pytest.mark.parametrize("cell", CELLS)
def test_a_network_of_every_cell_comes_back_bit_for_bit_and_can_go_on_learning(tmp_path, tiny_config, cell):
    model = build(replace(tiny_config, cell=cell), 4)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape))
    save(tmp_path / "a", Checkpoint(model, Vocab("abcdefg")))
    found = load(tmp_path / "a").model
    assert found.config == model.config
    want, got = (dict(m.named_parameters()) for m in (model, found))
    assert want.keys() == got.keys()
    for name, parameter in want.items():
        assert torch.equal(got[name], parameter), name
        assert got[name].requires_grad == parameter.requires_grad, name
    second_biases = [name for name in load_file(tmp_path / "a") if name.endswith("bias_hh_l0")]
    assert len(second_biases) == (2 if cell == "gru" else 0)
    x = torch.zeros(1, 3, dtype=torch.int64)
    found.loss(x, x, found.initial_state(1))[0].backward()


def test_a_network_whose_weights_somebody_froze_is_saved_whole(tmp_path, tiny_checkpoint):
    tiny_checkpoint.model.requires_grad_(False)
    save(tmp_path / "a", tiny_checkpoint)
    want = tiny_checkpoint.model.state_dict()
    assert all(torch.equal(tensor, want[name]) for name, tensor in load(tmp_path / "a").model.state_dict().items())


@pytest.mark.parametrize("field", ["proj_size", "layer_norm"])
def test_a_file_from_before_there_was_a_field_is_a_plain_lstm(saved, tiny_checkpoint, field):
    rewritten(saved, lambda facts: facts | {"model": without(facts["model"], field)})
    assert load(saved).model.config == tiny_checkpoint.model.config


def test_the_same_checkpoint_is_the_same_bytes(saved, tmp_path):
    save(tmp_path / "again.safetensors", load(saved))
    assert (tmp_path / "again.safetensors").read_bytes() == saved.read_bytes()


def test_the_metadata_is_json_that_says_what_the_network_is(tmp_path, tiny_model):
    vocab = Vocab.of_alphabet("latin")
    model = build(replace(tiny_model.config, vocab_size=256), 0)
    save(tmp_path / "a", Checkpoint(model, vocab, step=12, epoch=1.5, rate=11025, encoding="mulaw", train_loss=1.25))
    with safe_open(str(tmp_path / "a"), framework="np") as file:
        assert list(file.metadata()) == ["charrnn"]
        assert json.loads(file.metadata()["charrnn"]) == {
            "format": 1,
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
            },
            "vocab": {"alphabet": "latin"},
            "step": 12,
            "epoch": 1.5,
            "rate": 11025,
            "encoding": "mulaw",
            "sound": None,
            "train_loss": 1.25,
            "val_loss": None,
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


def test_charrnn_load_gives_a_model_that_knows_its_vocabulary(saved):
    model = charrnn.load(saved)
    assert model.config.rnn_size == 6
    assert model.vocab == Vocab("abcdefg")
    with pytest.raises(AttributeError, match="module 'charrnn' has no attribute 'lode'"):
        _ = charrnn.lode
    assert {"load", "engine", "__version__"} <= set(dir(charrnn))


def test_a_run_stands_for_its_newest_checkpoint(trained_run):
    assert load(trained_run).step == 400
    assert load(trained_run).path == str(trained_run / "checkpoints" / "00000400.safetensors")


# What is no checkpoint


def test_a_missing_file_is_a_sentence(tmp_path):
    with pytest.raises(InputError, match="there is no checkpoint"):
        load(tmp_path / "none.safetensors")
    assert sentence(tmp_path / "none", files.read_tensors, "symbols") == "there is no file FILE."


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"RIFF", bytes(8), bytes(1000), b"\xff" * 1000, pickle.dumps({"a": np.zeros(3)}), b'{"a": 1}' * 99],
    ids=["empty", "line", "short", "8 zeros", "zeros", "ones", "pickle", "json"],
)
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "foreign"
    path.write_bytes(content)
    assert sentence(path).startswith("FILE is not a whole safetensors file (")


def test_no_pickle_is_ever_loaded(tmp_path, tiny_model):
    torch.save(tiny_model.state_dict(), tmp_path / "a.pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pickle, "Unpickler", None)
        patch.setattr(torch, "load", None)
        sentence(tmp_path / "a.pt")


def test_a_safetensors_file_of_another_program_is_refused(tmp_path):
    for metadata in (None, {}, {"format": "pt"}):
        save_file({"a": torch.zeros(3)}, tmp_path / "a", metadata)
        assert sentence(tmp_path / "a") == "FILE is a safetensors file, but none of charrnn's."


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '"format"', "null", '{"kind": "symbols"}', "[" * 200_000])
def test_a_description_that_cannot_be_read_is_refused(saved, text):
    assert sentence(rewritten(saved, lambda _: text)) == (
        "FILE has no description of a network in its safetensors metadata that can be read."
    )


def test_another_format_or_kind_is_named(saved):
    rewritten(saved, lambda facts: facts | {"format": 2})
    assert sentence(saved) == (
        "FILE has format 2, which a newer version of charrnn wrote: this one reads format 1. Update it with pip."
    )
    rewritten(saved, lambda facts: facts | {"format": 0})
    assert sentence(saved) == "FILE has format 0, and this version of charrnn reads format 1."
    rewritten(saved, lambda facts: facts | {"format": True})
    assert sentence(saved) == "FILE has format True, and this version of charrnn reads format 1."
    rewritten(saved, lambda facts: facts | {"format": 1})
    load(saved)
    rewritten(saved, lambda facts: facts | {"format": 1, "kind": "frames"})
    assert sentence(saved) == "FILE holds 'frames', and 'symbols' was wanted."


def without(facts, name):
    return {key: value for key, value in facts.items() if key != name}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda facts: without(facts, "model"), "it does not say its 'model'"),
        (lambda facts: without(facts, "vocab"), "it does not say its 'vocab'"),
        (lambda facts: facts | {"vocab": {"alphabet": "braille"}}, "the network has 7 symbols, its vocabulary 256"),
        (lambda facts: facts | {"vocab": 7}, "the vocabulary is neither"),
        (
            lambda facts: facts | {"model": []},
            "charrnn.models.config.ModelConfig() argument after ** must be a mapping",
        ),
        (lambda facts: facts | {"model": {}}, "missing 1 required positional argument: 'vocab_size'"),
        (lambda facts: facts | {"model": facts["model"] | {"gates": 3}}, "unexpected keyword argument 'gates'"),
        (lambda facts: facts | {"model": facts["model"] | {"layers": "2"}}, "layers is '2', and has to be"),
        (lambda facts: facts | {"model": facts["model"] | {"cell": {}}}, "cell is {}, and has to be one of"),
        (lambda facts: facts | {"model": facts["model"] | {"cell": "gru"}}, "layers.0.bias_hh_l0 is missing"),
        (lambda facts: facts | {"model": facts["model"] | {"cell": "rnn"}}, "layers.0.bias_ih_l0 is (24,)"),
        (lambda facts: facts | {"model": facts["model"] | {"cell": "lstmor"}}, "output.recurrent_weight is missing"),
        (lambda facts: facts | {"model": facts["model"] | {"cell": "lstmp"}}, "layers.0.weight_hh_l0 is (24, 6)"),
        (lambda facts: facts | {"model": facts["model"] | {"proj_size": 3}}, "and lstm has no projection"),
        (lambda facts: facts | {"model": facts["model"] | {"cell": "lstmp", "proj_size": 10**30}}, "proj_size is 1000"),
        (lambda facts: facts | {"model": facts["model"] | {"forget_bias": "high"}}, "forget_bias is 'high'"),
        (lambda facts: facts | {"model": facts["model"] | {"forget_bias": 10**400}}, ""),
        (lambda facts: facts | {"model": facts["model"] | {"layers": 1}}, "belongs to no network like this"),
        (lambda facts: facts | {"model": facts["model"] | {"layers": 3}}, "layers.2.bias_ih_l0 is missing"),
        (
            lambda facts: facts | {"model": facts["model"] | {"layers": 10**9}},
            "layers is 1000000000, and 1000 is the most",
        ),
        (lambda facts: facts | {"model": facts["model"] | {"layers": 999}}, "it says that it has 999 layers"),
        (lambda facts: facts | {"model": facts["model"] | {"forget_bias": float("nan")}}, "forget_bias is nan"),
        (lambda facts: facts | {"step": -1}, "its step is -1"),
        (lambda facts: facts | {"epoch": float("inf")}, "its epoch is inf"),
        (lambda facts: facts | {"rate": 10**9}, "its rate is 1000000000"),
        (lambda facts: facts | {"model": facts["model"] | {"rnn_size": 10**6}}, "and has to be"),
        (lambda facts: facts | {"model": facts["model"] | {"rnn_size": 10**12}}, ""),
        (lambda facts: facts | {"model": facts["model"] | {"wordvec_size": 10**30}}, ""),
        (lambda facts: facts | {"step": "12"}, "its step is '12'"),
        (lambda facts: facts | {"step": True}, "its step is True"),
        (lambda facts: facts | {"epoch": None}, "its epoch is None"),
        (lambda facts: facts | {"rate": "11025"}, "its rate is '11025'"),
        (lambda facts: facts | {"rate": 0}, "its rate is 0"),
        (lambda facts: facts | {"encoding": "alaw"}, "its encoding is 'alaw'"),
        (lambda facts: facts | {"encoding": []}, "its encoding is []"),
        (lambda facts: facts | {"val_loss": {}}, "its val_loss is {}"),
    ],
)
def test_a_description_that_makes_no_sense_is_refused(saved, change, words):
    message = sentence(rewritten(saved, change))
    assert message.startswith("FILE is not a checkpoint that this version can use: ")
    assert words in message


def test_facts_that_an_older_file_does_not_hold_have_their_defaults(saved):
    rewritten(saved, lambda facts: {name: facts[name] for name in ("format", "kind", "model", "vocab")})
    found = load(saved)
    assert (found.step, found.epoch, found.rate, found.encoding, found.val_loss) == (0, 0.0, None, None, None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors: without(tensors, "output.bias"), "output.bias is missing"),
        (lambda tensors: tensors | {"more": torch.zeros(2)}, "more belongs to no network like this"),
        (
            lambda tensors: tensors | {"output.bias": torch.zeros(8)},
            "output.bias is (8,) float32, and has to be (7,) float32",
        ),
        (lambda tensors: tensors | {"output.bias": torch.zeros(7, 1)}, "output.bias is (7, 1) float32"),
        (lambda tensors: tensors | {"output.bias": torch.zeros(7).half()}, "output.bias is (7,) float16"),
        (lambda tensors: tensors | {"output.bias": torch.zeros(7).int()}, "output.bias is (7,) int32"),
        (lambda _: {}, "layers, and holds 0 tensors"),
    ],
)
def test_tensors_that_make_no_such_network_are_named(saved, change, words):
    assert words in sentence(rewritten(saved, change_tensors=change))


def test_a_file_cut_off_anywhere_is_refused(saved):
    whole = saved.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    for size in [*range(0, header + 8, 7), *range(header, len(whole), 997), len(whole) - 1]:
        saved.write_bytes(whole[:size])
        sentence(saved)
    saved.write_bytes(whole + b"x")
    sentence(saved)


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_header_is_a_sentence_or_a_checkpoint_and_never_anything_else(tmp_path, tiny_checkpoint, data):
    path = tmp_path / "tiny.safetensors"
    save(path, tiny_checkpoint)
    content = bytearray(path.read_bytes())
    header = 8 + struct.unpack("<Q", content[:8])[0]
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, header - 1))
        content[place] = data.draw(st.sampled_from(b'0123456789{}[]",:-eE.tfn\\ \x00\xff') | st.integers(0, 255))
    path.write_bytes(content)
    try:
        load(path)
    except InputError as error:
        assert str(path) in str(error)  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017


# Written whole or not at all


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failure_in_the_middle_leaves_the_old_file(saved, tmp_path, monkeypatch, failing):
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


def streams(tiny_model, n=3):
    rng = np.random.default_rng(0)
    state = tuple(tuple(rng.normal(size=(n, 6)).astype(np.float32) for _ in range(2)) for _ in range(2))
    return Streams(state, np.arange(n, dtype=np.int64), seed=2**64 - 1, position=123)


def test_streams_come_back_bit_for_bit(tmp_path, tiny_model):
    want = streams(tiny_model)
    save_streams(tmp_path / "s", want)
    found = load_streams(tmp_path / "s", tiny_model.config)
    assert (found.seed, found.position) == (2**64 - 1, 123)
    np.testing.assert_array_equal(found.last, want.last)
    for i in range(2):
        for j in range(2):
            np.testing.assert_array_equal(found.state[i][j], want.state[i][j])


def streams_of(model, n=3):
    rng = np.random.default_rng(0)
    state = tuple(
        tuple(rng.normal(size=tuple(t.shape)).astype(np.float32) for t in layer) for layer in model.initial_state(n)
    )
    return Streams(state, np.arange(n, dtype=np.int64), seed=7, position=123)


@pytest.mark.parametrize("cell", CELLS)
def test_streams_of_every_cell_come_back_bit_for_bit(tmp_path, tiny_config, cell):
    model = build(replace(tiny_config, cell=cell), 0)
    want = streams_of(model)
    save_streams(tmp_path / "s", want)
    found = load_streams(tmp_path / "s", model.config)
    for layer, wanted in zip(found.state, want.state, strict=True):
        for array, other in zip(layer, wanted, strict=True):
            np.testing.assert_array_equal(array, other)


def test_streams_of_another_cell_are_refused_even_where_all_that_is_asked_for_is_there(tmp_path, tiny_config):
    for cell, other in [("lstm", "gru"), ("lstmor", "lstm"), ("lstm", "lstmor"), ("lstmp", "lstm"), ("rnn", "lstm")]:
        save_streams(tmp_path / "s", streams_of(build(replace(tiny_config, cell=cell), 0)))
        assert sentence(tmp_path / "s", load_streams, replace(tiny_config, cell=other)) == (
            "FILE does not fit this network: its hidden state is that of another network."
        )


def test_a_checkpoint_is_no_streams_and_streams_no_checkpoint(saved, tmp_path, tiny_model):
    save_streams(tmp_path / "s", streams(tiny_model))
    assert sentence(tmp_path / "s") == "FILE holds 'streams', and 'symbols' was wanted."
    assert sentence(saved, load_streams, tiny_model.config) == "FILE holds 'symbols', and 'streams' was wanted."


def test_streams_of_another_network_are_refused(tmp_path, tiny_model):
    save_streams(tmp_path / "s", streams(tiny_model))
    for other in (ModelConfig(7, 5, 8, 2), ModelConfig(7, 5, 6, 3), ModelConfig(7, 5, 6, 1)):
        assert sentence(tmp_path / "s", load_streams, other) == (
            "FILE does not fit this network: its hidden state is that of another network."
        )
    assert sentence(tmp_path / "s", load_streams, ModelConfig(2, 5, 6, 2)) == (
        "FILE does not fit this network: its last symbols are not those of this network."
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors: without(tensors, "last"), "it does not say its 'last'"),
        (lambda tensors: tensors | {"last": torch.zeros(3)}, "last symbols"),
        (lambda tensors: tensors | {"last": torch.zeros(3, 1, dtype=torch.int64)}, "last symbols"),
        (lambda tensors: tensors | {"last": torch.tensor(1)}, ""),
        (lambda tensors: tensors | {"last": torch.tensor([0, 1, -2])}, "last symbols"),
        (lambda tensors: tensors | {"last": torch.zeros(0, dtype=torch.int64)}, "last symbols"),
        (lambda tensors: tensors | {"last": torch.zeros(2, dtype=torch.int64)}, "hidden state"),
        (lambda tensors: tensors | {"state.1.0": torch.zeros(3, 6, dtype=torch.int32)}, "hidden state"),
        (lambda tensors: without(tensors, "state.0.1"), "hidden state"),
    ],
)
def test_streams_that_do_not_hang_together_are_refused(tmp_path, tiny_model, change, words):
    save_streams(tmp_path / "s", streams(tiny_model))
    rewritten(tmp_path / "s", change_tensors=change)
    message = sentence(tmp_path / "s", load_streams, tiny_model.config)
    assert message.startswith("FILE does not fit this network: ")
    assert words in message


@pytest.mark.parametrize("value", [-1, 2**64, 1.5, "7", None, []])
@pytest.mark.parametrize("name", ["seed", "position"])
def test_a_generators_place_that_is_none_is_refused(tmp_path, tiny_model, name, value):
    save_streams(tmp_path / "s", streams(tiny_model))
    rewritten(tmp_path / "s", lambda facts: facts | {name: value})
    assert sentence(tmp_path / "s", load_streams, tiny_model.config) == (
        f"FILE does not fit this network: its {name} is {value!r}."
    )
