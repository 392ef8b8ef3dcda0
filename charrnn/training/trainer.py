"""The training loop: one for every kind of network, on one process or many.

A kind of network is a `charrnn.training.task.TrainingTask`. The loop calls two methods of its network,
``loss(x, y, state) -> (mean loss, state)`` and ``initial_state(n, training) -> state``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from bytecodec.errors import InputError
from charrnn.cuda.backends import Backend
from charrnn.cuda.device_batches import place_batches
from charrnn.data.batches import ContiguousBatches
from charrnn.models.char_rnn import CharRNN, State
from charrnn.storage import checkpoint as files
from charrnn.storage.csv_log import VAL_COLUMNS, CsvLog
from charrnn.storage.run_dir import Run, delete_old, validations_since_best, write_best
from charrnn.training import state as train_state
from charrnn.training.distributed import SINGLE_PROCESS, World
from charrnn.training.ema import EMA
from charrnn.training.evaluate import evaluate
from charrnn.training.iteration_log import IterationLog
from charrnn.training.listener import Listener
from charrnn.training.own_sound import OwnSound
from charrnn.training.recipe import Settings, learning_rate
from charrnn.training.state import TrainState
from charrnn.training.step import make_optimizer, make_step

if TYPE_CHECKING:
    from charrnn.training.task import TrainingTask


class _StoppedError(Exception):
    """Raised to leave a validation that is stopped; it is repeated when the run is resumed."""


class Trainer:
    """The training loop of a run, from its beginning or from its resume file.

    The network of the task is on its device, and is changed in place. Each process of the world trains on some of the
    rows; only the main one writes files and has listeners. ``sample`` writes the missing samples of the checkpoint of
    an iteration, and ``calibrate`` calibrates it, unless it is already calibrated.
    """

    def __init__(
        self,
        task: TrainingTask,
        settings: Settings,
        run: Run,
        listeners: Sequence[Listener] = (),
        sample: Callable[[int], None] | None = None,
        calibrate: Callable[[int], None] | None = None,
        world: World = SINGLE_PROCESS,
        backend: Backend | None = None,
    ) -> None:
        self.task, self.model, self.settings, self.run = task, task.model, settings, run
        self.listeners, self.world = list(listeners), world
        self.sample, self.calibrate = sample, calibrate  # which charrnn-train sets later
        self.backend = backend or Backend()
        self.backend.install(self.model)
        rows = settings.batch_size
        self.batches = ContiguousBatches(
            task.parts["train"], rows, settings.seq_length, world.rank, world.size, task.context
        )
        self.source = place_batches(task.parts["train"], self.batches, rows, settings.device)
        self.parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.optimizer = make_optimizer(self.model, settings)
        share = self.batches.rows / rows
        reduce = None if world.size == 1 else lambda tensors: world.all_reduce_weighted_mean(tensors, share)
        self.step = make_step(self.model, self.optimizer, settings, self.backend, reduce)
        self.ema = EMA(self.parameters, settings.ema_decay) if settings.ema_decay else None
        local_rows = self.batches.own
        self.own_sound: OwnSound | None = None
        if isinstance(self.model, CharRNN) and self.model.config.reads_samples:
            self.own_sound = OwnSound(self.model, local_rows, rows, settings.seq_length, settings.seed)
        self.state = TrainState(*self._initial_states(self.batches.rows))
        if run.resume_file.exists():
            stored = (run.resume_file, self.model, self.optimizer, self.ema, self.own_sound)
            self.state = train_state.load(*stored, rows, local_rows)
        # The last iteration with a resume file and a checkpoint; the latter may have been deleted since.
        self.saved = self.state.iteration if run.checkpoint_file(self.state.iteration).exists() else 0
        self.log = IterationLog(task, settings, run, self.state, self.listeners, world, self.backend)
        if world.is_main:
            self.val_log = CsvLog(run.val_file, VAL_COLUMNS, self.state.iteration)
            if self.val_log.last:  # the row is written after the resume file
                self.state.checkpointed = max(self.state.checkpointed, int(self.val_log.last["iteration"]))
        self.iterations = settings.iterations(self.batches.row_length)
        self.validations_since_best = validations_since_best(run)

    @property
    def epoch(self) -> float:
        """The number of epochs so far."""
        return self.state.position / self.batches.row_length

    @property
    def progress(self) -> float:
        """The fraction of the planned length so far: 1 or more at the end."""
        minutes = self.settings.max_minutes
        return max(
            self.state.iteration / self.iterations if self.iterations is not None else 0.0,
            self.state.seconds / (60 * minutes) if minutes is not None else 0.0,
        )

    @property
    def stopped_early(self) -> bool:
        """Whether training ended because the validation loss stopped falling."""
        return 0 < self.settings.early_stop <= self.validations_since_best

    @property
    def finished(self) -> bool:
        """Whether the planned or the early end is reached."""
        return self.progress >= 1 or self.stopped_early

    def train(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """Train until the end, or until ``stopped()``; in both cases everything is saved.

        A loss that is not finite is an error, and so is another process that has ended or started with other weights.
        """
        self.model.train()
        try:
            self._synchronise()
            self._finish_last_checkpoint()
            with contextlib.suppress(_StoppedError):
                self._loop(stopped)
            if self.saved != self.state.iteration:  # stopped between checkpoints: save one without validation
                self._save()
        finally:
            if self.world.is_main:
                self.log.file.close()
                self.val_log.close()

    def _loop(self, stopped: Callable[[], bool]) -> None:
        state, settings = self.state, self.settings
        self.log.start()
        while True:
            if self._checkpoint_is_due():
                self._checkpoint(stopped)
            if self.finished or self.world.any(stopped()):
                break
            self.log.begin_iteration()
            self._prepare_iteration()
            rate = learning_rate(settings, state.iteration, int(self.epoch), self.progress)
            batch = self.source.at(state.position, settings.seq_length)
            x, y = (torch.as_tensor(part, device=settings.device) for part in batch)
            outcome, state.hidden = self.step(x, y, state.hidden, rate)
            state.position += settings.seq_length
            state.iteration += 1
            if self.ema:
                self.ema.update(state.iteration)
            row = {"iteration": state.iteration, "epoch": self.epoch, "learning_rate": rate}
            self.log.add(row, outcome)
            if self.log.is_due() or self._checkpoint_is_due():
                self.log.write()
        self.log.write()

    def _synchronise(self) -> None:
        if not self.world.all_equal(self.parameters.values(), self.state.iteration):
            raise InputError(f"the processes did not all read the same {self.run.resume_file}: start again.")
        self.state.checkpointed = int(self.world.broadcast(self.state.checkpointed))
        self.saved = int(self.world.broadcast(self.saved))

    def _finish_last_checkpoint(self) -> None:
        """Complete the last checkpoint if the run was interrupted between saving and sampling."""
        if self.state.iteration and self.state.checkpointed == self.state.iteration:
            self._update_best()
            if self.saved == self.state.iteration:
                self._write_samples()

    def _prepare_iteration(self) -> None:
        """Reset the states of all rows at the start of an epoch, restart those that are due, seed dropout and noise.

        At the start of an epoch the sample history of a row is silence, not the preceding samples: the network learns
        to recover from bad predictions, and what it generates is more like the recording.
        """
        if self.state.position % self.batches.row_length == 0:
            self.state.hidden = self.model.initial_state(self.batches.rows, training=True)
        if self.own_sound:
            self._restart_rows(self.own_sound)
        if self.model.uses_randomness:
            torch.manual_seed(_iteration_seed(self.settings.seed, self.state.iteration, self.world.rank))

    def _restart_rows(self, sound: OwnSound) -> None:
        """Restart the rows of this process that are due, from the network's own sound or from silence."""
        state = self.state
        if sound.draw_is_due(state.iteration):
            with self._saved_weights():
                state.own_sound = sound.draw(state.own_sound, state.iteration)
        sound.restart_rows(state.own_sound, state.hidden, state.iteration)

    def _initial_states(self, rows: int) -> tuple[State, State]:
        """Return the hidden state of a number of rows before the first iteration, and that of their own sound."""
        hidden = self.model.initial_state(rows, training=True)
        return hidden, self.own_sound.initial_state(rows) if self.own_sound else ()

    def _checkpoint_is_due(self) -> bool:
        iteration = self.state.iteration
        regular = iteration > 0 and iteration % self.settings.checkpoint_every == 0
        return (regular or self.finished) and self.state.checkpointed != iteration

    def _checkpoint(self, stopped: Callable[[], bool]) -> None:
        """Save, then validate and complete the checkpoint; a run that is interrupted in between validates first."""
        iteration = self.state.iteration
        validates = len(self.task.parts["val"]) > self.task.context.max_lag
        if not validates:
            self.state.checkpointed = iteration
        if self.saved != iteration or not validates:
            self._save()
        row = self._validate(stopped) if validates else None
        self.state.checkpointed = iteration
        if self.world.is_main:
            if row:
                self._complete_checkpoint(row)
            for listener in self.listeners:
                listener.checkpointed(iteration, row)
        self.validations_since_best = int(self.world.broadcast(validations_since_best(self.run)))
        self._write_samples()

    def _validate(self, stopped: Callable[[], bool]) -> dict[str, float]:
        """Return the row of val.csv for the current weights."""

        def on_progress(done: int, total: int) -> None:
            if self.world.any(stopped()):
                raise _StoppedError
            for listener in self.listeners:
                listener.validating(done, total)

        settings, task = self.settings, self.task
        with self._saved_weights():
            val, device = task.parts["val"], settings.device
            loss = evaluate(self.model, val, settings.precision, device, on_progress, self.world, task.context)
        return {
            "iteration": self.state.iteration,
            "epoch": self.epoch,
            "val_loss": loss,
            "val_bits": task.bits(loss),
            "elapsed_seconds": self.state.seconds,
        }

    def _save(self) -> None:
        """Write the checkpoint, and then the resume file; a run that is interrupted in between has the old one."""
        iteration = self.state.iteration
        if self.world.is_main:
            self.log.file.sync()
            for listener in self.listeners:
                listener.saving(iteration)
            train_loss = float(self.log.file.last["train_loss"]) if self.log.file.last else None
            self.run.checkpoints_folder.mkdir(exist_ok=True)
            with self._saved_weights():
                files.save(self.run.checkpoint_file(iteration), self.task.checkpoint(iteration, self.epoch, train_loss))
            delete_old(self.run, self.settings.keep)
        self.save_resume()
        self.saved = iteration

    def _complete_checkpoint(self, row: Mapping[str, float]) -> None:
        """Add the validation loss to the checkpoint, and then write the row of val.csv.

        A run that is resumed without the row validates again.
        """
        files.set_val_loss(self.run.checkpoint_file(self.state.iteration), row["val_loss"])
        self.val_log.add(row)
        self.val_log.sync()
        self._update_best()

    def _update_best(self) -> None:
        """Update best.json and the kept checkpoints from val.csv."""
        if self.world.is_main:
            write_best(self.run)
            delete_old(self.run, self.settings.keep)

    def _write_samples(self) -> None:
        """Write missing samples, while the other processes wait.

        At the end, first calibrate the last and the best checkpoint, one of which users sample from.
        """
        if self.world.is_main:
            iterations = [self.state.iteration]
            if self.calibrate and self.finished:
                best = self.run.best()
                if best and best["iteration"] != self.state.iteration:
                    iterations.append(best["iteration"])
                for iteration in iterations:
                    self.calibrate(iteration)
            if self.sample:
                for iteration in iterations:
                    self.sample(iteration)
                for listener in self.listeners:
                    listener.sampled(self.state.iteration)
        self.world.barrier()

    def _saved_weights(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which the network has the weights that are validated and saved: their average, if any."""
        return self.ema.applied() if self.ema else contextlib.nullcontext()

    def save_resume(self) -> None:
        """Write the resume file, with the states of the rows of all processes.

        At iteration 0 they are the initial states, and are not gathered: the other processes are waiting for this file.
        """
        if self.state.iteration:
            hidden, own_sound = map(self.world.gather_state, (self.state.hidden, self.state.own_sound))
        else:
            hidden, own_sound = self._initial_states(self.settings.batch_size)
        if self.world.is_main:
            everything = replace(self.state, hidden=hidden, own_sound=own_sound)
            train_state.save(self.run.resume_file, self.model, self.optimizer, self.ema, everything)


def _iteration_seed(seed: int, iteration: int, rank: int) -> int:
    """Return a seed for one iteration, mixed because torch's CPU generator uses only 32 of the 64 bits."""
    entropy = (seed, iteration, rank) if rank else (seed, iteration)
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])
