"""torch-rnn's networks give the same log-probabilities here as there."""

import contextlib
import json
import random
import struct

import numpy as np
import pytest
import torch_rnn_model as there
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
def test_log_probabilities_are_those_that_torch_rnn_itself_computes(shared_torch_rnn, name, tmp_path):
    checkpoint = torch_rnn.load(shared_torch_rnn / f"{name}.t7")
    save(tmp_path / "x.safetensors", checkpoint)
    probe = (shared_torch_rnn / "probe.txt").read_text(encoding="utf-8").rstrip("\n")
    theirs = np.loadtxt(shared_torch_rnn / f"{name}.csv", delimiter=",", skiprows=1)[:, 1]
    ours = scores(load(tmp_path / "x.safetensors"), checkpoint.vocab.encode(probe))
    assert np.abs(ours - theirs).max() < 1e-4
    assert -ours.mean() == pytest.approx(MEANS[name], abs=1e-4)


def test_what_torch_rnn_knows_of_its_network_is_kept(shared_torch_rnn):
    checkpoint = torch_rnn.load(shared_torch_rnn / "lstm-1x40-batchnorm-dropout.t7")
    assert (checkpoint.step, checkpoint.rate, checkpoint.encoding) == (150, 11025, "linear")
    assert checkpoint.train_loss == pytest.approx(2.58010, abs=1e-5)
    assert checkpoint.val_loss == pytest.approx(2.43142, abs=1e-5)
    assert (checkpoint.model.config.dropout, checkpoint.vocab.alphabet) == (0.2, "latin")


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("batchnorm", [False, True])
@pytest.mark.parametrize("sizes", [(5, 6), (5, 6, 6), (7, 3, 3, 3)])
@pytest.mark.parametrize("cell", ["lstm", "rnn"])
def test_log_probabilities_are_those_of_torch_rnns_equations(cell, sizes, batchnorm, dropout, tmp_path):
    layers = there.layers(TOKENS, cell, sizes, batchnorm, dropout)
    checkpoint = torch_rnn.load(there.write(tmp_path / "x.t7", TOKENS, layers, dropout))
    near = 3e-5 if cell == "rnn" else 1e-5  # whose state forgets no rounding
    assert np.abs(scores(checkpoint, IDS) - there.log_probabilities(layers, IDS)).max() < near
    config = checkpoint.model.config
    assert (config.cell, config.layers, config.dropout) == (cell, len(sizes) - 1, dropout)
    assert (config.vocab_size, config.wordvec_size, config.rnn_size) == (len(TOKENS), *sizes[:2])


def test_dropout_of_the_first_version_scales_in_evaluation(tmp_path):
    layers = there.layers(TOKENS, sizes=(5, 6, 6), batchnorm=True, dropout=0.4)
    plain = scores(torch_rnn.load(there.write(tmp_path / "x.t7", TOKENS, layers)), IDS)
    for layer in layers:
        layer.fields.pop("v2", None)
    scaled = scores(torch_rnn.load(there.write(tmp_path / "x.t7", TOKENS, layers)), IDS)
    assert np.abs(scaled - there.log_probabilities(layers, IDS)).max() < 1e-5
    assert np.abs(scaled - plain).max() > 0.1


def test_batch_normalisation_may_come_without_weights_or_keep_the_inverse_deviation(tmp_path):
    layers = there.layers(TOKENS, sizes=(5, 6, 6), batchnorm=True)
    norms = [layer for layer in layers if layer.name == "nn.BatchNormalization"]
    for name in ("weight", "bias"):
        norms[0].fields.pop(name)
    wanted = there.log_probabilities(layers, IDS)
    assert np.abs(scores(torch_rnn.load(there.write(tmp_path / "x.t7", TOKENS, layers)), IDS) - wanted).max() < 1e-5
    for norm in norms:
        norm.fields["running_std"] = (norm.fields.pop("running_var") + norm.fields["eps"]) ** -0.5
    assert np.abs(scores(torch_rnn.load(there.write(tmp_path / "x.t7", TOKENS, layers)), IDS) - wanted).max() < 1e-5


@pytest.mark.parametrize("name", ["Float", "Cuda", "Cl"])
def test_weights_that_lie_in_one_storage_are_taken_from_it(name, tmp_path):
    layers = there.layers(TOKENS)
    checkpoint = torch_rnn.load(there.write(tmp_path / "x.t7", TOKENS, there.flattened(layers, name)))
    assert np.abs(scores(checkpoint, IDS) - there.log_probabilities(layers, IDS)).max() < 1e-5


@pytest.mark.parametrize("dtype", ["f8", "f2"])
def test_weights_of_other_precision_become_single(dtype, tmp_path):
    layers = there.layers(TOKENS, dtype=dtype)
    checkpoint = torch_rnn.load(there.write(tmp_path / "x.t7", TOKENS, layers))
    assert np.abs(scores(checkpoint, IDS) - there.log_probabilities(layers, IDS)).max() < 1e-5


def test_a_vocabulary_keeps_its_own_order(tmp_path):
    checkpoint = torch_rnn.load(there.write(tmp_path / "x.t7", TOKENS, there.layers(TOKENS)))
    assert checkpoint.vocab.characters == "".join(TOKENS)
    assert (checkpoint.vocab.alphabet, checkpoint.rate, checkpoint.encoding) == (None, None, None)
    assert (checkpoint.step, checkpoint.train_loss, checkpoint.val_loss) == (12, 1.25, 1.5)


@pytest.mark.parametrize("alphabet", bytecodec.ALPHABETS)
def test_characters_of_one_alphabet_become_its_256_bytes(alphabet, tmp_path):
    known = [130, 126, 128, 3, 200]
    tokens = list(bytecodec.encode(bytes(known), alphabet))
    layers = there.layers(tokens)
    checkpoint = torch_rnn.load(there.write(tmp_path / "x.t7", tokens, layers), rate=8000, mulaw=True)
    assert (checkpoint.vocab.alphabet, checkpoint.rate, checkpoint.encoding) == (alphabet, 8000, "mulaw")
    ids = np.random.default_rng(1).integers(0, len(tokens), 40)
    ours = scores(checkpoint, np.array(known)[ids])
    assert np.abs(ours - there.log_probabilities(layers, ids)).max() < 1e-5


def test_a_byte_that_it_never_saw_is_unlikely_but_not_out_of_reach_and_read_as_the_nearest(tmp_path):
    known = np.array([130, 126, 3])
    tokens = list(bytecodec.encode(bytes(known.tolist())))
    layers = there.layers(tokens)
    layers[-2].fields["weight"] *= 20  # a sure network
    checkpoint = torch_rnn.load(there.write(tmp_path / "x.t7", tokens, layers))
    every = engine(checkpoint, "eager")
    for history in ([130, 3, 126], [3, 3, 3]):
        p = np.exp([every.score(np.array([[*history, b]]))[0, -1] for b in range(256)])
        assert p.sum() == pytest.approx(1)
        assert 0 < p[~np.isin(np.arange(256), known)].max() < 1e-9
    first, second = (scores(checkpoint, [b, 130])[0] for b in (255, 130))
    assert first == second
    assert scores(checkpoint, [127, 130])[0] == scores(checkpoint, [126, 130])[0]


def test_the_vocabulary_may_lie_beside_the_checkpoint_or_be_named(tmp_path):
    layers = there.layers(TOKENS)
    path = there.write(tmp_path / "x.t7", TOKENS, layers, idx_to_token=None)
    vocabulary = json.dumps({"idx_to_token": {str(i + 1): token for i, token in enumerate(TOKENS)}, "token_to_idx": {}})
    (tmp_path / "other.json").write_text(vocabulary)
    assert torch_rnn.load(path, str(tmp_path / "other.json")).vocab.characters == "".join(TOKENS)
    (tmp_path / "x.json").write_text('{"train_loss_history": []}')  # as torch-rnn writes it beside each checkpoint
    with pytest.raises(InputError, match=r"give the \.json .* with --vocab, which is called 'tiny.json' there\.$"):
        torch_rnn.load(path)
    (tmp_path / "x.json").write_text(vocabulary)
    assert torch_rnn.load(path).vocab.characters == "".join(TOKENS)


@pytest.mark.parametrize("text", ["", "[", "[" * 100_000, '{"idx_to_token": {"x": "a"}}', "\udcff"])
def test_a_foreign_json_is_refused(text, tmp_path):
    path = there.write(tmp_path / "x.t7", TOKENS, there.layers(TOKENS))
    (tmp_path / "v.json").write_text(text, errors="surrogateescape")
    with pytest.raises(InputError, match=r"v\.json is not as torch-rnn's preprocess\.py writes a vocabulary\.$"):
        torch_rnn.load(path, str(tmp_path / "v.json"))
    (tmp_path / "v.json").write_text("{}")
    with pytest.raises(InputError, match=r"v\.json has no idx_to_token"):
        torch_rnn.load(path, str(tmp_path / "v.json"))


def without(layers, name):
    return [layer for layer in layers if layer.name != name]


def changed(layers, place, **fields):
    layer = layers[place]
    return [*layers[:place], Thing(layer.name, {**layer.fields, **fields}), *layers[place + 1 :]]


LAYERS = there.layers(TOKENS)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([], "its model has no list of layers"),
        ([7.0, *LAYERS], "its model has no list of layers"),
        ([*LAYERS] * 200, "it has 1,200 layers, and 1,000 are the most"),
        (LAYERS[1:], "its first layer is 'nn.LSTM', and not 'nn.LookupTable'"),
        (without(LAYERS, "nn.Linear"), "its layers are nn.LookupTable, nn.LSTM, nn.LSTM, nn.View, nn.View"),
        (without(LAYERS, "nn.LSTM"), "of its nn.Linear is"),
        ([*LAYERS, LAYERS[1]], "it has layers after 'nn.Linear'"),
        ([LAYERS[0], Thing("nn.GRU"), *LAYERS[1:]], "it has a layer of class 'nn.GRU', and charrnn has none like it"),
        ([LAYERS[0], Thing("cudnn.LSTM"), *LAYERS[1:]], "it has a layer of class 'cudnn.LSTM'"),
        (changed(LAYERS, 1, weight=None), "the weight of its nn.LSTM is missing"),
        (
            changed(LAYERS, 1, weight=np.ones((11, 24), "i4")),
            "the weight of its nn.LSTM is missing, or of an unknown form",
        ),
        (
            changed(LAYERS, 1, weight=np.ones((12, 24), "f4")),
            r"is \(12, 24\), and not \(11, 24\) as its neighbours want",
        ),
        (changed(LAYERS, 1, bias=np.ones(28, "f4")), r"is \(11, 24\), and not \(12, 28\) as its neighbours want"),
        (
            changed(LAYERS, 1, bias=np.ones(25, "f4"), weight=np.ones((11, 25), "f4")),
            "the bias of its nn.LSTM has 25 numbers for 4 gates",
        ),
        (changed(LAYERS, 1, weight=np.full((11, 24), np.nan, "f4")), "its weights are not all finite numbers"),
        (changed(LAYERS, 1, weight=np.full((11, 24), 1e300)), "its weights are not all finite numbers"),
        (changed(LAYERS, 0, weight=np.ones((6, 5), "f4")), "the network has 6 symbols, its vocabulary 7"),
        (
            [LAYERS[0], *there.layers(TOKENS, "rnn", (5, 6))[1:2], *LAYERS[2:]],
            "its layers are nn.LookupTable, nn.VanillaRNN",
        ),
        ([LAYERS[0], Thing("nn.Dropout"), *LAYERS[1:]], "the p of its nn.Dropout is missing"),
    ],
)
def test_layers_that_make_no_network_are_refused_in_a_sentence(layers, words, tmp_path):
    path = there.write(tmp_path / "x.t7", TOKENS, layers)
    with pytest.raises(InputError, match=rf"x\.t7 cannot be converted: .*({words})"):
        torch_rnn.load(path)


def test_a_few_numbers_that_many_layers_share_are_no_large_network(tmp_path):
    layers = there.layers(TOKENS, sizes=(40, 40, 40))
    many = [layers[0], *[layers[2]] * 500, *layers[3:]]
    with pytest.raises(InputError, match="its layers share their weights, and together are larger than the file"):
        torch_rnn.load(there.write(tmp_path / "x.t7", TOKENS, many))


def test_an_embedding_that_would_not_fit_is_refused(tmp_path):
    tokens = ["⠀"]
    layers = there.layers(tokens, sizes=(300_000, 1))
    with pytest.raises(InputError, match="which is too large"):
        torch_rnn.load(there.write(tmp_path / "x.t7", tokens, layers))


@pytest.mark.parametrize("token", ["", "ab", "[200]", b"\xff", b"\xed\xa0\x80", 7.0, None])
def test_a_symbol_that_is_not_one_character_is_refused(token, tmp_path):
    path = there.write(tmp_path / "x.t7", TOKENS, LAYERS, idx_to_token=there.table([*TOKENS[:-1], token]))
    with pytest.raises(
        InputError, match=r"its symbol 7 is .*, and has to be one character; preprocess\.py makes others"
    ):
        torch_rnn.load(path)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"idx_to_token": there.table([*TOKENS[:-1], "z"])}, "two symbols of its vocabulary are the same"),
        ({"idx_to_token": {0.0: "a", 1.0: "b"}}, "its symbol 2 is missing"),
        ({"idx_to_token": {}}, "it has no vocabulary"),
        ({"idx_to_token": 7.0}, "it has no vocabulary"),
        ({"net": None}, "its model has no list of layers"),
        ({"dropout": 1.5}, "dropout is 1.5, and has to be"),
        ({"dropout": "x"}, "dropout is 'x', and has to be"),
    ],
)
def test_a_model_that_makes_no_sense_is_refused_in_a_sentence(fields, words, tmp_path):
    with pytest.raises(InputError, match=rf"x\.t7 cannot be converted: {words}"):
        torch_rnn.load(there.write(tmp_path / "x.t7", TOKENS, LAYERS, **fields))


@pytest.mark.parametrize("thing", [7.0, {"x": "y"}, {"model": {"x": "y"}}, {"model": Thing("nn.Sequential")}])
def test_another_programs_file_is_refused(thing, tmp_path):
    (tmp_path / "x.t7").write_bytes(dumps(thing))
    with pytest.raises(InputError, match=r"x\.t7 cannot be converted: it holds no network of torch-rnn's"):
        torch_rnn.load(tmp_path / "x.t7")


def test_without_histories_the_losses_are_unknown(tmp_path):
    thing = there.checkpoint(TOKENS, LAYERS)
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
def test_a_damaged_checkpoint_is_converted_or_refused(tmp_path, seed, count):
    dice = random.Random(seed)
    data = bytearray(dumps(there.checkpoint(TOKENS, there.layers(TOKENS, sizes=(2, 2), batchnorm=True, dropout=0.5))))
    for _ in range(count):
        at = dice.randrange(len(data) // 4 - 2) * 4
        data[at : at + 4] = struct.pack("<i", dice.choice([-1, *range(10), dice.randrange(2**31), 2**31 - 1]))
    (tmp_path / "x.t7").write_bytes(data)
    with contextlib.suppress(InputError):
        torch_rnn.load(tmp_path / "x.t7")
