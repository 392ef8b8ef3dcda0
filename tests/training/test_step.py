"""A step of learning is the same recorded and unrecorded, and its batches are the same from the host and from a GPU."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from test_trainer import PARTS, SETTINGS, VARIANTS, finish, result, trainer

from charrnn.cuda import graphs
from charrnn.cuda.device_batches import DeviceBatches
from charrnn.data.batches import ContextWindow, ContiguousBatches
from charrnn.models.char_rnn import ModelConfig, build
from charrnn.storage.checkpoint import read_tensors
from charrnn.training import trainer as training
from charrnn.training.recipe import RECIPES, Settings
from charrnn.training.step import WARM_UP, GraphedStep, Step, loss_scale, make_optimizer

N, T, V = 3, 5, 5
MODERN = Settings(**SETTINGS.to_json() | RECIPES["modern"] | {"batch_size": N, "weight_decay": 0.1})
NORM = dataclasses.replace(SETTINGS, clip="norm", grad_clip=0.05)
KINDS = {"value": SETTINGS, "norm": NORM, "modern": MODERN, "bf16": dataclasses.replace(SETTINGS, precision="bf16")}


def replayed(work):
    """What stands for a CUDA graph where there is none: it does the work in the same memory, when it is asked to."""
    return work


def made(settings=SETTINGS, kind=Step, dropout=0.0, **options):
    model = build(ModelConfig(V, wordvec_size=4, rnn_size=6, layers=2, dropout=dropout), seed=1)
    model.train()
    return kind(model, make_optimizer(model, settings), settings, **options)


def graphed(settings=SETTINGS, **options):
    return made(settings, GraphedStep, warm_up=lambda work: work(), capture=replayed, **options)


def learnt(step, count=12, reset=7):
    """Outcomes of some steps, the state after them, weights and moments."""
    batches, state, outcomes = ContiguousBatches(PARTS["train"], N, T), step.model.initial_state(N), []
    for i in range(count):
        if i == reset:
            state = step.model.initial_state(N)
        torch.manual_seed(i)
        outcome, state = step(*map(torch.from_numpy, batches.at(T * i, T)), state, 0.01 / (1 + i))
        outcomes.append(outcome)
    moments = [t for kept in step.optimizer.state.values() for t in kept.values()]
    return [*outcomes, *(t for layer in state for t in layer), *step.parameters, *moments]


def assert_same(found, wanted):
    assert len(found) == len(wanted) > 20
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_recorded_steps_give_the_numbers_of_plain_ones_to_the_last_bit(kind, dropout):
    assert_same(learnt(graphed(KINDS[kind], dropout=dropout)), learnt(made(KINDS[kind], dropout=dropout)))


def test_some_steps_are_taken_aside_and_then_one_recording_is_replayed():
    aside, recorded, replays = [], [], []

    def record(work):
        recorded.append(work)
        return lambda: (replays.append(1), work())

    step = made(kind=GraphedStep, warm_up=lambda work: (aside.append(1), work()), capture=record)
    learnt(step, 12)
    assert (len(aside), len(recorded), len(replays)) == (WARM_UP, 1, 12 - WARM_UP)


def test_where_a_step_cannot_be_recorded_it_says_so_and_learns_the_same_without(capsys):
    def fails(work):
        work()  # as far as the kernel that cannot be recorded; nothing of it is computed, but Python was there
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nCompile with ...")

    def kept_out(work):  # of a recording, nothing is computed: take it back
        kept = [t.clone() for t in (*step.parameters, *(t for k in step.optimizer.state.values() for t in k.values()))]
        state = [t.clone() for layer in step._state for t in layer]
        try:
            fails(work)
        finally:
            moments = (t for k in step.optimizer.state.values() for t in k.values())
            with torch.no_grad():
                for tensor, old in zip((*step.parameters, *moments), kept, strict=True):
                    tensor.copy_(old)
            for tensor, old in zip((t for layer in step._state for t in layer), state, strict=True):
                tensor.copy_(old)

    step = made(kind=GraphedStep, warm_up=lambda work: work(), capture=kept_out)
    assert_same(learnt(step), learnt(made()))
    assert capsys.readouterr().err.count("the step cannot be captured as a CUDA graph (CUDA error: operation not") == 1


def test_what_a_recording_reads_and_writes_stays_where_it_is():
    """Else it would work on memory that is somebody else's by now."""
    step = graphed()
    learnt(step, WARM_UP + 1)
    places = [t.data_ptr() for t in (step._x, step._y, step._outcome, *(t for layer in step._state for t in layer))]
    weights = [p.data_ptr() for p in step.parameters]
    moments = [t.data_ptr() for kept in step.optimizer.state.values() for t in kept.values()]
    learnt(step, 5)
    assert places == [t.data_ptr() for t in (step._x, step._y, step._outcome, *(t for s in step._state for t in s))]
    assert weights == [p.data_ptr() for p in step.parameters]
    assert moments == [t.data_ptr() for kept in step.optimizer.state.values() for t in kept.values()]


def test_an_outcome_is_not_overwritten_by_the_next():
    step = graphed()
    batch, state = map(torch.from_numpy, ContiguousBatches(PARTS["train"], N, T).at(0, T)), step.model.initial_state(N)
    x, y = batch
    first, state = step(x, y, state, 0.01)
    kept = first.clone()
    step(x, y, state, 0.01)
    assert torch.equal(first, kept)


@pytest.mark.parametrize("settings", [SETTINGS, NORM, dataclasses.replace(SETTINGS, grad_clip=0)])
@pytest.mark.parametrize("bad", ["loss", "gradient"])
def test_what_is_not_finite_teaches_nothing(settings, bad):
    step = made(settings)
    learnt(step, 4)
    before = [t.clone() for t in (*step.parameters, *(t for s in step.optimizer.state.values() for t in s.values()))]
    x, y = map(torch.from_numpy, ContiguousBatches(PARTS["train"], N, T).at(0, T))
    if bad == "loss":
        state = tuple(tuple(torch.full_like(t, math.nan) for t in layer) for layer in step.model.initial_state(N))
    else:
        state = step.model.initial_state(N)
        step.parameters[0].register_hook(lambda gradient: gradient * math.inf)
    outcome, _ = step(x, y, state, 0.1)
    assert outcome.isfinite().tolist() == ([False, False] if bad == "loss" else [True, False])
    after = [*step.parameters, *(t for s in step.optimizer.state.values() for t in s.values())]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("kind", ["value", "norm", "modern"])
def test_the_scale_of_the_loss_changes_no_digit(kind):
    scaled = made(KINDS[kind])
    scaled.scale = 2.0**12
    assert_same(learnt(scaled), learnt(made(KINDS[kind])))


def test_the_scale_is_the_power_of_two_next_to_the_number_of_symbols_where_layers_are_in_fp16():
    settings = Settings(batch_size=50, seq_length=50, device="cuda", precision="bf16")
    assert loss_scale(settings) == 2048
    assert loss_scale(dataclasses.replace(settings, precision="fp32")) == 1
    assert loss_scale(dataclasses.replace(settings, device="cpu")) == 1


@pytest.mark.parametrize(("device", "switch", "wanted"), [("cuda", None, 1), ("cuda", "0", 0), ("cpu", None, 0)])
def test_only_a_gpu_has_graphs_and_they_can_be_switched_off(monkeypatch, device, switch, wanted):
    monkeypatch.delenv(graphs.SWITCH, raising=False)
    if switch is not None:
        monkeypatch.setenv(graphs.SWITCH, switch)
    assert graphs.graphs_enabled(device) == bool(wanted)


# Batches


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int16])
@pytest.mark.parametrize("context", [ContextWindow(), ContextWindow(12, 4)])
@pytest.mark.parametrize(("rank", "world"), [(0, 1), (1, 2)])
def test_batches_that_lie_on_a_device_are_those_of_the_host(monkeypatch, dtype, context, rank, world):
    monkeypatch.setattr("charrnn.cuda.device_batches.BLOCK", 100)
    least = -500 if dtype == np.int16 else 0
    ids = np.random.default_rng(0).integers(least, 255 if dtype == np.uint8 else 30000, 333).astype(dtype)
    host = ContiguousBatches(ids, 4, T, rank, world, context)
    there = DeviceBatches(ids, host, 4, "cpu")
    for position in range(0, 3 * host.row_length, T):
        for found, wanted in zip(there.at(position, T), host.at(position, T), strict=True):
            assert found.dtype == torch.from_numpy(wanted).dtype
            np.testing.assert_array_equal(found.numpy(), wanted)


# In the loop


def as_on_a_gpu(folder, settings, dropout, **kwargs):
    """A trainer that does all that one on a GPU does but to have one."""
    runner = trainer(folder, settings, dropout=dropout, **kwargs)
    runner.ahead = True
    runner.source = DeviceBatches(PARTS["train"], runner.batches, settings.batch_size, "cpu")
    runner.step = GraphedStep(runner.model, runner.optimizer, settings, lambda work: work(), replayed)
    return runner


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_ahead_of_its_log_leaves_behind_what_any_other_does(tmp_path, variant):
    settings, dropout = VARIANTS[variant]
    finish(tmp_path / "plain", settings, dropout=dropout)
    as_on_a_gpu(tmp_path / "ahead", settings, dropout).train()
    assert result(tmp_path / "ahead") == result(tmp_path / "plain")


@pytest.mark.parametrize("stop", [1, 9, 10, 14])
def test_stopped_ahead_of_its_log_it_goes_on_as_if_it_had_not_been(tmp_path, stop):
    settings, dropout = VARIANTS["modern"]
    finish(tmp_path / "plain", settings, dropout=dropout)
    runner = as_on_a_gpu(tmp_path / "ahead", settings, dropout)
    runner.train(stopped=lambda: runner.place.iteration >= stop)
    as_on_a_gpu(tmp_path / "ahead", settings, dropout).train()
    whole, parts = result(tmp_path / "plain"), result(tmp_path / "ahead")
    assert parts == whole


def test_the_log_is_read_in_blocks_that_end_where_a_checkpoint_is_due(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "READ_EVERY", 3)
    runner, blocks = as_on_a_gpu(tmp_path, SETTINGS, 0.0), []
    read = runner._read
    runner._read = lambda began: (blocks.append(len(runner.unread)), read(began))
    runner.train()
    assert blocks == [3, 3, 1] * 6
    seconds = [row["elapsed_seconds"] for row in runner.listeners[0].rows]
    assert seconds == sorted(seconds)
    assert [row["iteration"] for row in runner.listeners[0].rows] == list(range(1, 43))


def test_a_loss_that_is_not_finite_is_named_by_its_iteration_and_nothing_after_it_is_kept(tmp_path):
    runner = as_on_a_gpu(tmp_path, dataclasses.replace(SETTINGS, checkpoint_every=4), 0.0)
    real = runner.step

    def spoilt(x, y, state, rate):
        if runner.place.iteration == 5:
            state = tuple(tuple(t * math.nan for t in layer) for layer in state)
        return real(x, y, state, rate)

    runner.step = spoilt
    with pytest.raises(ValueError, match=r"not finite \(nan\) at iteration 6\. The last good checkpoint is .*00000004"):
        runner.train()
    assert [row["iteration"] for row in runner.listeners[0].rows] == [1, 2, 3, 4, 5]


def test_a_kernel_that_gave_up_is_named_by_the_iteration_where_it_did_and_nothing_after_it_is_kept(tmp_path):
    runner = as_on_a_gpu(tmp_path, dataclasses.replace(SETTINGS, checkpoint_every=4), 0.0)
    flag, real = torch.zeros(1, dtype=torch.int32), runner.step
    runner.model.failures = lambda device: flag

    def gives_up(x, y, state, rate):
        if runner.place.iteration == 5:
            flag.fill_(1)
        return real(x, y, state, rate)

    runner.step = gives_up
    with pytest.raises(ValueError, match=r"timed out at iteration 6\..*charrnn-train --resume"):
        runner.train()
    assert [row["iteration"] for row in runner.listeners[0].rows] == [1, 2, 3, 4, 5]
    assert read_tensors(runner.run.resume_file, "resume")[0]["iteration"] == 4
