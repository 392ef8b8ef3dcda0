"""The training loop: one visible loop for every model, on one process or many.

All it asks of a model is ``loss(x, y, state) -> (mean nats, state)`` and ``initial_state(n) -> state``.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bytecodec.errors import InputError
from charrnn.cuda import graphs
from charrnn.cuda.device_batches import DeviceBatches, fits
from charrnn.data.batches import NEXT_SYMBOL, ContextWindow, ContiguousBatches
from charrnn.data.vocab import Ids
from charrnn.models.char_rnn import Layers
from charrnn.storage import checkpoint as files
from charrnn.storage.csv_log import LOG_COLUMNS, VAL_COLUMNS, CsvLog
from charrnn.storage.retention import count_stale, delete_old, mark_best
from charrnn.storage.run_dir import Run
from charrnn.training import state as train_state
from charrnn.training.distributed import SINGLE_PROCESS, World
from charrnn.training.ema import EMA
from charrnn.training.evaluate import evaluate, in_bits
from charrnn.training.listener import Listener
from charrnn.training.recipe import Settings, learning_rate
from charrnn.training.state import Place
from charrnn.training.step import GraphedStep, Step, kernel_failed, make_optimizer

FLUSH_SECONDS = 1.0  # how far behind the training a reader of the log may be
READ_EVERY = 50  # iterations that a GPU is ahead of the log at most: to be waited for stops it for a moment


class Unread(NamedTuple):
    """An iteration whose outcome, (2,) loss and gradient's norm, may not be known yet."""

    iteration: int
    epoch: float
    rate: float
    outcome: Tensor


class _StoppedError(Exception):
    """A stop was asked for in the middle of a validation, which is then done again when the run goes on."""


class Trainer:
    """A run that learns: made new, or from where its resume file says.

    Parameters
    ----------
    model
        On its device; changed in place.
    parts
        ids (n,) for train and val.
    settings
        How it learns and until when.
    run
        Where it writes.
    package
        ``package(iteration, epoch, train_loss)`` returns the checkpoint to write.
    listeners
        Objects that receive the events of training.
    sample
        Called with the iteration of a complete checkpoint, to write its missing samples.
    world
        The processes that train together, each on rows of its own; the one that leads writes and has listeners.
    context
        Which symbols its batches hold beside each target.
    bits
        What a loss comes to in bits a symbol.
    """

    def __init__(
        self,
        model: Layers,
        parts: Mapping[str, Ids],
        settings: Settings,
        run: Run,
        package: Callable[[int, float, float | None], files.Saveable],
        listeners: Sequence[Listener] = (),
        sample: Callable[[int], None] | None = None,
        world: World = SINGLE_PROCESS,
        context: ContextWindow = NEXT_SYMBOL,
        bits: Callable[[float], float] = in_bits,
    ) -> None:
        self.model, self.parts, self.settings, self.run = model, parts, settings, run
        self.package, self.listeners, self.sample, self.world = package, list(listeners), sample, world
        self.context, self.bits = context, bits
        n, steps = settings.batch_size, settings.seq_length
        self.batches = ContiguousBatches(parts["train"], n, steps, world.rank, world.size, context)
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.optimizer = make_optimizer(model, settings)
        self.step, self.source = self._make_step(), self._source()
        self.ahead = world.size == 1 and settings.device != "cpu"
        self.unread: list[Unread] = []
        self.average = EMA(self.parameters, settings.average) if settings.average else None
        self.place = Place(model.initial_state(self.batches.rows))
        if run.resume_file.exists():
            self.place = train_state.load(run.resume_file, model, self.optimizer, self.average, n, self.batches.own)
        # The last iteration with a resume file and a checkpoint; the latter may have been deleted since.
        self.saved = self.place.iteration if run.checkpoint_file(self.place.iteration).exists() else 0
        if world.is_main:
            self.log = CsvLog(run.log_file, LOG_COLUMNS, self.place.iteration)
            self.val_log = CsvLog(run.val_file, VAL_COLUMNS, self.place.iteration)
            if self.val_log.last:  # the row is written after the resume file
                self.place.checkpointed = max(self.place.checkpointed, int(self.val_log.last["iteration"]))
        self.iterations = settings.iterations(self.batches.row_length)
        self.stale = count_stale(self.run)

    def _source(self) -> ContiguousBatches | DeviceBatches:
        """Where batches come from: the GPU's own memory, where there is one with room for them."""
        settings, ids = self.settings, self.parts["train"]
        if settings.device == "cuda" and fits(ids):
            return DeviceBatches(ids, self.batches, settings.batch_size, settings.device)
        return self.batches

    def _make_step(self) -> Step:
        if self.world.size == 1 and graphs.graphs_enabled(self.settings.device):
            return GraphedStep(self.model, self.optimizer, self.settings)
        share = self.batches.rows / self.settings.batch_size
        return Step(self.model, self.optimizer, self.settings, lambda tensors: self.world.average(tensors, share))

    @property
    def epoch(self) -> float:
        """Epochs that are done."""
        return self.place.position / self.batches.row_length

    @property
    def progress(self) -> float:
        """The part of the planned length that is done: 1 or more where it is at its end."""
        minutes = self.settings.max_minutes
        return max(
            self.place.iteration / self.iterations if self.iterations is not None else 0.0,
            self.place.seconds / (60 * minutes) if minutes is not None else 0.0,
        )

    @property
    def stopped_early(self) -> bool:
        """Whether so many validations in a row brought no new best that it was to end then."""
        return 0 < self.settings.early_stop <= self.stale

    @property
    def finished(self) -> bool:
        """Whether it is at its end, planned or early."""
        return self.progress >= 1 or self.stopped_early

    def train(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """Learn until the planned end, or until ``stopped``; either way what was done is saved.

        Raises
        ------
        InputError
            A loss is not finite, or another process is gone or began with other weights.
        """
        self.model.train()
        try:
            if not self.world.all_equal(self.parameters.values(), self.place.iteration):
                raise InputError(f"the processes did not all read the same {self.run.resume_file}: start again.")
            self.place.checkpointed = int(self.world.broadcast(self.place.checkpointed))
            self.saved = int(self.world.broadcast(self.saved))
            if self.place.iteration and self.place.checkpointed == self.place.iteration:
                self._tidy_up()  # an interruption may have prevented it
                if self.saved == self.place.iteration:
                    self._make_sound()
            with contextlib.suppress(_StoppedError):
                self._loop(stopped)
            if self.saved != self.place.iteration:  # stopped between checkpoints: save one without validation
                self._save()
        finally:
            if self.world.is_main:
                self.log.close()
                self.val_log.close()

    def _loop(self, stopped: Callable[[], bool]) -> None:
        began = self.flushed = time.monotonic()
        began -= self.place.seconds
        while True:
            if self._checkpoint_is_due():
                self._checkpoint(stopped)
            if self.finished or self.world.any(stopped()):
                break
            if not self.unread:
                self.since = time.monotonic()
            self.unread.append(self._iterate())
            if self._reading_is_due():
                self._read(began)
        if self.unread:
            self._read(began)

    def _iterate(self) -> Unread:
        """One batch: forward, backward, clip, step, which a GPU may still be at when this returns."""
        settings, place = self.settings, self.place
        epoch, offset = divmod(place.position, self.batches.row_length)
        if offset == 0:
            place.state = self.model.initial_state(self.batches.rows)
        if self.model.config.dropout:
            torch.manual_seed(_mixed(settings.seed, place.iteration, self.world.rank))
        rate = learning_rate(settings, place.iteration, epoch, self.progress)
        batch = self.source.at(place.position, settings.seq_length)
        x, y = (torch.as_tensor(part, device=settings.device) for part in batch)
        outcome, place.state = self.step(x, y, place.state, rate)
        place.position += settings.seq_length
        place.iteration += 1
        if self.average:
            self.average.update(place.iteration)
        return Unread(place.iteration, self.epoch, rate, outcome)

    def _reading_is_due(self) -> bool:
        """Whether to wait for the device and write down what came of what it was given: at once where nothing runs
        ahead of the host, and before anything is made of it."""
        return (
            not self.ahead
            or len(self.unread) >= READ_EVERY
            or time.monotonic() - self.since > FLUSH_SECONDS
            or self._checkpoint_is_due()
        )

    def _read(self, began: float) -> None:
        """Write the rows of log.csv of all that is unread. Several share the time that they took together."""
        outcomes = torch.stack([unread.outcome for unread in self.unread]).tolist()  # waits for the device
        now, count = time.monotonic(), len(self.unread)
        took = (now - self.since) / count
        self.place.seconds = self.world.broadcast(now - began)
        symbols = self.settings.batch_size * self.settings.seq_length
        for left, unread, (nats, norm) in zip(range(count - 1, -1, -1), self.unread, outcomes, strict=True):
            if not (math.isfinite(nats) and math.isfinite(norm)):
                raise InputError(self._nothing_learnt(nats, unread.iteration))
            row = {
                "iteration": unread.iteration,
                "epoch": unread.epoch,
                "train_loss": nats,
                "train_bits": self.bits(nats),
                "learning_rate": unread.rate,
                "grad_norm": norm,
                "symbols_per_second": symbols / took,
                "elapsed_seconds": self.place.seconds - left * took,
            }
            if self.world.is_main:
                self.log.add(row)
                for listener in self.listeners:
                    listener.iterated(row)
        self.unread.clear()
        if self.world.is_main and now - self.flushed > FLUSH_SECONDS:
            self.log.flush()
            self.flushed = now

    def _nothing_learnt(self, nats: float, iteration: int) -> str:
        if kernel_failed(self.model):
            return (
                f"a barrier of the GPU's kernel timed out at iteration {iteration}. "
                f"Run nothing else on it, and resume from the last save: charrnn-train --resume {self.run.path}"
            )
        files_ = self.run.checkpoints()
        what = f"the loss or its gradient is not finite ({nats}) at iteration {iteration}."
        if not files_:
            return f"{what} Start again with a lower --learning-rate."
        return (
            f"{what} The last good checkpoint is {files_[-1]}; "
            "start again from it with --init-from and a lower --learning-rate."
        )

    def _checkpoint_is_due(self) -> bool:
        iteration = self.place.iteration
        regular = iteration > 0 and iteration % self.settings.checkpoint_every == 0
        return (regular or self.finished) and self.place.checkpointed != iteration

    def _checkpoint(self, stopped: Callable[[], bool]) -> None:
        """Save, then validate and complete the checkpoint with its loss.

        A run that is interrupted in between resumes from here, and validates first.
        """
        iteration = self.place.iteration
        validates = len(self.parts["val"]) > self.context.max_lag
        if not validates:
            self.place.checkpointed = iteration
        if self.saved != iteration or not validates:
            self._save()
        row = self._validate(stopped) if validates else None
        self.place.checkpointed = iteration
        if self.world.is_main:
            if row:
                self._complete(row)
            for listener in self.listeners:
                listener.checkpointed(iteration, row)
        self.stale = int(self.world.broadcast(count_stale(self.run)))
        self._make_sound()

    def _validate(self, stopped: Callable[[], bool]) -> dict[str, float]:
        """Return the row of val.csv for the current weights."""

        def tell(done: int, total: int) -> None:
            if self.world.any(stopped()):
                raise _StoppedError
            for listener in self.listeners:
                listener.validating(done, total)

        with self._weights_to_keep():
            settings, ids = self.settings, self.parts["val"]
            nats = evaluate(self.model, ids, settings.precision, settings.device, tell, self.world, self.context)
        return {
            "iteration": self.place.iteration,
            "epoch": self.epoch,
            "val_loss": nats,
            "val_bits": self.bits(nats),
            "elapsed_seconds": self.place.seconds,
        }

    def _save(self) -> None:
        """Write the checkpoint, and then the resume file.

        A run that is interrupted in between resumes from the old resume file.
        """
        if self.world.is_main:
            self.log.sync()
            for listener in self.listeners:
                listener.saving(self.place.iteration)
            train_loss = float(self.log.last["train_loss"]) if self.log.last else None
            self.run.checkpoints_folder.mkdir(exist_ok=True)
            with self._weights_to_keep():
                package = self.package(self.place.iteration, self.epoch, train_loss)
                files.save(self.run.checkpoint_file(self.place.iteration), package)
            delete_old(self.run, self.settings.keep)
        self.save_resume()
        self.saved = self.place.iteration

    def _complete(self, row: Mapping[str, float]) -> None:
        """Rewrite the checkpoint with its validation loss, and then write the row of val.csv.

        A run that is resumed without the row validates again.
        """
        files.set_val_loss(self.run.checkpoint_file(self.place.iteration), row["val_loss"])
        self.val_log.add(row)
        self.val_log.sync()
        self._tidy_up()

    def _tidy_up(self) -> None:
        """Update best.json and the kept checkpoints from val.csv."""
        if self.world.is_main:
            mark_best(self.run)
            delete_old(self.run, self.settings.keep)

    def _make_sound(self) -> None:
        """Write the missing samples of the last checkpoint, while the other processes wait."""
        if self.sample:
            if self.world.is_main:
                self.sample(self.place.iteration)
                for listener in self.listeners:
                    listener.sampled(self.place.iteration)
            self.world.wait()

    def _weights_to_keep(self) -> contextlib.AbstractContextManager[None]:
        """The network has the weights that are validated and kept: the averaged ones, if the run averages."""
        return self.average.in_place() if self.average else contextlib.nullcontext()

    def save_resume(self) -> None:
        """Write all that going on takes; the rows of all processes in one state, which they are asked for but at the
        beginning, when the others wait for this file."""
        begun = self.place.iteration > 0
        rows = self.settings.batch_size
        state = self.world.gather(self.place.state) if begun else self.model.initial_state(rows)
        if self.world.is_main:
            train_state.save(self.run.resume_file, self.model, self.optimizer, self.average, self.place, state)


def _mixed(seed: int, iteration: int, rank: int) -> int:
    """A seed of an iteration's own, mixed because torch's generator on the CPU takes only 32 of the 64 bits."""
    entropy = (seed, iteration, rank) if rank else (seed, iteration)
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])
