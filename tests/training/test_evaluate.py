"""The loss of a part counts every symbol once."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from charrnn.models import char_rnn as models
from charrnn.models.char_rnn import build
from charrnn.models.config import ModelConfig
from charrnn.training import evaluate as module
from charrnn.training.evaluate import evaluate, in_bits


def symbols(n, seed=0):
    return np.random.default_rng(seed).integers(0, 7, n, dtype=np.uint8)


def before(ids, start, count):
    """Return the symbols (1, count) before a position; those before the first one are silence."""
    known = ids[max(0, start - count) : start]
    return torch.from_numpy(np.concatenate([np.full(count - len(known), 128), known]))[None]


def plain(model, ids):
    """Compute the loss of one row after another, symbol by symbol."""
    model.eval()
    count = len(ids) - 1
    rows = min(50, count)
    length = count // rows
    nats = []
    with torch.no_grad():
        for row in range(rows):
            end = count if row == rows - 1 else (row + 1) * length  # the last row goes on to the end
            state = model.state_after(before(ids, row * length, model.history))
            for t in range(row * length, end):
                logits, state = model.step(torch.tensor([int(ids[t])]), state)
                nats.append(-torch.log_softmax(logits.double(), dim=1)[0, int(ids[t + 1])].item())
    assert len(nats) == count
    return math.fsum(nats) / count


@pytest.mark.parametrize("n", [2, 51, 777])
def test_the_loss_is_the_mean_over_all_symbols_except_the_first(tiny_model, n):
    assert evaluate(tiny_model, symbols(n)) == pytest.approx(plain(tiny_model, symbols(n)), rel=1e-5)


def test_a_row_of_a_network_that_reads_samples_begins_after_those_before_it():
    model = build(ModelConfig(256, 5, 6, 1, context=3, prediction="lpc"), 0)
    ids = np.random.default_rng(0).integers(100, 156, 777, dtype=np.uint8)
    assert evaluate(model, ids) == pytest.approx(plain(model, ids), rel=1e-5)


@settings(max_examples=25)
@given(st.integers(2, 130), st.integers(1, 5))
def test_the_loss_is_the_same_for_any_number_of_steps(tiny_model, n, steps):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "STEPS", steps)
        assert evaluate(tiny_model, symbols(n)) == pytest.approx(plain(tiny_model, symbols(n)), rel=1e-5)


@pytest.mark.parametrize(("n", "symbols_at_once"), [(40, 1), (149, 49), (777, 120)])
def test_the_loss_is_the_same_in_pieces_of_any_size(tiny_model, monkeypatch, n, symbols_at_once):
    whole, sizes, loss = evaluate(tiny_model, symbols(n)), [], tiny_model.loss
    monkeypatch.setattr(models, "MAX_LOGITS", 7 * symbols_at_once)
    monkeypatch.setattr(tiny_model, "loss", lambda x, y, state: sizes.append(y.numel()) or loss(x, y, state))
    assert evaluate(tiny_model, symbols(n)) == pytest.approx(whole, rel=1e-6)
    assert sum(sizes) == n - 1
    assert max(sizes) <= symbols_at_once


def test_a_large_vocabulary_or_layer_is_scored_in_smaller_pieces_than_a_usual_one():
    def pieces(vocab_size, rnn_size):
        return build(ModelConfig(vocab_size, 1, rnn_size, 1, cell="rnn"), 0).max_symbols()

    usual = module.ROWS * module.STEPS
    assert pieces(256, 256) >= usual
    assert pieces(40_000, 64) * 40_000 * 4 <= 1 << 24  # bytes of logits
    assert usual / 10 < pieces(256, 2048) < usual


def test_dropout_is_off_and_the_mode_is_restored():
    model = build(ModelConfig(7, 5, 6, 2, dropout=0.5), 0)
    for training in (True, False):
        model.train(training)
        assert evaluate(model, symbols(300)) == pytest.approx(plain(build(ModelConfig(7, 5, 6, 2), 0), symbols(300)))
        assert model.training is training


def test_the_mode_is_restored_after_an_error(tiny_model):
    def stop(done, total):
        raise KeyError

    tiny_model.train()
    with pytest.raises(KeyError):
        evaluate(tiny_model, symbols(300), on_progress=stop)
    assert tiny_model.training


def test_weights_do_not_change_and_have_no_gradients(tiny_model):
    before = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    evaluate(tiny_model, symbols(300))
    assert all(p.grad is None for p in tiny_model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in tiny_model.state_dict().items())


def test_progress_is_reported(tiny_model):
    calls = []
    evaluate(tiny_model, symbols(50 * 300 + 1), on_progress=lambda done, total: calls.append((done, total)))
    assert calls == [(50 * 256, 50 * 300), (50 * 300, 50 * 300)]


def test_the_loss_of_an_untrained_network_is_near_the_logarithm_of_the_number_of_symbols(tiny_config):
    nats = evaluate(build(tiny_config, 0), symbols(5000))
    assert nats == pytest.approx(math.log(7), abs=0.3)
    assert in_bits(nats) == pytest.approx(nats / math.log(2))


@pytest.mark.usefixtures("bf16")
def test_the_loss_in_bf16_is_near_that_in_fp32(tiny_model):
    assert evaluate(tiny_model, symbols(500), "bf16") == pytest.approx(evaluate(tiny_model, symbols(500)), abs=0.01)
