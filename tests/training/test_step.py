"""A training step is the same as a CUDA graph and without one, and a failed one changes nothing."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from tiny_runs import PARTS, PLAIN, SETTINGS, VARIANTS, changed, finish, result, tiny_model, trainer

from charrnn.cuda.backends import loss_scale
from charrnn.cuda.device_batches import DeviceBatches
from charrnn.data.batches import ContextWindow, ContiguousBatches
from charrnn.storage.checkpoint import read_tensors
from charrnn.training import iteration_log
from charrnn.training.recipe import RECIPES
from charrnn.training.step import WARM_UP, GraphedStep, Step, make_optimizer

N, T = 3, 5
KINDS = {
    "value": SETTINGS,
    "norm": changed(clip="norm", grad_clip=0.05),
    "modern": changed(**RECIPES["modern"] | {"batch_size": N, "weight_decay": 0.1}),
    "bf16": changed(precision="bf16"),
}


def replay(work):
    """Stand in for a CUDA graph: do the work in the same memory, when it is called."""
    return work


def make(settings=SETTINGS, kind=Step, network=PLAIN, **options):
    model = tiny_model(network)
    model.train()
    return kind(model, make_optimizer(model, settings), settings, **options)


def make_graphed(settings=SETTINGS, **options):
    return make(settings, GraphedStep, warm_up=lambda work: work(), capture=replay, **options)


def first_batch():
    return map(torch.from_numpy, ContiguousBatches(PARTS["train"], N, T).at(0, T))


def moments(step):
    return [t for state in step.optimizer.state.values() for t in state.values()]


def train(step, count=12, reset=7):
    """Return the outcomes of some steps, the state after them, weights and moments."""
    batches, state, outcomes = ContiguousBatches(PARTS["train"], N, T), step.model.initial_state(N), []
    for i in range(count):
        if i == reset:
            state = step.model.initial_state(N)
        torch.manual_seed(i)
        outcome, state = step(*map(torch.from_numpy, batches.at(T * i, T)), state, 0.01 / (1 + i))
        outcomes.append(outcome)
    return [*outcomes, *(t for layer in state for t in layer), *step.parameters, *moments(step)]


def assert_same(found, expected):
    assert len(found) == len(expected) > 20
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.usefixtures("bf16")
@pytest.mark.parametrize(("kind", "dropout"), [("value", 0.4), ("norm", 0.0), ("modern", 0.4), ("bf16", 0.0)])
def test_captured_steps_give_exactly_the_numbers_of_plain_ones(kind, dropout):
    network = {"dropout": dropout}
    assert_same(train(make_graphed(KINDS[kind], network=network)), train(make(KINDS[kind], network=network)))


def test_some_steps_warm_up_and_then_one_graph_is_replayed():
    warmed_up, captured, replays = [], [], []

    def capture(work):
        captured.append(work)
        return lambda: (replays.append(1), work())

    train(make(kind=GraphedStep, warm_up=lambda work: (warmed_up.append(1), work()), capture=capture), 12)
    assert (len(warmed_up), len(captured), len(replays)) == (WARM_UP, 1, 12 - WARM_UP)


def test_if_a_step_cannot_be_captured_training_continues_without_a_graph(capsys):
    def fail(work):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nCompile with ...")

    step = make(kind=GraphedStep, warm_up=lambda work: work(), capture=fail)
    assert_same(train(step), train(make()))
    assert capsys.readouterr().err.count("cannot be captured as a CUDA graph (CUDA error: operation not") == 1


def test_the_memory_that_a_graph_reads_and_writes_is_never_replaced():
    def memory(step):
        state = (t for layer in step._state for t in layer)
        return [t.data_ptr() for t in (step._x, step._y, step._outcome, *state, *step.parameters, *moments(step))]

    step = make_graphed()
    train(step, WARM_UP + 1)
    before = memory(step)
    train(step, 5)
    assert memory(step) == before


def test_an_outcome_is_not_overwritten_by_the_next():
    step = make_graphed()
    x, y = first_batch()
    first, state = step(x, y, step.model.initial_state(N), 0.01)
    copy = first.clone()
    step(x, y, state, 0.01)
    assert torch.equal(first, copy)


@pytest.mark.parametrize(("kind", "bad"), [("value", "loss"), ("norm", "gradient")])
def test_a_loss_or_gradient_that_is_not_finite_changes_no_weight_and_no_moment(kind, bad):
    step = make(KINDS[kind])
    train(step, 4)
    before = [t.clone() for t in (*step.parameters, *moments(step))]
    state = step.model.initial_state(N)
    if bad == "loss":
        state = tuple(tuple(torch.full_like(t, math.nan) for t in layer) for layer in state)
    else:
        step.parameters[0].register_hook(lambda gradient: gradient * math.inf)
    outcome, _ = step(*first_batch(), state, 0.1)
    assert outcome.isfinite().tolist() == ([False, False] if bad == "loss" else [True, False])
    assert all(torch.equal(a, b) for a, b in zip(before, [*step.parameters, *moments(step)], strict=True))


def test_the_scale_of_the_loss_changes_no_digit():
    for kind in ("value", "norm"):
        scaled = make(KINDS[kind])
        scaled.scale = 2.0**12
        assert_same(train(scaled), train(make(KINDS[kind])))


def test_the_loss_is_scaled_only_where_layers_are_computed_in_fp16():
    assert loss_scale("bf16", "cuda", 2500) == 2048
    assert loss_scale("fp32", "cuda", 2500) == loss_scale("bf16", "cpu", 2500) == 1


@pytest.mark.parametrize(
    ("dtype", "context", "rank", "world"),
    [
        (np.uint8, ContextWindow(), 0, 1),
        (np.uint16, ContextWindow(), 1, 2),
        (np.uint32, ContextWindow(), 0, 1),
        (np.int16, ContextWindow(12, 4), 1, 2),
    ],
)
def test_batches_on_a_device_are_those_of_the_host(monkeypatch, dtype, context, rank, world):
    monkeypatch.setattr("charrnn.cuda.device_batches.BLOCK", 100)
    least = -500 if dtype == np.int16 else 0
    ids = np.random.default_rng(0).integers(least, 255 if dtype == np.uint8 else 30000, 333).astype(dtype)
    host = ContiguousBatches(ids, 4, T, rank, world, context)
    device = DeviceBatches(ids, host, 4, "cpu")
    for position in range(0, 3 * host.row_length, T):
        for found, expected in zip(device.at(position, T), host.at(position, T), strict=True):
            assert found.dtype == torch.from_numpy(expected).dtype
            np.testing.assert_array_equal(found.numpy(), expected)


# In the training loop


def as_on_a_gpu(folder, settings=SETTINGS, network=PLAIN):
    """Return a trainer that does all that one on a GPU does, except that work is done at once."""
    made = trainer(folder, settings, network=network)
    made.log.runs_ahead = True
    made.source = DeviceBatches(PARTS["train"], made.batches, settings.batch_size, "cpu")
    made.step = GraphedStep(made.model, made.optimizer, settings, lambda work: work(), replay)
    return made


@pytest.mark.parametrize("variant", ["fp32", "modern"])
def test_a_run_that_is_ahead_of_its_log_ends_as_any_other(tmp_path, variant):
    settings, network = VARIANTS[variant]
    finish(tmp_path / "plain", settings, network=network)
    as_on_a_gpu(tmp_path / "ahead", settings, network).train()
    assert result(tmp_path / "ahead") == result(tmp_path / "plain")


@pytest.mark.parametrize("stop", [9, 14])
def test_a_run_that_is_stopped_ahead_of_its_log_ends_as_one_that_was_not(tmp_path, stop):
    settings, network = VARIANTS["modern"]
    finish(tmp_path / "plain", settings, network=network)
    made = as_on_a_gpu(tmp_path / "ahead", settings, network)
    made.train(stopped=lambda: made.state.iteration >= stop)
    as_on_a_gpu(tmp_path / "ahead", settings, network).train()
    assert result(tmp_path / "ahead") == result(tmp_path / "plain")


def test_outcomes_are_read_in_blocks_that_end_before_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(iteration_log, "MAX_PENDING", 3)
    made, blocks = as_on_a_gpu(tmp_path), []
    write = made.log.write
    made.log.write = lambda: (blocks.append(len(made.log._pending)), write())
    made.train()
    assert blocks == [3, 3, 1] * 6 + [0]
    seconds = [row["elapsed_seconds"] for row in made.listeners[0].rows]
    assert seconds == sorted(seconds)
    assert [row["iteration"] for row in made.listeners[0].rows] == list(range(1, 43))


class FailingBackend:
    """A backend whose kernel fails once ``has_failed`` is set."""

    has_failed = False

    def failed(self):
        return self.has_failed

    def mask(self, loss):
        return loss * math.nan if self.has_failed else loss


@pytest.mark.parametrize(("kind", "reason"), [("loss", r"\(nan\) at iteration 6"), ("kernel", "timed out at iter.* 6")])
def test_a_failure_is_reported_with_its_iteration_and_nothing_after_it_is_saved(tmp_path, kind, reason):
    made = as_on_a_gpu(tmp_path, dataclasses.replace(SETTINGS, checkpoint_every=4))
    step = made.step
    backend = made.log.backend = step.backend = FailingBackend()

    def fails(x, y, state, rate):
        if made.state.iteration == 5 and kind == "loss":
            state = tuple(tuple(t * math.nan for t in layer) for layer in state)
        elif made.state.iteration == 5:
            backend.has_failed = True
        return step(x, y, state, rate)

    made.step = fails
    with pytest.raises(ValueError, match=reason):
        made.train()
    assert [row["iteration"] for row in made.listeners[0].rows] == [1, 2, 3, 4, 5]
    assert read_tensors(made.run.resume_file, "resume")[0]["iteration"] == 4
