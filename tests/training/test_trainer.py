"""A run learns, writes down how, and goes on after any stop as if it had never stopped."""

import itertools
import json
import math
import os
import shutil
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional

from bytecodec.errors import InputError
from charrnn.data.batches import ContiguousBatches
from charrnn.data.vocab import Vocab
from charrnn.models.char_rnn import build
from charrnn.models.config import ModelConfig
from charrnn.storage import checkpoint as files
from charrnn.storage.checkpoint import Checkpoint
from charrnn.storage.csv_log import LOG_COLUMNS, TIME_COLUMNS, VAL_COLUMNS, read_rows
from charrnn.storage.run_dir import Run
from charrnn.training import evaluate as evaluation
from charrnn.training import trainer as training
from charrnn.training.listener import Listener
from charrnn.training.recipe import RECIPES, Settings
from charrnn.training.trainer import Trainer

VOCAB = Vocab("abcde")
PER_EPOCH = 19  # (300 - 1) // (3 * 5): iterations of 3 rows x 5 steps
SETTINGS = Settings(batch_size=3, seq_length=5, learning_rate=0.01, max_epochs=2.2, checkpoint_every=7)
ITERATIONS = 42  # of 2.2 epochs, rounded up: 41.8


def text(n, seed=0):
    """Symbols of 0 to 4 in an order that can be learnt: up by one, or by two now and then."""
    return (np.cumsum(1 + (np.random.default_rng(seed).random(n) < 0.1)) % 5).astype(np.uint8)


PARTS = {"train": text(300), "val": text(120, 1), "test": text(60, 2)}


class Recorder(Listener):
    """A listener that keeps what it is told, and does ``at(event, number)`` as it is told."""

    def __init__(self, at=lambda event, number: None):
        self.rows, self.validations, self.checkpoints, self.at = [], [], [], at

    def iterated(self, row):
        self.rows.append(row)
        self.at("iterated", row["iteration"])

    def validating(self, done, total):
        self.validations.append((done, total))
        self.at("validating", done)

    def checkpointed(self, iteration, row):
        self.checkpoints.append((iteration, row))
        self.at("checkpointed", iteration)


@pytest.fixture(autouse=True)
def _validations_of_two_steps(monkeypatch):
    """120 symbols are 50 rows of 2: one step at a time, a validation has a middle to be stopped in."""
    monkeypatch.setattr(evaluation, "STEPS", 1)


def trainer(folder, settings=SETTINGS, listener=None, dropout=0.0, parts=PARTS):
    """A trainer of a tiny network: a new one, or where the folder's resume file says."""
    folder.mkdir(exist_ok=True)
    model = build(ModelConfig(len(VOCAB), wordvec_size=4, rnn_size=6, layers=2, dropout=dropout), seed=1)

    def package(step, epoch, train_loss):
        return Checkpoint(model, VOCAB, step=step, epoch=epoch, train_loss=train_loss)

    return Trainer(model, parts, settings, Run(folder), package, [listener or Recorder()])


def finish(folder, settings=SETTINGS, **kwargs):
    made = trainer(folder, settings, **kwargs)
    made.train()
    assert made.finished
    return made


def without_times(path):
    return [{name: value for name, value in row.items() if name not in TIME_COLUMNS} for row in read_rows(path)]


def result(folder):
    """All that a run leaves behind but times: logs, best, weights, and what going on takes."""
    run = Run(folder)
    facts, tensors = files.read_tensors(run.resume_file, "resume")
    last = files.load(run.checkpoints()[-1])
    return {
        "log": without_times(run.log_file),
        "val": without_times(run.val_file),
        "best": json.loads(run.best_file.read_text()) if run.best_file.exists() else None,
        "facts": {name: value for name, value in facts.items() if name != "seconds"},
        "tensors": {name: (tensor.dtype, tensor.tolist()) for name, tensor in tensors.items()},
        "last": (last.step, last.epoch, last.train_loss, last.val_loss),
        "weights": {name: tensor.tolist() for name, tensor in last.model.state_dict().items()},
    }


VARIANTS = {
    "fp32": (SETTINGS, 0.0),
    "dropout": (SETTINGS, 0.3),
    "bf16": (Settings(**SETTINGS.to_json() | {"precision": "bf16"}), 0.0),
    "modern": (
        Settings(**SETTINGS.to_json() | RECIPES["modern"] | {"batch_size": 3, "weight_decay": 0.1, "average": 0.9}),
        0.1,
    ),
    "keep": (Settings(**SETTINGS.to_json() | {"keep": 1, "lr_decay_every": 1}), 0.0),
}
variants = pytest.mark.parametrize("variant", VARIANTS)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """``unbroken(variant)`` is the result of a run that was never stopped."""
    results = {}

    def get(variant):
        if variant not in results:
            settings, dropout = VARIANTS[variant]
            folder = tmp_path_factory.mktemp(variant)
            finish(folder, settings, dropout=dropout)
            results[variant] = result(folder)
        return results[variant]

    return get


# Learning


def test_it_learns(tmp_path):
    made = finish(tmp_path, Settings(**SETTINGS.to_json() | {"max_epochs": 20, "checkpoint_every": 1000}))
    rows = made.listeners[0].rows
    assert rows[0]["train_loss"] == pytest.approx(math.log(5), abs=0.3)
    assert np.mean([row["train_loss"] for row in rows[-PER_EPOCH:]]) < 0.5  # the order's own: 0.33 nats
    assert made.listeners[0].checkpoints[-1][1]["val_loss"] < 0.8


def test_a_step_is_adams_on_the_clipped_gradient_of_a_carried_batch(tmp_path):
    """The loop against one written out with a plain optimiser."""
    settings = Settings(**SETTINGS.to_json() | {"max_iterations": 25, "grad_clip": 0.02, "lr_decay_every": 2})
    made = finish(tmp_path, settings)
    model = build(made.model.config, seed=1)
    learnt = [p for p in model.parameters() if p.requires_grad]
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in learnt]
    batches, losses, clipped = ContiguousBatches(PARTS["train"], 3, 5), [], 0
    for i in range(25):
        state = model.initial_state(3) if i % PER_EPOCH == 0 else state  # noqa: F821
        x, y = map(torch.from_numpy, batches.at(5 * i, 5))
        logits, state = model(x, state)
        state = tuple(tuple(t.detach() for t in layer) for layer in state)
        loss = functional.cross_entropy(logits.reshape(15, 5), y.reshape(15))
        losses.append(loss.item())
        rate = 0.01 * (0.5 if i >= PER_EPOCH else 1)
        for p, gradient, (m, v) in zip(learnt, torch.autograd.grad(loss, learnt), moments, strict=True):
            clipped += int((gradient.abs() > 0.02).sum())
            g = gradient.clamp(-0.02, 0.02)
            m.mul_(0.9).add_(0.1 * g)
            v.mul_(0.999).add_(0.001 * g * g)
            with torch.no_grad():
                p -= rate * (m / (1 - 0.9 ** (i + 1))) / ((v / (1 - 0.999 ** (i + 1))).sqrt() + 1e-8)
    assert clipped > 100
    assert [row["train_loss"] for row in made.listeners[0].rows] == pytest.approx(losses, rel=1e-4)
    for p, q in zip(learnt, made.parameters.values(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-4, rtol=1e-3)


def test_without_clipping_the_gradient_is_as_it_is(tmp_path):
    losses = []
    for name, clip in (("none", 0), ("far", 1e9), ("near", 0.001)):
        made = finish(tmp_path / name, Settings(**SETTINGS.to_json() | {"grad_clip": clip, "max_iterations": 20}))
        losses.append([row["train_loss"] for row in made.listeners[0].rows])
    assert losses[0] == losses[1] != losses[2]


def test_clipping_by_norm_shortens_the_gradient_and_keeps_its_direction(tmp_path):
    gradients = {}
    for clip, limit in (("value", 0), ("norm", 0.05), ("norm", 1e9)):
        settings = Settings(**SETTINGS.to_json() | {"clip": clip, "grad_clip": limit, "max_iterations": 1})
        made = finish(tmp_path / f"{clip}{limit}", settings)
        gradients[limit] = torch.cat([p.grad.flatten() for p in made.parameters.values()])
        norm = made.listeners[0].rows[0]["grad_norm"]
    assert norm > 0.05
    torch.testing.assert_close(gradients[0.05], gradients[0] * 0.05 / norm)
    torch.testing.assert_close(gradients[1e9], gradients[0], atol=0, rtol=0)


def test_matrices_decay_toward_zero_and_biases_do_not(tmp_path):
    changes = {"max_iterations": 1, "learning_rate": 0.01, "weight_decay": 10.0}
    one, two = (
        finish(tmp_path / str(decay), Settings(**SETTINGS.to_json() | changes | {"weight_decay": decay}))
        for decay in (0.0, 10.0)
    )
    start = dict(build(one.model.config, seed=1).named_parameters())
    for name, p in one.parameters.items():
        decayed = 0.1 * start[name] if p.dim() > 1 else torch.zeros_like(p)  # rate times decay of what it was
        torch.testing.assert_close(two.parameters[name], p - decayed, atol=1e-6, rtol=1e-5)


def test_along_a_cosine_the_last_step_is_the_smallest(tmp_path):
    changes = {"schedule": "cosine", "max_iterations": 40, "max_epochs": None, "warmup": 10, "learning_rate": 0.01}
    made = finish(tmp_path, Settings(**SETTINGS.to_json() | changes))
    rates = [row["learning_rate"] for row in made.listeners[0].rows]
    assert rates[0] == pytest.approx(0.001)
    assert max(rates) == rates[2]  # a twentieth of 40 iterations
    assert rates[20] == pytest.approx(0.005)
    assert rates[-1] == min(rates) < 2e-5


def test_by_the_clock_the_rate_falls_with_the_clock(tmp_path, monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(training.time, "monotonic", lambda: float(next(clock)))
    changes = {"schedule": "cosine", "max_epochs": None, "max_minutes": 5, "learning_rate": 0.01}
    made = finish(tmp_path, Settings(**SETTINGS.to_json() | changes))
    rows = made.listeners[0].rows
    assert len(rows) > 20
    for before, row in itertools.pairwise(rows):
        wanted = 0.005 * (1 + math.cos(math.pi * before["elapsed_seconds"] / 300))
        assert row["learning_rate"] == pytest.approx(wanted)


@pytest.mark.parametrize("limit", [1, 2])
def test_early_stop_ends_after_so_many_validations_without_a_best(tmp_path, limit):
    changes = {"learning_rate": 0.3, "max_epochs": 60, "early_stop": limit}
    made = finish(tmp_path, Settings(**SETTINGS.to_json() | changes))
    losses = [float(row["val_loss"]) for row in read_rows(tmp_path / "val.csv")]
    assert made.stopped_early
    assert made.place.iteration < made.iterations
    assert len(losses) - 1 - losses.index(min(losses)) == limit
    again = finish(tmp_path, made.settings)  # resuming does not train further
    assert (again.listeners[0].rows, again.stale) == ([], limit)


def test_the_norm_in_the_log_is_that_before_clipping(tmp_path):
    norms = []
    for name, clip in (("none", 0), ("near", 0.001)):
        made = finish(tmp_path / name, Settings(**SETTINGS.to_json() | {"grad_clip": clip, "max_iterations": 1}))
        norms.append(made.listeners[0].rows[0]["grad_norm"])
    assert norms[0] == norms[1] > 0.05


@pytest.mark.parametrize(
    ("every", "halvings"), [(5, [0, 0, 0, 0, 1, 1]), (2, [0, 1, 1, 2, 2, 3]), (1, [1, 2, 3, 4, 5, 6]), (9, [0] * 6)]
)
def test_the_rate_falls_as_epochs_counted_from_1_pass_multiples_of_every(tmp_path, every, halvings):
    changes = {"max_epochs": 6, "lr_decay_every": every, "checkpoint_every": 1000, "learning_rate": 0.5**9}
    made = finish(tmp_path, Settings(**SETTINGS.to_json() | changes))
    rates = [row["learning_rate"] for row in made.listeners[0].rows]
    assert rates == [0.5 ** (9 + n) for n in halvings for _ in range(PER_EPOCH)]


def test_the_state_is_zero_at_each_epochs_start_and_carried_otherwise(tmp_path):
    made = trainer(tmp_path)
    taken, given, loss = [], [], made.model.loss

    def spy(x, y, state):
        if made.model.training:
            taken.append([t.tolist() for layer in state for t in layer])
        result, state = loss(x, y, state)
        if made.model.training:
            given.append([t.tolist() for layer in state for t in layer])
        return result, state

    made.model.loss = spy
    made.train()
    assert len(taken) == ITERATIONS
    for i in range(ITERATIONS):
        if i % PER_EPOCH == 0:
            assert not np.any(np.array(taken[i]))
        else:
            assert taken[i] == given[i - 1]


def test_validation_does_not_touch_the_training(tmp_path):
    results = []
    for name, every in (("often", 1), ("once", 1000)):
        settings = Settings(**SETTINGS.to_json() | {"checkpoint_every": every})
        finish(tmp_path / name, settings, dropout=0.3)
        results.append(result(tmp_path / name))
        del results[-1]["facts"]["checkpointed"]  # the iteration of the validation before the file was written
    for kind in ("log", "tensors", "weights", "facts"):
        assert results[0][kind] == results[1][kind]
    assert len(results[0]["val"]) == ITERATIONS
    assert results[1]["val"] == results[0]["val"][-1:]


def test_dropout_hangs_on_the_seed_and_the_iteration_alone(tmp_path):
    losses = []
    for name, seed in (("a", 0), ("b", 0), ("c", 5)):
        torch.manual_seed(len(losses))
        made = finish(tmp_path / name, Settings(**SETTINGS.to_json() | {"seed": seed}), dropout=0.5)
        losses.append([row["train_loss"] for row in made.listeners[0].rows])
    assert losses[0] == losses[1] != losses[2]


# What is written


def test_the_logs_have_a_row_an_iteration_and_a_row_a_validation(tmp_path):
    made = finish(tmp_path)
    log, val = read_rows(tmp_path / "log.csv"), read_rows(tmp_path / "val.csv")
    assert list(log[0]) == list(LOG_COLUMNS)
    assert list(val[0]) == list(VAL_COLUMNS)
    assert [int(row["iteration"]) for row in log] == list(range(1, ITERATIONS + 1))
    assert [int(row["iteration"]) for row in val] == [7, 14, 21, 28, 35, 42]
    for row in log:
        assert float(row["epoch"]) == pytest.approx(int(row["iteration"]) / PER_EPOCH)
        assert float(row["train_bits"]) == pytest.approx(float(row["train_loss"]) / math.log(2))
        assert float(row["symbols_per_second"]) > 0
    seconds = [float(row["elapsed_seconds"]) for row in log]
    assert seconds == sorted(seconds)
    for row in val:
        assert float(row["val_bits"]) == pytest.approx(float(row["val_loss"]) / math.log(2))
    assert [row["train_loss"] for row in made.listeners[0].rows] == pytest.approx([float(r["train_loss"]) for r in log])
    assert made.listeners[0].validations == [(50, 119), (100, 119)] * 6
    assert [i for i, _ in made.listeners[0].checkpoints] == [7, 14, 21, 28, 35, 42]


def test_the_validation_loss_is_the_checkpoints(tmp_path):
    finish(tmp_path)
    for row in read_rows(tmp_path / "val.csv"):
        found = files.load(Run(tmp_path).checkpoint_file(int(row["iteration"])))
        assert evaluation.evaluate(found.model, PARTS["val"]) == pytest.approx(float(row["val_loss"]), rel=1e-6)
        assert found.val_loss == pytest.approx(float(row["val_loss"]), rel=1e-6)
        assert (found.step, found.epoch) == (int(row["iteration"]), pytest.approx(float(row["epoch"])))


def test_best_json_names_the_checkpoint_of_the_lowest_validation_loss(tmp_path):
    finish(tmp_path, Settings(**SETTINGS.to_json() | {"learning_rate": 0.3, "max_epochs": 6}))
    rows = {int(row["iteration"]): float(row["val_loss"]) for row in read_rows(tmp_path / "val.csv")}
    best = min(rows, key=rows.get)
    assert best != max(rows)  # such a rate goes wrong before the end
    name = f"checkpoints/{best:08d}.safetensors"
    assert Run(tmp_path).best() == {"iteration": best, "val_loss": rows[best], "checkpoint": name}
    assert (tmp_path / name).exists()


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_keep_leaves_the_newest_and_the_best(tmp_path, keep):
    changes = {"learning_rate": 0.3, "max_epochs": 6, "keep": keep}
    finish(tmp_path, Settings(**SETTINGS.to_json() | changes))
    steps = [int(row["iteration"]) for row in read_rows(tmp_path / "val.csv")]
    best = Run(tmp_path).best()["iteration"]
    assert best not in steps[-keep:]
    assert [int(file.stem) for file in Run(tmp_path).checkpoints()] == sorted({best, *steps[-keep:]})


@pytest.mark.parametrize("size", [0, 1])
def test_without_a_validation_part_there_are_checkpoints_and_no_losses(tmp_path, size):
    made = finish(tmp_path, parts=PARTS | {"val": PARTS["val"][:size]})
    assert made.listeners[0].checkpoints == [(i, None) for i in (7, 14, 21, 28, 35, 42)]
    assert read_rows(tmp_path / "val.csv") == []
    assert Run(tmp_path).best() is None
    assert files.load(tmp_path / "checkpoints" / "00000042.safetensors").val_loss is None


@pytest.mark.parametrize(
    ("changes", "iterations"),
    [
        ({"max_epochs": 2}, 2 * PER_EPOCH),
        ({"max_epochs": 1 / PER_EPOCH}, 1),
        ({"max_epochs": 0.01}, 1),
        ({"max_epochs": 1e-12}, 1),
        ({"max_epochs": 3, "max_iterations": 5}, 5),
        ({"max_epochs": None, "max_iterations": 5}, 5),
        ({"max_epochs": None, "max_iterations": None}, None),
    ],
)
def test_the_length_is_whichever_comes_first(changes, iterations):
    assert Settings(**SETTINGS.to_json() | changes).iterations(PER_EPOCH * 5) == iterations


def test_tenths_of_epochs_are_not_rounded_up_for_what_binary_lacks():
    assert 1.1 * 100 > 110
    assert Settings(max_epochs=1.1, seq_length=1).iterations(100) == 110


def test_a_run_by_the_clock_ends_with_a_validation_and_a_checkpoint(tmp_path):
    made = finish(tmp_path, Settings(**SETTINGS.to_json() | {"max_epochs": None, "max_minutes": 1e-6}))
    assert made.place.iteration == 1
    assert [i for i, _ in made.listeners[0].checkpoints] == [1]


def test_a_part_smaller_than_a_batch_is_refused(tmp_path):
    with pytest.raises(ValueError, match="15 symbols are less than a batch of 3 x 5"):
        trainer(tmp_path, parts=PARTS | {"train": text(15)})


# Going on


class StopAt:
    """Asks to stop at the n-th question."""

    def __init__(self, n):
        self.left = n

    def __call__(self):
        self.left -= 1
        return self.left < 0


# The loop asks after each iteration, 42 times, and each validation of two steps twice.
@pytest.mark.parametrize("question", [0, 1, 6, 7, 8, 9, 10, 18, 23, 24, 25, 30, 45, 52, 53, 54, 55])
def test_a_run_that_is_stopped_and_goes_on_is_the_run_that_was_never_stopped(tmp_path, unbroken, question):
    first = trainer(tmp_path)
    first.train(StopAt(question))
    assert first.place.iteration <= question
    assert [int(row["iteration"]) for row in read_rows(tmp_path / "log.csv")] == list(
        range(1, first.place.iteration + 1)
    )
    finish(tmp_path)
    assert result(tmp_path) == unbroken("fp32")


@variants
@pytest.mark.parametrize("pace", [3, 4])
def test_a_run_that_is_stopped_again_and_again_is_the_run_that_was_never_stopped(tmp_path, unbroken, variant, pace):
    settings, dropout = VARIANTS[variant]
    for starts in itertools.count(1):
        torch.manual_seed(starts)  # what the process did before has no influence
        made = trainer(tmp_path, settings, dropout=dropout)
        made.train(StopAt(pace))
        if made.finished and made.place.checkpointed == ITERATIONS:
            break
    assert starts > 12
    assert result(tmp_path) == unbroken(variant)


def test_a_stop_in_a_validation_saves_the_checkpoint_and_validates_when_it_goes_on(tmp_path):
    first = trainer(tmp_path)
    first.train(StopAt(8))  # seven iterations, and one step of the validation
    assert first.listeners[0].validations == [(50, 119)]
    assert read_rows(tmp_path / "val.csv") == []
    assert files.load(tmp_path / "checkpoints" / "00000007.safetensors").val_loss is None
    assert first.model.training
    finish(tmp_path)
    assert files.load(tmp_path / "checkpoints" / "00000007.safetensors").val_loss is not None


class OutOfMemory(Recorder):
    """Listener that raises MemoryError in the validation of an iteration."""

    def __init__(self, iteration):
        super().__init__()
        self.iteration = iteration

    def validating(self, done, total):
        if self.rows and self.rows[-1]["iteration"] == self.iteration:
            raise MemoryError


@variants
@pytest.mark.parametrize("iteration", [7, 21, 42])
def test_a_validation_that_fails_loses_nothing_and_is_repeated(tmp_path, unbroken, variant, iteration):
    settings, dropout = VARIANTS[variant]
    with pytest.raises(MemoryError):
        trainer(tmp_path, settings, OutOfMemory(iteration), dropout).train()
    assert files.load(Run(tmp_path).checkpoint_file(iteration)).val_loss is None
    assert files.read_tensors(Run(tmp_path).resume_file, "resume")[0]["iteration"] == iteration
    again = finish(tmp_path, settings, dropout=dropout)
    assert [row["iteration"] for row in again.listeners[0].rows] == list(range(iteration + 1, ITERATIONS + 1))
    assert again.listeners[0].checkpoints[0][0] == iteration
    assert result(tmp_path) == unbroken(variant)


def test_a_run_by_the_clock_that_fails_in_its_last_validation_has_only_that_to_do(tmp_path):
    settings = Settings(**SETTINGS.to_json() | {"max_epochs": None, "max_minutes": 1e-6})
    with pytest.raises(MemoryError):
        trainer(tmp_path, settings, OutOfMemory(1)).train()
    again = finish(tmp_path, settings)
    assert again.listeners[0].rows == []
    assert [i for i, _ in again.listeners[0].checkpoints] == [1]


def test_early_stop_is_the_same_after_a_validation_that_failed(tmp_path):
    settings = Settings(**SETTINGS.to_json() | {"learning_rate": 0.3, "max_epochs": 60, "early_stop": 1})
    end = finish(tmp_path / "whole", settings).place.iteration
    with pytest.raises(MemoryError):
        trainer(tmp_path / "failed", settings, OutOfMemory(end)).train()
    assert finish(tmp_path / "failed", settings).stopped_early
    assert result(tmp_path / "failed") == result(tmp_path / "whole")


def test_a_deleted_checkpoint_is_written_again_before_its_validation(tmp_path, unbroken):
    with pytest.raises(MemoryError):
        trainer(tmp_path, listener=OutOfMemory(42)).train()
    Run(tmp_path).checkpoint_file(42).unlink()
    finish(tmp_path)
    assert result(tmp_path) == unbroken("fp32")


def test_a_run_saved_by_a_version_that_validated_first_goes_on(tmp_path, unbroken):
    """Such a version wrote the row of val.csv before the resume file."""
    trainer(tmp_path).train(StopAt(11))
    assert [row["iteration"] for row in read_rows(tmp_path / "val.csv")] == ["7"]
    with (tmp_path / "val.csv").open("a") as file:
        file.write("14,0.7,1.5,2.2,0.5\n")
    finish(tmp_path)
    assert result(tmp_path) == unbroken("fp32")


# Sound


class Sampler:
    """Recorder of the iterations that are sampled; sampling at one iteration is interrupted."""

    def __init__(self, interrupted_at=None):
        self.made, self.stopped, self.interrupted_at = [], False, interrupted_at

    def __call__(self, iteration):
        self.stopped = iteration == self.interrupted_at
        if not self.stopped:
            self.made.append(iteration)


def sample(folder, sampler, **kwargs):
    """Train with a sampler, until it is interrupted."""
    made = trainer(folder, **kwargs)
    made.sample = sampler
    made.train(lambda: sampler.stopped)
    return made


@pytest.mark.parametrize("size", [120, 0])
@pytest.mark.parametrize("iteration", [14, 42])
def test_a_sample_that_was_interrupted_is_made_before_training_goes_on(tmp_path, size, iteration):
    parts = PARTS | {"val": PARTS["val"][:size]}
    first, second, rows = Sampler(iteration), Sampler(), []
    assert sample(tmp_path, first, parts=parts).place.iteration == iteration
    second_made = Recorder(lambda event, number: rows.append((event, number, list(second.made))))
    sample(tmp_path, second, parts=parts, listener=second_made)
    assert first.made + second.made == [7, 14, 21, 28, 35, 42]
    assert all(made[0] == iteration for _, _, made in rows)


def test_the_checkpoint_that_a_stop_leaves_is_not_sampled(tmp_path):
    sampler = Sampler()
    trainer(tmp_path).train(StopAt(12))
    assert Run(tmp_path).checkpoints()[-1].stem == "00000010"
    sample(tmp_path, sampler)
    assert sampler.made == [14, 21, 28, 35, 42]


def test_a_finished_run_has_nothing_more_to_do(tmp_path):
    finish(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    again = finish(tmp_path)
    assert again.listeners[0].rows == again.listeners[0].checkpoints == []
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_longer_run_goes_on_where_the_shorter_one_ended(tmp_path, unbroken):
    finish(tmp_path, Settings(**SETTINGS.to_json() | {"max_iterations": 28}))
    finish(tmp_path)
    assert result(tmp_path) == unbroken("fp32")


def test_the_time_of_a_run_leaves_out_its_pauses(tmp_path):
    trainer(tmp_path).train(StopAt(10))
    made = trainer(tmp_path)
    before = made.place.seconds
    assert before > 0
    made.train(StopAt(3))
    assert read_rows(tmp_path / "log.csv")[9]["iteration"] == "10"
    assert float(read_rows(tmp_path / "log.csv")[10]["elapsed_seconds"]) > before


@variants
def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(tmp_path, unbroken, variant, monkeypatch):
    """The folder as it is whenever something happens, with a torn row at the end of each log."""
    monkeypatch.setattr(training, "FLUSH_SECONDS", -1)  # rows get out at once, long before a resume file
    settings, dropout = VARIANTS[variant]
    copies = []

    def copy(event, number):
        if event != "iterated" or number in (1, 3, 8, 19, 20, 41):
            folder = tmp_path / f"copy{len(copies)}"
            shutil.copytree(tmp_path / "run", folder)
            for name in ("log.csv", "val.csv"):
                with (folder / name).open("a") as file:
                    file.write("9")
            copies.append(folder)

    finish(tmp_path / "run", settings, dropout=dropout, listener=Recorder(copy))
    assert len(copies) == 6 + 3 * 6
    for folder in copies[:: 1 if variant == "fp32" else 5]:
        finish(folder, settings, dropout=dropout)
        assert result(folder) == unbroken(variant), folder.name


@pytest.mark.parametrize("variant", ["fp32", "keep"])
def test_a_run_killed_before_or_after_any_file_takes_its_name_goes_on(tmp_path, unbroken, variant, monkeypatch):
    console_os = sys.modules["bytecodec.console"].os
    replace, copies = console_os.replace, []

    def copied(source, target):
        for do in (lambda: None, lambda: replace(source, target)):
            do()
            if 7 < made.place.iteration < 22:
                copies.append(tmp_path / f"copy{len(copies)}")
                shutil.copytree(tmp_path / "run", copies[-1])

    settings, _ = VARIANTS[variant]
    made = trainer(tmp_path / "run", settings)
    with monkeypatch.context() as patch:
        patch.setattr(console_os, "replace", copied)
        made.train()
    assert len(copies) == 2 * 2 * 4  # at two checkpoints: checkpoint, resume, checkpoint with its loss, best
    for folder in copies:
        finish(folder, settings)
        assert result(folder) == unbroken(variant), folder.name


def test_the_resume_file_of_another_network_is_refused(tmp_path):
    finish(tmp_path)
    model = build(ModelConfig(len(VOCAB), 4, 7, 2), 0)
    with pytest.raises(InputError) as caught:
        Trainer(model, PARTS, SETTINGS, Run(tmp_path), None)
    assert str(caught.value).startswith(f"{Run(tmp_path).resume_file} does not belong to this run: ")
    with pytest.raises(InputError, match="its hidden state is that of another network"):
        trainer(tmp_path, Settings(**SETTINGS.to_json() | {"batch_size": 4}))
    Run(tmp_path).resume_file.write_bytes(Run(tmp_path).resume_file.read_bytes()[:-1])
    with pytest.raises(InputError, match="was cut off"):
        trainer(tmp_path)


# Going wrong


def test_a_loss_that_is_not_finite_names_iteration_and_last_good_checkpoint_and_leaves_them_good(tmp_path, unbroken):
    made = trainer(tmp_path, listener=Recorder(lambda event, number: spoil(event, number)))

    def spoil(event, number):
        if (event, number) == ("iterated", 17):
            with torch.no_grad():
                made.model.output.weight[0, 0] = math.nan

    with pytest.raises(InputError) as caught:
        made.train()
    assert str(caught.value) == (
        "the loss or its gradient is not finite (nan) at iteration 18. The last good checkpoint is "
        f"{tmp_path / 'checkpoints' / '00000014.safetensors'}; "
        "start again from it with --init-from and a lower --learning-rate."
    )
    finish(tmp_path)
    assert result(tmp_path) == unbroken("fp32")


def test_a_loss_that_is_not_finite_before_the_first_checkpoint_says_to_start_again(tmp_path):
    made = trainer(tmp_path)
    with torch.no_grad():
        made.model.output.bias[0] = math.inf
    with pytest.raises(InputError) as caught:
        made.train()
    assert str(caught.value) == (
        "the loss or its gradient is not finite (nan) at iteration 1. Start again with a lower --learning-rate."
    )
    assert not made.run.resume_file.exists()


# Syncs of the disk by each checkpoint: the rows of the log, the checkpoint and its folder, the resume file and its
# folder, the checkpoint with its loss and its folder, the rows of the validation, best.json and its folder.
@pytest.mark.parametrize("sync", range(10, 20))
def test_a_disk_that_fills_up_while_saving_loses_nothing_old(tmp_path, unbroken, monkeypatch, sync):
    made = trainer(tmp_path)
    console_os, fsync, count = sys.modules["bytecodec.console"].os, os.fsync, itertools.count()

    def full(descriptor):
        if next(count) == sync:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(console_os, "fsync", full)
        try:
            made.train()
        except OSError as error:
            assert error.errno == 28  # noqa: PT017
        else:
            assert sync in (12, 14, 16, 19)  # a folder that cannot be synced loses nothing by it
    assert not list(tmp_path.rglob("*.part"))
    assert files.read_tensors(made.run.resume_file, "resume")[0]["iteration"] >= 7
    assert files.load(made.run.checkpoint_file(7)).val_loss is not None
    finish(tmp_path)
    assert result(tmp_path) == unbroken("fp32")
