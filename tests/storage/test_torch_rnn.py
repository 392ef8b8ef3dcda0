"""A converted network has the log-probabilities of torch-rnn, and other files are rejected."""

import contextlib
import json
import random
import struct

import numpy as np
import pytest
import torch_rnn_model as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from torch7_writer import Thing, dumps

import bytecodec
from bytecodec.errors import InputError
from charrnn.engines import engine
from charrnn.storage import torch_rnn
from charrnn.storage.checkpoint import load, save

TOKENS = list("zyx é\n你")
IDS = np.random.default_rng(3).integers(0, len(TOKENS), 30)
MEANS = {"lstm-2x128": 1.65928, "rnn-2x48": 2.63885, "lstm-1x40-batchnorm-dropout": 2.48753}


def scores(checkpoint, ids):
    return engine(checkpoint, "eager").score(np.asarray(ids)[None])[0]


@pytest.mark.parametrize("name", MEANS)
def test_log_probabilities_are_those_that_torch_rnn_computed(shared_torch_rnn, name, tmp_path):
    checkpoint = torch_rnn.load(shared_torch_rnn / f"{name}.t7")
    save(tmp_path / "x.safetensors", checkpoint)
    probe = (shared_torch_rnn / "probe.txt").read_text(encoding="utf-8").rstrip("\n")
    theirs = np.loadtxt(shared_torch_rnn / f"{name}.csv", delimiter=",", skiprows=1)[:, 1]
    ours = scores(load(tmp_path / "x.safetensors"), checkpoint.vocab.encode(probe))
    assert np.abs(ours - theirs).max() < 1e-4
    assert -ours.mean() == pytest.approx(MEANS[name], abs=1e-4)


def test_iterations_losses_and_dropout_are_kept(shared_torch_rnn):
    checkpoint = torch_rnn.load(shared_torch_rnn / "lstm-1x40-batchnorm-dropout.t7")
    assert (checkpoint.step, checkpoint.rate, checkpoint.encoding) == (150, 11025, "linear")
    assert checkpoint.train_loss == pytest.approx(2.58010, abs=1e-5)
    assert checkpoint.val_loss == pytest.approx(2.43142, abs=1e-5)
    assert (checkpoint.model.config.dropout, checkpoint.vocab.alphabet) == (0.2, "latin")


@pytest.mark.parametrize(
    ("cell", "sizes", "batchnorm", "dropout"),
    [
        ("lstm", (5, 6), False, 0.0),
        ("lstm", (5, 6, 6), True, 0.3),
        ("lstm", (7, 3, 3, 3), True, 0.0),
        ("rnn", (5, 6), True, 0.3),
        ("rnn", (5, 6, 6), False, 0.0),
        ("rnn", (7, 3, 3, 3), False, 0.3),
    ],
)
def test_log_probabilities_are_those_of_torch_rnns_equations(cell, sizes, batchnorm, dropout, tmp_path):
    layers = reference.layers(TOKENS, cell, sizes, batchnorm, dropout)
    checkpoint = torch_rnn.load(reference.write(tmp_path / "x.t7", TOKENS, layers, dropout))
    near = 3e-5 if cell == "rnn" else 1e-5  # rounding errors accumulate in the state of an rnn
    assert np.abs(scores(checkpoint, IDS) - reference.log_probabilities(layers, IDS)).max() < near
    config = checkpoint.model.config
    assert (config.cell, config.layers, config.dropout) == (cell, len(sizes) - 1, dropout)
    assert (config.vocab_size, config.wordvec_size, config.rnn_size) == (len(TOKENS), *sizes[:2])


def test_dropout_of_the_first_version_scales_in_evaluation(tmp_path):
    layers = reference.layers(TOKENS, sizes=(5, 6, 6), batchnorm=True, dropout=0.4)
    plain = scores(torch_rnn.load(reference.write(tmp_path / "x.t7", TOKENS, layers)), IDS)
    for layer in layers:
        layer.fields.pop("v2", None)
    scaled = scores(torch_rnn.load(reference.write(tmp_path / "x.t7", TOKENS, layers)), IDS)
    assert np.abs(scaled - reference.log_probabilities(layers, IDS)).max() < 1e-5
    assert np.abs(scaled - plain).max() > 0.1


def test_batch_normalisation_may_come_without_weights_or_keep_the_inverse_deviation(tmp_path):
    layers = reference.layers(TOKENS, sizes=(5, 6, 6), batchnorm=True)
    norms = [layer for layer in layers if layer.name == "nn.BatchNormalization"]
    for name in ("weight", "bias"):
        norms[0].fields.pop(name)
    expected = reference.log_probabilities(layers, IDS)
    assert (
        np.abs(scores(torch_rnn.load(reference.write(tmp_path / "x.t7", TOKENS, layers)), IDS) - expected).max() < 1e-5
    )
    for norm in norms:
        norm.fields["running_std"] = (norm.fields.pop("running_var") + norm.fields["eps"]) ** -0.5
    assert (
        np.abs(scores(torch_rnn.load(reference.write(tmp_path / "x.t7", TOKENS, layers)), IDS) - expected).max() < 1e-5
    )


def test_weights_in_one_storage_and_in_other_precisions_are_converted(tmp_path):
    single, double, half = (reference.layers(TOKENS, dtype=dtype) for dtype in ("f4", "f8", "f2"))
    pairs = [(reference.flattened(single, name), single) for name in ("Float", "Cuda")]
    for written, layers in [*pairs, (double, double), (half, half)]:
        checkpoint = torch_rnn.load(reference.write(tmp_path / "x.t7", TOKENS, written))
        assert np.abs(scores(checkpoint, IDS) - reference.log_probabilities(layers, IDS)).max() < 1e-5


def test_a_vocabulary_keeps_its_own_order(tmp_path):
    checkpoint = torch_rnn.load(reference.write(tmp_path / "x.t7", TOKENS, reference.layers(TOKENS)))
    assert checkpoint.vocab.characters == "".join(TOKENS)
    assert (checkpoint.vocab.alphabet, checkpoint.rate, checkpoint.encoding) == (None, None, None)
    assert (checkpoint.step, checkpoint.train_loss, checkpoint.val_loss) == (12, 1.25, 1.5)


def test_characters_of_one_alphabet_become_its_256_bytes(tmp_path):
    values = [130, 126, 128, 3, 200]
    for alphabet in bytecodec.ALPHABETS:
        tokens = list(bytecodec.encode(bytes(values), alphabet))
        layers = reference.layers(tokens)
        checkpoint = torch_rnn.load(reference.write(tmp_path / "x.t7", tokens, layers), rate=8000, mulaw=True)
        assert (checkpoint.vocab.alphabet, checkpoint.rate, checkpoint.encoding) == (alphabet, 8000, "mulaw")
        ids = np.random.default_rng(1).integers(0, len(tokens), 40)
        found = scores(checkpoint, np.array(values)[ids])
        assert np.abs(found - reference.log_probabilities(layers, ids)).max() < 1e-5


def test_a_byte_that_is_not_in_the_vocabulary_is_unlikely_and_is_read_as_the_nearest_one(tmp_path):
    values = np.array([130, 126, 3])
    tokens = list(bytecodec.encode(bytes(values.tolist())))
    layers = reference.layers(tokens)
    layers[-2].fields["weight"] *= 20  # low entropy
    checkpoint = torch_rnn.load(reference.write(tmp_path / "x.t7", tokens, layers))
    every = engine(checkpoint, "eager")
    for history in ([130, 3, 126], [3, 3, 3]):
        p = np.exp([every.score(np.array([[*history, b]]))[0, -1] for b in range(256)])
        assert p.sum() == pytest.approx(1)
        assert 0 < p[~np.isin(np.arange(256), values)].max() < 1e-9
    first, second = (scores(checkpoint, [b, 130])[0] for b in (255, 130))
    assert first == second
    assert scores(checkpoint, [127, 130])[0] == scores(checkpoint, [126, 130])[0]


def test_the_vocabulary_can_be_in_a_json_file_next_to_the_checkpoint_or_be_given(tmp_path):
    layers = reference.layers(TOKENS)
    path = reference.write(tmp_path / "x.t7", TOKENS, layers, idx_to_token=None)
    vocabulary = json.dumps({"idx_to_token": {str(i + 1): token for i, token in enumerate(TOKENS)}, "token_to_idx": {}})
    (tmp_path / "other.json").write_text(vocabulary)
    assert torch_rnn.load(path, str(tmp_path / "other.json")).vocab.characters == "".join(TOKENS)
    (tmp_path / "x.json").write_text('{"train_loss_history": []}')  # as torch-rnn writes it beside each checkpoint
    with pytest.raises(InputError, match=r"--vocab.*'tiny\.json'"):
        torch_rnn.load(path)
    (tmp_path / "x.json").write_text(vocabulary)
    assert torch_rnn.load(path).vocab.characters == "".join(TOKENS)


def test_another_json_file_is_rejected(tmp_path):
    path = reference.write(tmp_path / "x.t7", TOKENS, reference.layers(TOKENS))
    for text in ("", "[", "[" * 100_000, '{"idx_to_token": {"x": "a"}}', "\udcff", "{}"):
        (tmp_path / "v.json").write_text(text, errors="surrogateescape")
        with pytest.raises(InputError, match=r"v\.json"):
            torch_rnn.load(path, str(tmp_path / "v.json"))


def without(layers, name):
    return [layer for layer in layers if layer.name != name]


def changed(layers, i, **fields):
    layer = layers[i]
    return [*layers[:i], Thing(layer.name, {**layer.fields, **fields}), *layers[i + 1 :]]


LAYERS = reference.layers(TOKENS)


def test_layers_that_do_not_make_a_network_are_rejected(tmp_path):
    cases = [
        ([], "list of layers"),
        ([*LAYERS] * 200, "1,200 layers"),
        (LAYERS[1:], "'nn.LookupTable'"),
        (without(LAYERS, "nn.Linear"), "its layers are nn.LookupTable, nn.LSTM"),
        (without(LAYERS, "nn.LSTM"), "nn.Linear"),
        ([*LAYERS, LAYERS[1]], "after 'nn.Linear'"),
        ([LAYERS[0], Thing("nn.GRU"), *LAYERS[1:]], "'nn.GRU'"),
        ([LAYERS[0], Thing("nn.Dropout"), *LAYERS[1:]], "the p of its nn.Dropout"),
        ([LAYERS[0], *reference.layers(TOKENS, "rnn", (5, 6))[1:2], *LAYERS[2:]], "nn.VanillaRNN"),
        (changed(LAYERS, 1, weight=np.ones((11, 24), "i4")), "the weight of its nn.LSTM"),
        (changed(LAYERS, 1, weight=np.ones((12, 24), "f4")), r"must be \(11, 24\)"),
        (changed(LAYERS, 1, bias=np.ones(25, "f4"), weight=np.ones((11, 25), "f4")), "25 numbers for 4 gates"),
        (changed(LAYERS, 1, weight=np.full((11, 24), np.nan, "f4")), "finite"),
        (changed(LAYERS, 1, weight=np.full((11, 24), 1e300)), "finite"),
        (changed(LAYERS, 0, weight=np.ones((6, 5), "f4")), "6 symbols, its vocabulary 7"),
    ]
    for layers, key in cases:
        path = reference.write(tmp_path / "x.t7", TOKENS, layers)
        with pytest.raises(InputError, match=rf"x\.t7.*{key}"):
            torch_rnn.load(path)


def test_layers_that_share_their_weights_cannot_be_larger_than_the_file(tmp_path):
    layers = reference.layers(TOKENS, sizes=(40, 40, 40))
    many = [layers[0], *[layers[2]] * 500, *layers[3:]]
    with pytest.raises(InputError, match="share"):
        torch_rnn.load(reference.write(tmp_path / "x.t7", TOKENS, many))


def test_a_matrix_with_too_many_columns_is_rejected(tmp_path):
    tokens = ["⠀"]
    layers = reference.layers(tokens, sizes=(300_000, 1))
    with pytest.raises(InputError, match="too large"):
        torch_rnn.load(reference.write(tmp_path / "x.t7", tokens, layers))


def test_a_symbol_that_is_not_one_character_is_rejected(tmp_path):
    for token in ("", "ab", b"\xff", b"\xed\xa0\x80", 7.0, None):
        tokens = reference.table([*TOKENS[:-1], token])
        path = reference.write(tmp_path / "x.t7", TOKENS, LAYERS, idx_to_token=tokens)
        with pytest.raises(InputError, match="symbol 7 "):
            torch_rnn.load(path)


def test_an_impossible_model_is_rejected(tmp_path):
    cases = [
        ({"idx_to_token": reference.table([*TOKENS[:-1], "z"])}, "two symbols"),
        ({"idx_to_token": {0.0: "a", 1.0: "b"}}, "symbol 2 is missing"),
        ({"idx_to_token": {}}, "no vocabulary"),
        ({"idx_to_token": 7.0}, "no vocabulary"),
        ({"net": None}, "list of layers"),
        ({"dropout": 1.5}, "dropout is 1.5"),
        ({"dropout": "x"}, "dropout is 'x'"),
    ]
    for fields, key in cases:
        with pytest.raises(InputError, match=key):
            torch_rnn.load(reference.write(tmp_path / "x.t7", TOKENS, LAYERS, **fields))


def test_a_file_of_another_program_is_rejected(tmp_path):
    for thing in (7.0, {"x": "y"}, {"model": {"x": "y"}}, {"model": Thing("nn.Sequential")}):
        (tmp_path / "x.t7").write_bytes(dumps(thing))
        with pytest.raises(InputError, match=r"x\.t7.*torch-rnn"):
            torch_rnn.load(tmp_path / "x.t7")


def test_without_histories_the_losses_are_unknown(tmp_path):
    thing = reference.checkpoint(TOKENS, LAYERS)
    for name in ("i", "train_loss_history"):
        del thing[name]
    thing["val_loss_history"] = {1.0: float("nan")}
    (tmp_path / "x.t7").write_bytes(dumps(thing))
    checkpoint = torch_rnn.load(tmp_path / "x.t7")
    assert (checkpoint.step, checkpoint.train_loss, checkpoint.val_loss) == (12, None, None)
    save(tmp_path / "x.safetensors", checkpoint)
    assert load(tmp_path / "x.safetensors").val_loss is None


@settings(max_examples=150)
@given(st.integers(0, 2**32), st.integers(1, 5))
def test_a_damaged_checkpoint_is_converted_or_rejected(tmp_path, seed, count):
    dice = random.Random(seed)
    data = bytearray(
        dumps(reference.checkpoint(TOKENS, reference.layers(TOKENS, sizes=(2, 2), batchnorm=True, dropout=0.5)))
    )
    for _ in range(count):
        at = dice.randrange(len(data) // 4 - 2) * 4
        data[at : at + 4] = struct.pack("<i", dice.choice([-1, *range(10), dice.randrange(2**31), 2**31 - 1]))
    (tmp_path / "x.t7").write_bytes(data)
    with contextlib.suppress(InputError):
        torch_rnn.load(tmp_path / "x.t7")
