"""The training loop computes what it should, and writes logs and checkpoints."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_runs import ITERATIONS, PARTS, PER_EPOCH, SETTINGS, changed, finish, result, text, tiny_model, trainer
from torch.nn import functional

from bytecodec.errors import InputError
from charrnn.data.batches import ContiguousBatches
from charrnn.storage import checkpoint as files
from charrnn.storage.csv_log import LOG_COLUMNS, VAL_COLUMNS, read_rows
from charrnn.storage.run_dir import Run
from charrnn.training import evaluate as evaluation
from charrnn.training import iteration_log, own_sound

pytestmark = pytest.mark.usefixtures("short_intervals")


def losses(made):
    return [row["train_loss"] for row in made.listeners[0].rows]


def rates(made):
    return [row["learning_rate"] for row in made.listeners[0].rows]


# Learning


def test_the_network_learns(tmp_path):
    made = finish(tmp_path, changed(max_epochs=20, checkpoint_every=1000))
    assert losses(made)[0] == pytest.approx(math.log(5), abs=0.3)
    assert np.mean(losses(made)[-PER_EPOCH:]) < 0.5  # the entropy of the text is 0.33 nats
    assert made.listeners[0].checkpoints[-1][1]["val_loss"] < 0.8


def test_an_iteration_is_adam_on_the_clipped_gradient_with_the_state_carried(tmp_path):
    """The loop against one that is written out with a plain optimiser."""
    made = finish(tmp_path, changed(max_iterations=25, grad_clip=0.02, lr_decay_every=2))
    model = tiny_model()
    parameters = [p for p in model.parameters() if p.requires_grad]
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]
    batches, expected, clipped = ContiguousBatches(PARTS["train"], 3, 5), [], 0
    for i in range(25):
        state = model.initial_state(3) if i % PER_EPOCH == 0 else state  # noqa: F821
        x, y = map(torch.from_numpy, batches.at(5 * i, 5))
        logits, state = model(x, state)
        state = tuple(tuple(t.detach() for t in layer) for layer in state)
        loss = functional.cross_entropy(logits.reshape(15, 5), y.reshape(15))
        expected.append(loss.item())
        rate = 0.01 * (0.5 if i >= PER_EPOCH else 1)
        for p, gradient, (m, v) in zip(parameters, torch.autograd.grad(loss, parameters), moments, strict=True):
            clipped += int((gradient.abs() > 0.02).sum())
            g = gradient.clamp(-0.02, 0.02)
            m.mul_(0.9).add_(0.1 * g)
            v.mul_(0.999).add_(0.001 * g * g)
            with torch.no_grad():
                p -= rate * (m / (1 - 0.9 ** (i + 1))) / ((v / (1 - 0.999 ** (i + 1))).sqrt() + 1e-8)
    assert clipped > 100
    assert losses(made) == pytest.approx(expected, rel=1e-4)
    for p, q in zip(parameters, made.parameters.values(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-4, rtol=1e-3)


def test_a_limit_that_is_never_reached_changes_nothing_and_the_logged_norm_is_that_before_clipping(tmp_path):
    none, far, near = (
        finish(tmp_path / str(clip), changed(grad_clip=clip, max_iterations=20)) for clip in (0, 1e9, 0.001)
    )
    assert losses(none) == losses(far) != losses(near)
    assert none.listeners[0].rows[0]["grad_norm"] == near.listeners[0].rows[0]["grad_norm"] > 0.05


def test_clipping_by_norm_shortens_the_gradient_and_keeps_its_direction(tmp_path):
    gradients = {}
    for clip, limit in (("value", 0), ("norm", 0.05)):
        made = finish(tmp_path / clip, changed(clip=clip, grad_clip=limit, max_iterations=1))
        gradients[clip] = torch.cat([p.grad.flatten() for p in made.parameters.values()])
        norm = made.listeners[0].rows[0]["grad_norm"]
    assert norm > 0.05
    torch.testing.assert_close(gradients["norm"], gradients["value"] * 0.05 / norm)


def test_matrices_decay_toward_zero_and_biases_do_not(tmp_path):
    plain, decayed = (
        finish(tmp_path / str(decay), changed(max_iterations=1, weight_decay=decay)) for decay in (0.0, 10.0)
    )
    start = dict(tiny_model().named_parameters())
    for name, p in plain.parameters.items():
        decay = 0.1 * start[name] if p.dim() > 1 else torch.zeros_like(p)  # rate times decay times initial weight
        torch.testing.assert_close(decayed.parameters[name], p - decay, atol=1e-6, rtol=1e-5)


def test_the_state_is_zero_at_the_start_of_each_epoch_and_carried_otherwise(tmp_path):
    made = trainer(tmp_path)
    given, returned, loss = [], [], made.model.loss

    def spy(x, y, state):
        if made.model.training:
            given.append([t.tolist() for layer in state for t in layer])
        value, state = loss(x, y, state)
        if made.model.training:
            returned.append([t.tolist() for layer in state for t in layer])
        return value, state

    made.model.loss = spy
    made.train()
    assert len(given) == ITERATIONS
    for i in range(ITERATIONS):
        if i % PER_EPOCH == 0:
            assert not np.any(np.array(given[i]))
        else:
            assert given[i] == returned[i - 1]


def test_validation_does_not_change_the_training(tmp_path):
    results = []
    for name, every in (("often", 1), ("once", 1000)):
        finish(tmp_path / name, changed(checkpoint_every=every), network={"dropout": 0.3})
        results.append(result(tmp_path / name))
        del results[-1]["metadata"]["checkpointed"]  # the iteration of the validation before the file was written
    for kind in ("log", "tensors", "weights", "metadata"):
        assert results[0][kind] == results[1][kind]
    assert len(results[0]["val"]) == ITERATIONS
    assert results[1]["val"] == results[0]["val"][-1:]


def test_dropout_depends_on_the_seed_and_the_iteration_only(tmp_path):
    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 5)):
        torch.manual_seed(len(found))
        found.append(losses(finish(tmp_path / name, changed(seed=seed), network={"dropout": 0.5})))
    assert found[0] == found[1] != found[2]


def test_without_noise_rows_of_a_network_that_reads_samples_restart_from_silence(tmp_path, monkeypatch):
    monkeypatch.setattr(own_sound, "EVERY", 15)
    monkeypatch.setattr(own_sound, "FROM_SILENCE", 1)
    settings = changed(max_iterations=5, max_epochs=None)
    made = finish(tmp_path, settings, network={"vocab_size": 256, "context": 2, "prediction": "lpc"})
    samples, phase = made.state.hidden[-1][:2]
    # Of 5 iterations of 5 symbols, row 0 restarted before the first and the fourth, row 1 before the second and the
    # fifth, and row 2 before the third.
    assert phase[:, 0].tolist() == [10, 5, 15]
    assert [int(torch.count_nonzero(row)) for row in samples] == [10, 5, 15]


# Schedule and length


def test_a_rate_in_steps_is_halved_at_epochs_that_are_multiples_counted_from_1(tmp_path):
    made = finish(tmp_path, changed(max_epochs=6, lr_decay_every=2, checkpoint_every=1000, learning_rate=0.5**9))
    assert rates(made) == [0.5 ** (9 + n) for n in (0, 1, 1, 2, 2, 3) for _ in range(PER_EPOCH)]


def test_along_a_cosine_the_last_step_is_the_smallest(tmp_path):
    made = finish(tmp_path, changed(schedule="cosine", max_iterations=40, max_epochs=None, warmup=10))
    assert rates(made)[0] == pytest.approx(0.001)
    assert max(rates(made)) == rates(made)[2]  # a twentieth of 40 iterations
    assert rates(made)[20] == pytest.approx(0.005)
    assert rates(made)[-1] == min(rates(made)) < 2e-5


def test_if_only_the_time_is_limited_the_rate_falls_with_the_time(tmp_path, monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(iteration_log.time, "monotonic", lambda: float(next(clock)))
    made = finish(tmp_path, changed(schedule="cosine", max_epochs=None, max_minutes=5))
    rows = made.listeners[0].rows
    assert len(rows) > 20
    for before, row in itertools.pairwise(rows):
        expected = 0.005 * (1 + math.cos(math.pi * before["elapsed_seconds"] / 300))
        assert row["learning_rate"] == pytest.approx(expected)


def test_a_run_with_a_time_limit_ends_with_a_validation_and_a_checkpoint(tmp_path):
    made = finish(tmp_path, changed(max_epochs=None, max_minutes=1e-6))
    assert made.state.iteration == 1
    assert [i for i, _ in made.listeners[0].checkpoints] == [1]


@pytest.mark.parametrize("limit", [1, 2])
def test_early_stop_ends_after_that_many_validations_without_a_new_best(tmp_path, limit):
    made = finish(tmp_path, changed(learning_rate=0.3, max_epochs=60, early_stop=limit))
    found = [float(row["val_loss"]) for row in read_rows(tmp_path / "val.csv")]
    assert made.stopped_early
    assert made.state.iteration < made.iterations
    assert len(found) - 1 - found.index(min(found)) == limit
    again = trainer(tmp_path, made.settings)
    calibrated = []
    again.calibrate = calibrated.append
    again.train()  # resuming does not train further
    assert (again.listeners[0].rows, again.validations_since_best) == ([], limit)
    assert calibrated == [made.state.iteration, Run(tmp_path).best()["iteration"]]


# Files


def test_the_logs_have_a_row_per_iteration_and_a_row_per_validation(tmp_path):
    made = finish(tmp_path)
    log, val = read_rows(tmp_path / "log.csv"), read_rows(tmp_path / "val.csv")
    assert (list(log[0]), list(val[0])) == (list(LOG_COLUMNS), list(VAL_COLUMNS))
    assert [int(row["iteration"]) for row in log] == list(range(1, ITERATIONS + 1))
    assert [int(row["iteration"]) for row in val] == [7, 14, 21, 28, 35, 42]
    for row in log:
        assert float(row["epoch"]) == pytest.approx(int(row["iteration"]) / PER_EPOCH)
        assert float(row["train_bits"]) == pytest.approx(float(row["train_loss"]) / math.log(2))
        assert float(row["symbols_per_second"]) > 0
    seconds = [float(row["elapsed_seconds"]) for row in log]
    assert seconds == sorted(seconds)
    assert losses(made) == pytest.approx([float(row["train_loss"]) for row in log])
    assert made.listeners[0].validations == [(50, 119), (100, 119)] * 6
    assert [i for i, _ in made.listeners[0].checkpoints] == [7, 14, 21, 28, 35, 42]


def test_checkpoints_have_the_weights_that_were_validated_and_their_loss(tmp_path):
    finish(tmp_path, changed(ema_decay=0.9))
    for row in read_rows(tmp_path / "val.csv"):
        found = files.load(Run(tmp_path).checkpoint_file(int(row["iteration"])))
        assert evaluation.evaluate(found.model, PARTS["val"]) == pytest.approx(float(row["val_loss"]), rel=1e-6)
        assert found.val_loss == pytest.approx(float(row["val_loss"]), rel=1e-6)
        assert float(row["val_bits"]) == pytest.approx(found.val_loss / math.log(2))
        assert (found.step, found.epoch) == (int(row["iteration"]), pytest.approx(float(row["epoch"])))


@pytest.mark.parametrize("keep", [1, 3])
def test_keep_leaves_the_newest_and_the_best(tmp_path, keep):
    finish(tmp_path, changed(learning_rate=0.3, max_epochs=6, keep=keep))
    val = {int(row["iteration"]): float(row["val_loss"]) for row in read_rows(tmp_path / "val.csv")}
    best, newest = min(val, key=val.get), list(val)[-keep:]
    assert best not in newest  # so high a rate diverges before the end
    name = f"checkpoints/{best:08d}.safetensors"
    assert Run(tmp_path).best() == {"iteration": best, "val_loss": val[best], "checkpoint": name}
    assert [int(file.stem) for file in Run(tmp_path).checkpoints()] == [best, *newest]


@pytest.mark.parametrize("size", [0, 1])
def test_without_a_validation_part_there_are_checkpoints_and_no_losses(tmp_path, size):
    made = finish(tmp_path, parts=PARTS | {"val": PARTS["val"][:size]})
    assert made.listeners[0].checkpoints == [(i, None) for i in (7, 14, 21, 28, 35, 42)]
    assert read_rows(tmp_path / "val.csv") == []
    assert Run(tmp_path).best() is None
    assert files.load(tmp_path / "checkpoints" / "00000042.safetensors").val_loss is None


# Errors


def test_a_training_part_smaller_than_a_batch_is_rejected(tmp_path):
    with pytest.raises(ValueError, match="15 symbols are less than a batch"):
        trainer(tmp_path, parts=PARTS | {"train": text(15)})


def test_a_loss_that_is_not_finite_names_the_last_good_checkpoint_which_can_be_resumed(tmp_path, uninterrupted):
    made = trainer(tmp_path)

    def spoil(event, number):
        if (event, number) == ("iterated", 17):
            with torch.no_grad():
                made.model.output.weight[0, 0] = math.nan

    made.listeners[0].at = spoil
    with pytest.raises(InputError, match=r"\(nan\) at iteration 18.*00000014\.safetensors"):
        made.train()
    finish(tmp_path)
    assert result(tmp_path) == uninterrupted("fp32")


def test_a_loss_that_is_not_finite_before_the_first_checkpoint_leaves_no_resume_file(tmp_path):
    made = trainer(tmp_path, replace(SETTINGS, max_iterations=9))
    with torch.no_grad():
        made.model.output.bias[0] = math.inf
    with pytest.raises(InputError, match=r"at iteration 1\. Start again"):
        made.train()
    assert not made.run.resume_file.exists()
