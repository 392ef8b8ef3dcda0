"""The character network has torch-rnn's architecture, loss and initial values, and keeps no state."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from charrnn.models.cells import CELLS
from charrnn.models.char_rnn import CharRNN, build, one_hot_embedding
from charrnn.models.config import ModelConfig

every_cell = pytest.mark.parametrize("cell", CELLS)


def symbols(n, t, seed=0, vocab_size=7):
    return torch.randint(vocab_size, (n, t), generator=torch.Generator().manual_seed(seed))


def test_the_loss_is_the_mean_cross_entropy(tiny_model):
    x, y = symbols(3, 4), symbols(3, 4, seed=1)
    loss, _ = tiny_model.loss(x, y, tiny_model.initial_state(3))
    logits = tiny_model(x, tiny_model.initial_state(3))[0].detach().double().numpy()
    nats = [
        math.log(sum(math.exp(v) for v in logits[n, t])) - logits[n, t, y[n, t]] for n in range(3) for t in range(4)
    ]
    assert loss.item() == pytest.approx(sum(nats) / 12, rel=1e-6)


def test_the_output_of_a_normalised_layer_is_normalised_and_its_state_is_not(tiny_config):
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
    torch.testing.assert_close(after[0], plain(ids, state)[1][0])


@every_cell
def test_single_steps_equal_a_sequence(tiny_config, cell):
    model = build(replace(tiny_config, cell=cell, layer_norm=cell != "rnn"), 0)
    with torch.no_grad():
        for parameter in model.output.parameters():
            parameter.normal_(0, 0.3)  # the initial feedback is zero
    x, state = symbols(3, 5), model.initial_state(3)
    whole, end = model(x, state)
    for t in range(5):
        logits, state = model.step(x[:, t], state)
        torch.testing.assert_close(logits, whole[:, t], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(state, end, atol=1e-6, rtol=1e-5)


def test_initial_values_are_those_of_torch_rnn():
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


def test_initial_values_depend_on_the_seed_only(tiny_config):
    one, two, other = (build(tiny_config, seed).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["embedding.weight"], other["embedding.weight"])
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    build(tiny_config, 9)
    assert torch.equal(torch.rand(3), expected)  # torch's global generator is not used


def test_the_number_of_parameters_excludes_frozen_ones(tiny_config):
    layers = (5 + 3 + 1) * 24 + 6 * 3 + (3 + 3 + 1) * 24 + 6 * 3
    assert build(replace(tiny_config, cell="lstmp"), 0).number_of_parameters() == 7 * 5 + layers + 3 * 7 + 7


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


@pytest.mark.parametrize(("units", "projection"), [(7, 3), (2, 1)])
def test_a_projection_has_half_the_units_by_default(units, projection):
    config = ModelConfig(7, 5, units, 2, "lstmp")
    assert config.proj_size == projection
    assert build(config, 0).layers[1].weight_ih_l0.shape == (4 * units, projection)
    assert ModelConfig(7, 5, 6, 2, "lstmp", proj_size=5).proj_size == 5
    assert ModelConfig(7, 5, 6, 2).proj_size is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vocab_size", 0),
        ("rnn_size", 2.5),
        ("layers", True),
        ("cell", ["lstm"]),
        ("dropout", math.nan),
        ("forget_bias", "normal"),
        ("proj_size", 3),
    ],
)
def test_a_wrong_configuration_is_rejected_with_its_value(field, value):
    with pytest.raises(ValueError, match=re.escape(f"{field} is {value!r}")):
        ModelConfig(**{"vocab_size": 7, field: value})


@pytest.mark.parametrize("fields", [{"proj_size": 6}, {"rnn_size": 1}])
def test_a_projection_that_is_not_smaller_than_the_layer_is_rejected(fields):
    with pytest.raises(ValueError, match="proj_size"):
        ModelConfig(**{"vocab_size": 7, "cell": "lstmp", "rnn_size": 6} | fields)


def test_a_configuration_is_the_same_after_json(tiny_config):
    config = replace(tiny_config, cell="lstmp", forget_bias="uniform")
    assert ModelConfig(**json.loads(json.dumps(config.to_json()))) == config


def test_dropout_acts_only_in_training_and_not_on_the_state():
    """As in torch-rnn, it is between the layers and after the last one, not in the recurrence."""
    model, plain = build(ModelConfig(7, 5, 6, 1, dropout=0.5), 0), build(ModelConfig(7, 5, 6, 1), 0)
    x, zero = symbols(3, 9), model.initial_state(3)
    one, other, expected = model.train()(x, zero), model(x, zero), plain(x, zero)
    assert not torch.equal(one[0], other[0])
    torch.testing.assert_close(one[1], expected[1], atol=0, rtol=0)
    torch.testing.assert_close(model.eval()(x, zero), expected, atol=0, rtol=0)


def test_the_loss_of_a_single_symbol_is_zero():
    model = CharRNN(ModelConfig(1, 2, 3, 1))
    zeros = torch.from_numpy(np.zeros((2, 5), dtype=np.int64))
    assert model.loss(zeros, zeros, model.initial_state(2))[0].item() == 0


def test_smooth_initial_weights_have_similar_neighbours_and_the_usual_deviation():
    config = ModelConfig(vocab_size=256, wordvec_size=300, rnn_size=250, layers=1)
    smooth, other = build(config, 3, smooth_init=True), build(config, 3)
    for name in ("embedding", "output"):
        rows, plain = (getattr(model, name).weight.detach() for model in (smooth, other))
        assert rows.std().item() == pytest.approx(plain.std().item(), rel=0.1)
        steps = (rows[1:] - rows[:-1]).norm(dim=1) / (plain[1:] - plain[:-1]).norm(dim=1)
        assert steps.max() < 0.25  # of the distance between independent rows
        assert torch.corrcoef(rows[[0, 255]])[0, 1].abs() < 0.2
    same = [p for name, p in smooth.named_parameters() if name.startswith("layers")]
    for p, q in zip(same, other.layers.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=0, rtol=0)


def test_the_embedding_by_a_product_of_one_hot_rows_is_the_embedding():
    ids = torch.tensor([[0, 2, 2], [6, 1, 0]])
    weight = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found, lookup = one_hot_embedding(ids, weight), torch.nn.functional.embedding(ids, weight)
    assert torch.equal(found, lookup)
    upstream = torch.arange(30.0).view(2, 3, 5)
    (one,), (other,) = (torch.autograd.grad(y, weight, upstream) for y in (found, lookup))
    assert torch.equal(one, other)
