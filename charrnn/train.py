"""The training loop: one visible loop for every model, on one process or many.

All it asks of a model is ``loss(x, y, state) -> (mean nats, state)`` and ``initial_state(n) -> state``.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from bytecodec.errors import InputError
from charrnn import checkpoint as files
from charrnn import graphs, resume
from charrnn.average import Average
from charrnn.data import NEXT_SYMBOL, ContiguousBatches, Reach
from charrnn.evaluate import evaluate, in_bits
from charrnn.model import Layers
from charrnn.parallel import ALONE, World
from charrnn.recipe import Settings, learning_rate
from charrnn.resident import ResidentBatches, fits
from charrnn.resume import Place
from charrnn.runlog import LOG_COLUMNS, VAL_COLUMNS, CsvLog, Run, read_rows, write_json
from charrnn.step import GraphedStep, Step, failed, make_optimizer
from charrnn.vocab import Ids

FLUSH_SECONDS = 1.0  # how far behind the training a reader of the log may be
READ_EVERY = 50  # iterations that a GPU is ahead of the log at most: to be waited for stops it for a moment


class Unread(NamedTuple):
    """An iteration whose outcome, (2,) loss and gradient's norm, may not be known yet."""

    iteration: int
    epoch: float
    rate: float
    outcome: Tensor


class Listener(Protocol):
    """Who is told how it goes."""

    def iterated(self, row: Mapping[str, float]) -> None:
        """An iteration is done; the row is that of log.csv."""

    def validating(self, done: int, total: int) -> None:
        """So many symbols of the validation part are scored."""

    def checkpointed(self, iteration: int, row: Mapping[str, float] | None) -> None:
        """A checkpoint is written; the row is that of val.csv, or None where there is no validation part."""


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
        ``package(iteration, epoch, train_loss, val_loss)`` makes the checkpoint to write.
    listener
        Told of each iteration, validation and checkpoint.
    sample
        Called with the iteration when its checkpoint is on the disk, to make its sound.
    world
        The processes that train together, each on rows of its own; the one that leads writes and listens.
    reach
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
        package: Callable[[int, float, float | None, float | None], files.Keepable],
        listener: Listener,
        sample: Callable[[int], None] | None = None,
        world: World = ALONE,
        reach: Reach = NEXT_SYMBOL,
        bits: Callable[[float], float] = in_bits,
    ) -> None:
        self.model, self.parts, self.settings, self.run = model, parts, settings, run
        self.package, self.listener, self.sample, self.world = package, listener, sample, world
        self.reach, self.bits = reach, bits
        n, steps = settings.batch_size, settings.seq_length
        self.batches = ContiguousBatches(parts["train"], n, steps, world.rank, world.size, reach)
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.optimizer = make_optimizer(model, settings)
        self.step, self.source = self._make_step(), self._source()
        self.ahead = world.size == 1 and settings.device != "cpu"
        self.unread: list[Unread] = []
        self.average = Average(self.parameters, settings.average) if settings.average else None
        self.place = Place(model.initial_state(self.batches.rows))
        if run.resume_file.exists():
            self.place = resume.load(run.resume_file, model, self.optimizer, self.average, n, self.batches.own)
        if world.leads:
            self.log = CsvLog(run.log_file, LOG_COLUMNS, self.place.iteration)
            self.val_log = CsvLog(run.val_file, VAL_COLUMNS, self.place.checkpointed)
        self.iterations = settings.iterations(self.batches.row_length)
        self.stale = self._count_stale()

    def _source(self) -> ContiguousBatches | ResidentBatches:
        """Where batches come from: the GPU's own memory, where there is one with room for them."""
        settings, ids = self.settings, self.parts["train"]
        if settings.device == "cuda" and fits(ids):
            return ResidentBatches(ids, self.batches, settings.batch_size, settings.device)
        return self.batches

    def _make_step(self) -> Step:
        if self.world.size == 1 and graphs.wanted(self.settings.device):
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
            if not self.world.alike(self.parameters.values(), self.place.iteration):
                raise InputError(f"the processes did not all read the same {self.run.resume_file}: start again.")
            with contextlib.suppress(_StoppedError):
                self._loop(stopped)
            if self.place.checkpointed != self.place.iteration:  # stopped: not validated, but something to play
                self._save(None)
        finally:
            if self.world.leads:
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
        self.place.seconds = self.world.leaders(now - began)
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
            if self.world.leads:
                self.log.add(row)
                self.listener.iterated(row)
        self.unread.clear()
        if self.world.leads and now - self.flushed > FLUSH_SECONDS:
            self.log.flush()
            self.flushed = now

    def _nothing_learnt(self, nats: float, iteration: int) -> str:
        if failed(self.model):
            return (
                f"the programs of the GPU's kernel waited for each other in vain at iteration {iteration}. "
                f"Have nothing else run there, and go on from the last save: charrnn-train --resume {self.run.path}"
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
        """Validate and save, at the end of which every process knows how many validations brought no best."""
        row = self._validate(stopped)
        if row and self.world.leads:
            self.val_log.add(row)
            self.val_log.sync()
        self.place.checkpointed = self.place.iteration
        self._save(row["val_loss"] if row else None)
        self.stale = int(self.world.leaders(self._count_stale()))
        if self.world.leads:
            self.listener.checkpointed(self.place.iteration, row)
            if self.sample and self.place.iteration:
                self.sample(self.place.iteration)
        if self.sample:
            self.world.wait()

    def _validate(self, stopped: Callable[[], bool]) -> dict[str, float] | None:
        """The row of val.csv for now, or None where there is no validation part."""
        ids = self.parts["val"]
        if len(ids) <= self.reach.far:
            return None

        def tell(done: int, total: int) -> None:
            if self.world.any(stopped()):
                raise _StoppedError
            if self.world.leads:
                self.listener.validating(done, total)

        with self._weights_to_keep():
            settings = self.settings
            nats = evaluate(self.model, ids, settings.precision, settings.device, tell, self.world, self.reach)
        return {
            "iteration": self.place.iteration,
            "epoch": self.epoch,
            "val_loss": nats,
            "val_bits": self.bits(nats),
            "elapsed_seconds": self.place.seconds,
        }

    def _save(self, val_loss: float | None) -> None:
        """Write the checkpoint, then what hangs on it, and last the resume file: whatever happens in between,
        the old resume file goes on from before all of it."""
        iteration = self.place.iteration
        if self.world.leads:
            self.log.sync()
            if iteration:
                train_loss = float(self.log.last["train_loss"]) if self.log.last else None
                self.run.checkpoints_folder.mkdir(exist_ok=True)
                with self._weights_to_keep():
                    package = self.package(iteration, self.epoch, train_loss, val_loss)
                    files.save(self.run.checkpoint_file(iteration), package)
                self._mark_best()
                self._forget_old()
        self.save_resume()

    def _weights_to_keep(self) -> contextlib.AbstractContextManager[None]:
        """The network has the weights that are validated and kept: the averaged ones, if the run averages."""
        return self.average.in_place() if self.average else contextlib.nullcontext()

    def _mark_best(self) -> None:
        rows = read_rows(self.run.val_file)
        if rows:
            best = min(rows, key=lambda row: float(row["val_loss"]))
            step = int(best["iteration"])
            name = self.run.checkpoint_file(step).relative_to(self.run.path).as_posix()
            write_json(self.run.best_file, {"iteration": step, "val_loss": float(best["val_loss"]), "checkpoint": name})

    def _count_stale(self) -> int:
        """How many validations there were since the best one."""
        stale = 0
        if self.run.val_file.exists():
            losses = [float(row["val_loss"]) for row in read_rows(self.run.val_file)]
            stale = len(losses) - 1 - losses.index(min(losses)) if losses else 0
        return stale

    def _forget_old(self) -> None:
        if self.settings.keep:
            best = (self.run.best() or {}).get("iteration")
            for old in self.run.checkpoints()[: -self.settings.keep]:
                if int(old.stem) != best:
                    old.unlink()

    def save_resume(self) -> None:
        """Write all that going on takes; the rows of all processes in one state, which they are asked for but at the
        beginning, when the others wait for this file."""
        begun = self.place.iteration > 0
        rows = self.settings.batch_size
        state = self.world.gather(self.place.state) if begun else self.model.initial_state(rows)
        if self.world.leads:
            resume.save(self.run.resume_file, self.model, self.optimizer, self.average, self.place, state)


def _mixed(seed: int, iteration: int, rank: int) -> int:
    """A seed of an iteration's own, mixed because torch's generator on the CPU takes only 32 of the 64 bits."""
    entropy = (seed, iteration, rank) if rank else (seed, iteration)
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])
