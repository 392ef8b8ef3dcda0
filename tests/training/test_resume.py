"""A run that is stopped, killed or fails at any moment ends as if it had never been interrupted."""

import itertools
import os
import shutil
import sys

import pytest
import torch
from tiny_runs import ITERATIONS, PARTS, SETTINGS, VARIANTS, Recorder, changed, finish, result, tiny_task, trainer

from bytecodec.errors import InputError
from charrnn.models.char_rnn import build
from charrnn.models.config import ModelConfig
from charrnn.storage import checkpoint as files
from charrnn.storage.csv_log import read_rows
from charrnn.storage.run_dir import Run
from charrnn.training import iteration_log
from charrnn.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("short_intervals")


class StopAt:
    """A function that asks to stop at its n-th call, counted from 0."""

    def __init__(self, n):
        self.left = n

    def __call__(self):
        self.left -= 1
        return self.left < 0


# The loop asks after each iteration, 42 times, and each validation of two steps twice. Question 7 is the first one of a
# validation, 55 the last of all.
@pytest.mark.parametrize("question", [0, 7, 8, 23, 55])
def test_a_run_that_is_stopped_and_resumed_ends_as_one_that_was_not(tmp_path, uninterrupted, question):
    first = trainer(tmp_path)
    first.train(StopAt(question))
    assert first.state.iteration <= question
    logged = [int(row["iteration"]) for row in read_rows(tmp_path / "log.csv")]
    assert logged == list(range(1, first.state.iteration + 1))
    finish(tmp_path)
    assert result(tmp_path) == uninterrupted("fp32")


@pytest.mark.parametrize("variant", ["bf16", "modern", "keep", "prediction"])
def test_a_run_that_is_stopped_again_and_again_ends_as_one_that_was_not(tmp_path, request, uninterrupted, variant):
    if variant == "bf16":
        request.getfixturevalue("bf16")
    settings, network = VARIANTS[variant]
    for starts in itertools.count(1):
        torch.manual_seed(starts)  # torch's generator has no influence
        made = trainer(tmp_path, settings, network=network)
        made.train(StopAt(3))
        if made.finished and made.state.checkpointed == ITERATIONS:
            break
    assert starts > 12
    assert result(tmp_path) == uninterrupted(variant)


def test_a_stop_in_a_validation_saves_the_checkpoint_and_validates_when_the_run_is_resumed(tmp_path):
    first = trainer(tmp_path)
    first.train(StopAt(8))  # seven iterations, and one step of the validation
    assert first.listeners[0].validations == [(50, 119)]
    assert read_rows(tmp_path / "val.csv") == []
    assert files.load(tmp_path / "checkpoints" / "00000007.safetensors").val_loss is None
    assert first.model.training
    finish(tmp_path)
    assert files.load(tmp_path / "checkpoints" / "00000007.safetensors").val_loss is not None


def test_a_finished_run_is_left_as_it_is(tmp_path):
    finish(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    again = finish(tmp_path)
    assert again.listeners[0].rows == again.listeners[0].checkpoints == []
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_run_with_a_new_length_continues_where_the_shorter_one_ended(tmp_path, uninterrupted):
    finish(tmp_path, changed(max_iterations=28))
    finish(tmp_path)
    assert result(tmp_path) == uninterrupted("fp32")


def test_the_time_of_a_run_does_not_include_its_pauses(tmp_path):
    trainer(tmp_path).train(StopAt(10))
    made = trainer(tmp_path)
    before = made.state.seconds
    assert before > 0
    made.train(StopAt(3))
    assert read_rows(tmp_path / "log.csv")[9]["iteration"] == "10"
    assert float(read_rows(tmp_path / "log.csv")[10]["elapsed_seconds"]) > before


# Validations that fail


class OutOfMemory(Recorder):
    """Listener that raises MemoryError in the validation of an iteration."""

    def __init__(self, iteration):
        super().__init__()
        self.iteration = iteration

    def validating(self, done, total):
        if self.rows and self.rows[-1]["iteration"] == self.iteration:
            raise MemoryError


def fail(folder, iteration, settings=SETTINGS, **options):
    with pytest.raises(MemoryError):
        trainer(folder, settings, OutOfMemory(iteration), **options).train()


@pytest.mark.parametrize(("variant", "iteration"), [("modern", 7), ("keep", 42)])
def test_a_validation_that_fails_loses_nothing_and_is_repeated(tmp_path, uninterrupted, variant, iteration):
    settings, network = VARIANTS[variant]
    fail(tmp_path, iteration, settings, network=network)
    assert files.load(Run(tmp_path).checkpoint_file(iteration)).val_loss is None
    assert files.read_tensors(Run(tmp_path).resume_file, "resume")[0]["iteration"] == iteration
    again = finish(tmp_path, settings, network=network)
    assert [row["iteration"] for row in again.listeners[0].rows] == list(range(iteration + 1, ITERATIONS + 1))
    assert again.listeners[0].checkpoints[0][0] == iteration
    assert result(tmp_path) == uninterrupted(variant)


def test_a_run_with_a_time_limit_that_fails_in_its_last_validation_only_repeats_that(tmp_path):
    settings = changed(max_epochs=None, max_minutes=1e-6)
    fail(tmp_path, 1, settings)
    again = finish(tmp_path, settings)
    assert again.listeners[0].rows == []
    assert [i for i, _ in again.listeners[0].checkpoints] == [1]


def test_early_stop_is_the_same_after_a_validation_that_failed(tmp_path):
    settings = changed(learning_rate=0.3, max_epochs=60, early_stop=1)
    end = finish(tmp_path / "whole", settings).state.iteration
    fail(tmp_path / "failed", end, settings)
    assert finish(tmp_path / "failed", settings).stopped_early
    assert result(tmp_path / "failed") == result(tmp_path / "whole")


def test_a_deleted_checkpoint_is_written_again_before_its_validation(tmp_path, uninterrupted):
    fail(tmp_path, 42)
    Run(tmp_path).checkpoint_file(42).unlink()
    finish(tmp_path)
    assert result(tmp_path) == uninterrupted("fp32")


def test_a_run_of_a_version_that_validated_before_it_saved_can_be_resumed(tmp_path, uninterrupted):
    """Such a version wrote the row of val.csv before the resume file."""
    trainer(tmp_path).train(StopAt(11))
    assert [row["iteration"] for row in read_rows(tmp_path / "val.csv")] == ["7"]
    with (tmp_path / "val.csv").open("a") as file:
        file.write("14,0.7,1.5,2.2,0.5\n")
    finish(tmp_path)
    assert result(tmp_path) == uninterrupted("fp32")


# Samples at checkpoints


class Sampler:
    """Recorder of the iterations that are sampled; sampling at one iteration is interrupted."""

    def __init__(self, interrupted_at=None):
        self.sampled, self.stopped, self.interrupted_at = [], False, interrupted_at

    def __call__(self, iteration):
        self.stopped = iteration == self.interrupted_at
        if not self.stopped:
            self.sampled.append(iteration)


def sample(folder, sampler, **options):
    """Train with a sampler until it is interrupted."""
    made = trainer(folder, sample=sampler, **options)
    made.train(lambda: sampler.stopped)
    return made


@pytest.mark.parametrize(("size", "iteration"), [(120, 42), (0, 14)])
def test_a_sample_that_was_interrupted_is_written_before_training_continues(tmp_path, size, iteration):
    parts = PARTS | {"val": PARTS["val"][:size]}
    first, second, events = Sampler(iteration), Sampler(), []
    assert sample(tmp_path, first, parts=parts).state.iteration == iteration
    recorder = Recorder(lambda event, number: events.append(list(second.sampled)))
    sample(tmp_path, second, parts=parts, listener=recorder)
    assert first.sampled + second.sampled == [7, 14, 21, 28, 35, 42]
    assert all(sampled[0] == iteration for sampled in events)


def test_the_checkpoint_of_a_stop_is_not_sampled(tmp_path):
    sampler = Sampler()
    trainer(tmp_path).train(StopAt(12))
    assert Run(tmp_path).checkpoints()[-1].stem == "00000010"
    sample(tmp_path, sampler)
    assert sampler.sampled == [14, 21, 28, 35, 42]


# Kills and full disks


@pytest.mark.parametrize("variant", ["fp32", "modern"])
def test_a_run_that_was_killed_ends_as_one_that_was_not(tmp_path, uninterrupted, variant, monkeypatch):
    """The folder is copied at each event, with an incomplete row at the end of each log."""
    monkeypatch.setattr(iteration_log, "FLUSH_SECONDS", -1)  # rows are written at once, long before a resume file
    settings, network = VARIANTS[variant]
    copies = []

    def copy(event, number):
        if event != "iterated" or number in (1, 3, 8, 19, 20, 41):
            folder = tmp_path / f"copy{len(copies)}"
            shutil.copytree(tmp_path / "run", folder)
            for name in ("log.csv", "val.csv"):
                with (folder / name).open("a") as file:
                    file.write("9")
            copies.append(folder)

    finish(tmp_path / "run", settings, network=network, listener=Recorder(copy))
    assert len(copies) == 6 + 3 * 6
    for folder in copies[:: 1 if variant == "fp32" else 5]:
        finish(folder, settings, network=network)
        assert result(folder) == uninterrupted(variant), folder.name


@pytest.mark.parametrize("variant", ["fp32", "keep"])
def test_a_run_killed_before_or_after_any_file_is_renamed_ends_as_one_that_was_not(
    tmp_path, uninterrupted, variant, monkeypatch
):
    console_os = sys.modules["bytecodec.console"].os
    replace, copies = console_os.replace, []

    def copied(source, target):
        for do in (lambda: None, lambda: replace(source, target)):
            do()
            if 7 < made.state.iteration < 22:
                copies.append(tmp_path / f"copy{len(copies)}")
                shutil.copytree(tmp_path / "run", copies[-1])

    settings, _ = VARIANTS[variant]
    made = trainer(tmp_path / "run", settings)
    with monkeypatch.context() as patch:
        patch.setattr(console_os, "replace", copied)
        made.train()
    assert len(copies) == 2 * 2 * 4  # at two checkpoints: checkpoint, resume file, checkpoint with its loss, best.json
    for folder in copies:
        finish(folder, settings)
        assert result(folder) == uninterrupted(variant), folder.name


def test_a_full_disk_at_any_sync_of_a_checkpoint_loses_nothing_older(tmp_path, uninterrupted, monkeypatch):
    """Syncs 10 to 19 are those of the second checkpoint: rows of the log, checkpoint, resume file, checkpoint with its
    loss, row of the validation, best.json, and the folder of each file."""
    console_os, fsync = sys.modules["bytecodec.console"].os, os.fsync
    for sync in range(10, 20):
        folder, count = tmp_path / str(sync), itertools.count()
        made = trainer(folder)

        def full(descriptor, count=count, sync=sync):
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
                assert sync in (12, 14, 16, 19)  # a folder that cannot be synced is no error
        assert not list(folder.rglob("*.part"))
        assert files.read_tensors(made.run.resume_file, "resume")[0]["iteration"] >= 7
        assert files.load(made.run.checkpoint_file(7)).val_loss is not None
        finish(folder)
        assert result(folder) == uninterrupted("fp32"), sync


def test_the_resume_file_of_another_run_is_rejected(tmp_path):
    finish(tmp_path)
    other = build(ModelConfig(5, 4, 7, 2), 0)
    with pytest.raises(InputError, match="does not belong to this run"):
        Trainer(tiny_task(other), SETTINGS, Run(tmp_path))
    with pytest.raises(InputError, match="hidden state"):
        trainer(tmp_path, changed(batch_size=4))
    file = Run(tmp_path).resume_file
    metadata, tensors = files.read_tensors(file, "resume")
    metadata = {name: value for name, value in metadata.items() if name not in ("format", "kind")}
    files.write_tensors(file, "resume", tensors | {"model.output.bias": torch.full((5,), torch.nan)}, metadata)
    with pytest.raises(InputError, match=r"output\.bias has numbers that are not finite"):
        trainer(tmp_path)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match="incomplete"):
        trainer(tmp_path)
