"""The network has torch-rnn's shape, loss and initial values, and keeps no state."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from charrnn.models.cells import CELLS
from charrnn.models.char_rnn import CharRNN, build, detach, one_hot_embedding
from charrnn.models.config import ModelConfig

every_cell = pytest.mark.parametrize("cell", CELLS)


def symbols(n, t, seed=0, vocab_size=7):
    return torch.randint(vocab_size, (n, t), generator=torch.Generator().manual_seed(seed))


def test_shapes_of_logits_and_state(tiny_model):
    logits, state = tiny_model(symbols(3, 4), tiny_model.initial_state(3))
    assert logits.shape == (3, 4, 7)
    assert [[tuple(t.shape) for t in layer] for layer in state] == [[(3, 6), (3, 6)]] * 2


@pytest.mark.parametrize(
    ("cell", "shapes"),
    [
        ("lstmp", [[(4, 3), (4, 6)]] * 2),
        ("lstmor", [[(4, 6), (4, 6)]] * 2 + [[(4, 7)]]),
        ("gru", [[(4, 6)]] * 2),
        ("rnn", [[(4, 6)]] * 2),
    ],
)
def test_the_state_has_an_entry_a_layer_and_one_of_a_recurrent_output(tiny_config, cell, shapes):
    model = build(replace(tiny_config, cell=cell), 0)
    logits, state = model(symbols(4, 3), model.initial_state(4))
    assert logits.shape == (4, 3, 7)
    for layers in (state, model.initial_state(4)):
        assert [[tuple(t.shape) for t in layer] for layer in layers] == shapes


def test_the_loss_is_the_mean_cross_entropy_worked_out_by_hand(tiny_model):
    x, y = symbols(3, 4), symbols(3, 4, seed=1)
    loss, _ = tiny_model.loss(x, y, tiny_model.initial_state(3))
    logits = tiny_model(x, tiny_model.initial_state(3))[0].detach().double().numpy()
    nats = [
        math.log(sum(math.exp(v) for v in logits[n, t])) - logits[n, t, y[n, t]] for n in range(3) for t in range(4)
    ]
    assert loss.item() == pytest.approx(sum(nats) / 12, rel=1e-6)


def test_a_normalised_layer_hands_on_mean_zero_and_deviation_one_by_gain_and_bias(tiny_config):
    model = build(replace(tiny_config, layer_norm=True), 0).double()
    for parameter in model.norms.parameters():
        torch.nn.init.normal_(parameter, 1.0, 0.5)
    ids, state = symbols(3, 1), model.initial_state(3)
    x = model.embedding(ids[:, 0])
    for layer, norm, before in zip(model.layers, model.norms, state, strict=True):
        y = layer.step(x, before)[0].detach().numpy()
        normal = (y - y.mean(1, keepdims=True)) / np.sqrt(y.var(1, keepdims=True) + 1e-5)
        x = torch.from_numpy(normal * norm.weight.detach().numpy() + norm.bias.detach().numpy())
    logits, after = model(ids, state)
    torch.testing.assert_close(logits[:, 0], model.output(x))
    plain = CharRNN(tiny_config).double()
    plain.load_state_dict(model.state_dict(), strict=False)
    torch.testing.assert_close(after[0], plain(ids, state)[1][0])  # what a layer feeds back is not normalised


@pytest.mark.parametrize("layer_norm", [False, True])
@every_cell
def test_a_step_is_a_sequence_of_one(tiny_config, cell, layer_norm):
    model = build(replace(tiny_config, cell=cell, layer_norm=layer_norm), 0)
    with torch.no_grad():
        for parameter in model.output.parameters():
            parameter.normal_(0, 0.3)  # a feedback that is still zero could be left out unseen
    x, state = symbols(3, 5), model.initial_state(3)
    whole, end = model(x, state)
    for t in range(5):
        logits, state = model.step(x[:, t], state)
        torch.testing.assert_close(logits, whole[:, t], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(state, end, atol=1e-6, rtol=1e-5)


def test_initial_values_are_torch_rnns():
    model = build(ModelConfig(vocab_size=400, wordvec_size=300, rnn_size=250, layers=2), seed=3)
    embedding = model.embedding.weight
    assert embedding.std().item() == pytest.approx(1, rel=0.01)
    assert embedding.mean().item() == pytest.approx(0, abs=0.01)
    assert embedding.abs().max().item() > 4  # normal
    for tensor in (model.output.weight, model.output.bias):
        bound = 250**-0.5
        assert 0.98 * bound < tensor.abs().max().item() <= bound
        assert tensor.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)  # uniform
    assert model.layers[0].weight_ih_l0.std().item() == pytest.approx((300 + 250) ** -0.5, rel=0.01)
    assert model.layers[1].weight_ih_l0.std().item() == pytest.approx((250 + 250) ** -0.5, rel=0.01)


def test_the_same_seed_makes_the_same_network_and_another_one_another(tiny_config):
    one, two, other = (build(tiny_config, seed).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["embedding.weight"], other["embedding.weight"])


def test_building_a_network_leaves_the_global_generator_alone(tiny_config):
    torch.manual_seed(0)
    want = torch.rand(3)
    torch.manual_seed(0)
    build(tiny_config, 9)
    assert torch.equal(torch.rand(3), want)


@pytest.mark.parametrize(
    ("cell", "layers_and_output"),
    [
        ("lstm", (5 + 6 + 1) * 24 + (6 + 6 + 1) * 24 + 6 * 7 + 7),
        ("lstmp", (5 + 3 + 1) * 24 + 6 * 3 + (3 + 3 + 1) * 24 + 6 * 3 + 3 * 7 + 7),
        ("lstmor", (5 + 6 + 1) * 24 + (6 + 6 + 1) * 24 + 6 * 7 + 7 + 7 * 7),
        ("gru", (5 + 6 + 2) * 18 + (6 + 6 + 2) * 18 + 6 * 7 + 7),
        ("rnn", (5 + 6 + 1) * 6 + (6 + 6 + 1) * 6 + 6 * 7 + 7),
    ],
)
def test_it_counts_the_numbers_that_it_learns(tiny_config, cell, layers_and_output):
    model = build(replace(tiny_config, cell=cell), 0)
    assert model.number_of_parameters() == 7 * 5 + layers_and_output


def test_an_untrained_lstmor_is_the_lstm_of_the_same_seed(tiny_config):
    plain, fed_back = build(tiny_config, 3), build(replace(tiny_config, cell="lstmor"), 3)
    x = symbols(3, 9)
    want, got = (model(x, model.initial_state(3))[0] for model in (plain, fed_back))
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-6)


def test_a_uniform_forget_bias_reaches_every_layer(tiny_config):
    model = build(replace(tiny_config, forget_bias="uniform"), 3)
    biases = torch.cat([layer.bias_ih_l0[6:12] for layer in model.layers])
    assert len(set(biases.tolist())) == 12
    assert ((biases >= 0) & (biases < 1)).all()


@pytest.mark.parametrize(("units", "projection"), [(6, 3), (7, 3), (2, 1)])
def test_a_projection_is_half_the_units_unless_it_is_said(units, projection):
    config = ModelConfig(7, 5, units, 2, "lstmp")
    assert config.proj_size == projection
    assert build(config, 0).layers[1].weight_ih_l0.shape == (4 * units, projection)
    assert ModelConfig(7, 5, 6, 2, "lstmp", proj_size=5).proj_size == 5
    assert ModelConfig(7, 5, 6, 2).proj_size is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cell": "lstm", "proj_size": 3}, "proj_size is 3, and lstm has no projection"),
        ({"cell": "gru", "proj_size": 0}, "proj_size is 0, and gru has no projection"),
        ({"cell": "lstmp", "proj_size": 0}, "proj_size is 0, and must be a whole number from 1 to less than rnn_"),
        ({"cell": "lstmp", "proj_size": 6, "rnn_size": 6}, "proj_size is 6, and must be a whole number from 1 to"),
        ({"cell": "lstmp", "proj_size": True}, "proj_size is True, and must be a whole number from 1 to less than"),
        ({"cell": "lstmp", "proj_size": "3"}, "proj_size is '3', and must be a whole number from 1 to less than"),
        ({"cell": "lstmp", "rnn_size": 1}, "proj_size is 1, and must be a whole number from 1 to less than rnn_size"),
    ],
)
def test_a_projection_that_makes_no_network_is_refused(fields, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 -- the whole sentence is compared
        ModelConfig(7, **fields)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("vocab_size", 0, "vocab_size is 0, and must be a whole number of 1 or more"),
        ("rnn_size", 2.5, "rnn_size is 2.5, and must be a whole number of 1 or more"),
        ("layers", True, "layers is True, and must be a whole number of 1 or more"),
        ("wordvec_size", "8", "wordvec_size is '8', and must be a whole number of 1 or more"),
        ("cell", "gated", "cell is 'gated', and must be one of lstm"),
        ("cell", ["lstm"], "cell is ['lstm'], and must be one of lstm"),
        ("dropout", 1, "dropout is 1, and must be at least 0 and less than 1"),
        ("dropout", -0.1, "dropout is -0.1, and must be at least 0 and less than 1"),
        ("dropout", math.nan, "dropout is nan, and must be at least 0 and less than 1"),
        ("dropout", None, "dropout is None, and must be at least 0 and less than 1"),
        ("forget_bias", "normal", "forget_bias is 'normal', and must be a number within 1e30, or 'uniform'"),
        ("forget_bias", "1", "forget_bias is '1', and must be a number within 1e30, or 'uniform'"),
    ],
)
def test_a_configuration_that_makes_no_network_is_refused_with_its_value(field, value, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 -- the whole sentence is compared
        ModelConfig(**{"vocab_size": 7, field: value})
    assert str(caught.value).startswith(message)


@every_cell
def test_a_configuration_comes_back_from_json(tiny_config, cell):
    config = replace(tiny_config, cell=cell)
    assert ModelConfig(**json.loads(json.dumps(config.to_json()))) == config


def test_dropout_acts_in_training_alone():
    model = build(ModelConfig(7, 5, 6, 2, dropout=0.5), 0)
    x, state = symbols(3, 9), model.initial_state(3)
    model.train()
    assert not torch.equal(model(x, state)[0], model(x, state)[0])
    model.eval()
    torch.testing.assert_close(model(x, state)[0], model(x, state)[0], atol=0, rtol=0)
    plain = build(ModelConfig(7, 5, 6, 2), 0)
    torch.testing.assert_close(model(x, state)[0], plain.train()(x, state)[0], atol=0, rtol=0)


def test_dropout_leaves_the_carried_state_alone():
    """As in torch-rnn it lies between the layers and after the last, not in the recurrence."""
    model = build(ModelConfig(7, 5, 6, 1, dropout=0.5), 0)
    x, state = symbols(3, 9), model.initial_state(3)
    torch.testing.assert_close(model.train()(x, state)[1], model.eval()(x, state)[1], atol=0, rtol=0)


@every_cell
def test_two_interleaved_streams_do_not_disturb_each_other(tiny_config, cell):
    tiny_model = build(replace(tiny_config, cell=cell), 0)
    a, b = symbols(2, 12, seed=1), symbols(2, 12, seed=2)
    alone = [tiny_model(x, tiny_model.initial_state(2))[0] for x in (a, b)]
    states = [tiny_model.initial_state(2)] * 2
    outputs = [[], []]
    for t in range(0, 12, 4):
        for k, x in enumerate((a, b)):
            logits, states[k] = tiny_model(x[:, t : t + 4], states[k])
            outputs[k].append(logits)
    for k in range(2):
        torch.testing.assert_close(torch.cat(outputs[k], dim=1), alone[k], atol=1e-6, rtol=1e-5)


def test_no_gradient_flows_through_a_detached_state(tiny_model):
    _, state = tiny_model(symbols(2, 3), tiny_model.initial_state(2))
    assert all(t.requires_grad for layer in state for t in layer)
    cut = detach(state)
    assert not any(t.requires_grad for layer in cut for t in layer)
    torch.testing.assert_close(cut, state, atol=0, rtol=0)


def test_a_network_of_one_symbol_has_nothing_to_learn():
    model = CharRNN(ModelConfig(1, 2, 3, 1))
    zeros = torch.from_numpy(np.zeros((2, 5), dtype=np.int64))
    assert model.loss(zeros, zeros, model.initial_state(2))[0].item() == 0


def test_a_smooth_network_begins_with_neighbours_alike_and_the_deviations_of_any_other():
    config = ModelConfig(vocab_size=256, wordvec_size=300, rnn_size=250, layers=1)
    smooth, other = build(config, 3, smooth=True), build(config, 3)
    for name in ("embedding", "output"):
        rows, plain = (getattr(model, name).weight.detach() for model in (smooth, other))
        assert rows.std().item() == pytest.approx(plain.std().item(), rel=0.1)
        steps = (rows[1:] - rows[:-1]).norm(dim=1) / (plain[1:] - plain[:-1]).norm(dim=1)
        assert steps.max() < 0.25  # of how far apart independent rows are
        assert torch.corrcoef(rows[[0, 255]])[0, 1].abs() < 0.2  # and the ends have nothing to do with each other
    same = [p for name, p in smooth.named_parameters() if name.startswith("layers")]
    for p, q in zip(same, other.layers.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=0, rtol=0)


def test_a_smooth_start_hangs_on_the_seed_alone(tiny_config):
    one, two, three = (build(tiny_config, seed, smooth=True).embedding.weight for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, three)


def test_an_embedding_as_a_product_of_one_hot_rows_is_the_embedding():
    ids = torch.tensor([[0, 2, 2], [6, 1, 0]])
    weight = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found, wanted = one_hot_embedding(ids, weight), torch.nn.functional.embedding(ids, weight)
    assert torch.equal(found, wanted)
    upstream = torch.arange(30.0).view(2, 3, 5)
    (one,), (other,) = (torch.autograd.grad(y, weight, upstream) for y in (found, wanted))
    assert torch.equal(one, other)
