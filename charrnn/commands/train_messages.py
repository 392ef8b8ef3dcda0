"""Messages of charrnn-train before, during and after training."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bytecodec.console import duration, log, progress
from charrnn.training.listener import Listener

if TYPE_CHECKING:
    from charrnn.training.trainer import Trainer

ESTIMATE_AFTER = 5.0  # seconds of training before the remaining time is estimated
LINE_EVERY = 10.0  # seconds between lines without a terminal
AVERAGED = 50  # iterations, about, whose mean loss is displayed
DIGITS = "#.4g"  # four significant digits, since a mean squared error is a small number


def log_plan(trainer: Trainer, config: dict[str, Any], quiet: bool) -> None:
    """Print the network, the data, the length of training and the run's folder."""
    from charrnn.data import baselines

    task = trainer.task
    parts = ", ".join(f"{name} {count:,}" for name, count in task.counts().items())
    length = f", {duration(config['symbols'] / task.rate)} of sound" if task.rate else ""
    log(f"network   {_network(trainer)}", quiet)
    log(f"data      {', '.join(config['inputs'])}: {config['symbols']:,} {task.units}{length}; {parts}", quiet)
    if bits := config.get("yardsticks"):  # missing in runs of older versions
        log(f"baseline  validation part: {baselines.summary(bits)}", quiet)
    log(f"training  {_training(trainer, config['threads'])}", quiet)
    log(f"run       {trainer.run.path}", quiet)
    if len(task.parts["val"]) <= task.context.max_lag:
        log("there is no validation part, so val.csv stays empty.", quiet)


class ProgressDisplay(Listener):
    """Display of progress: a bar on a terminal, otherwise a line every ``print_every`` iterations (0: ten seconds)."""

    def __init__(self, trainer: Trainer, quiet: bool, print_every: int = 0) -> None:
        from charrnn.data import baselines

        self._trainer, self._quiet, self._print_every = trainer, quiet, print_every
        self._started = self._last_line = time.monotonic()
        self._first = trainer.state.iteration
        self._estimated = False
        self._loss, self._count = 0.0, 0
        brief = baselines.short_summary(trainer.run.config().get("yardsticks", {}))  # missing in runs of older versions
        self._baselines = f"; {brief}" if brief else ""
        minutes = trainer.settings.max_minutes
        self._by_clock = trainer.iterations is None and minutes is not None
        total = 60 * minutes if self._by_clock and minutes else trainer.iterations
        initial = trainer.state.seconds if self._by_clock else trainer.state.iteration
        style: dict[str, Any] = {"smoothing": 0.05}
        if self._by_clock:
            style = {
                "bar_format": "{percentage:3.0f}%|{bar}| {desc} left{postfix}",
                "desc": duration(60 * (minutes or 0) - initial),
            }
        self._bar = progress(total, "it", quiet, initial=int(initial), **style)

    def iterated(self, row: Mapping[str, float]) -> None:
        """Update the bar, or print a line if one is due."""
        task, loss, iteration = self._trainer.task, row["train_loss"], int(row["iteration"])
        self._count = min(self._count + 1, AVERAGED)  # a mean at first, so that the first losses do not last
        self._loss += (loss - self._loss) / self._count
        speed = f"{row['symbols_per_second']:,.0f} {task.units}/s"
        text = f"loss {self._loss:{DIGITS}} ({task.bits(self._loss):.2f} bits), {speed}"
        if not self._bar.disable:
            self._bar.set_postfix_str(text, refresh=False)
            if self._by_clock:
                elapsed = min(row["elapsed_seconds"], self._bar.total)
                self._bar.set_description_str(duration(self._bar.total - elapsed), refresh=False)
                self._bar.update(elapsed - self._bar.n)
            else:
                self._bar.update()
        now = time.monotonic()
        if not self._estimated and now - self._started > ESTIMATE_AFTER:
            self._estimated = True
            self._print(self._estimate((now - self._started) / (iteration - self._first), iteration))
        by_time = self._bar.disable and not self._print_every and now - self._last_line > LINE_EVERY
        if by_time or (self._print_every and iteration % self._print_every == 0):
            self._last_line = now
            of = "" if self._trainer.iterations is None else f" of {self._trainer.iterations:,}"
            self._print(f"iteration {iteration:,}{of}, epoch {row['epoch']:.2f}: {text}")

    def validating(self, done: int, total: int) -> None:
        """Show the progress of a validation in the bar."""
        if not self._bar.disable:
            self._bar.set_postfix_str(f"validating {100 * done // max(total, 1)} %")

    def checkpointed(self, iteration: int, row: Mapping[str, float] | None) -> None:
        """Print the validation loss of a checkpoint."""
        if row is None:
            self._print(f"iteration {iteration:,}: checkpoint.")
        else:
            bits = f"{row['val_bits']:.3f} bits per {self._trainer.task.unit}{self._baselines}"
            self._print(
                f"iteration {iteration:,}, epoch {row['epoch']:.2f}: "
                f"validation loss {row['val_loss']:#.5g} ({bits}), checkpoint."
            )

    def close(self) -> None:
        """Close the bar."""
        self._bar.close()

    def _estimate(self, seconds: float, iteration: int) -> str:
        trainer = self._trainer
        per_epoch = trainer.batches.row_length // trainer.settings.seq_length
        text = f"about {duration(seconds * per_epoch)} per epoch"
        if self._by_clock or trainer.iterations is None:
            return text + "."
        left = seconds * (trainer.iterations - iteration)
        if trainer.settings.max_minutes:
            left = min(left, 60 * trainer.settings.max_minutes - trainer.state.seconds)
        return f"{text}, {duration(left)} to the end."

    def _print(self, text: str) -> None:
        if self._bar.disable:
            log(text, self._quiet)
        else:
            self._bar.write(text, file=self._bar.fp)


def log_end(trainer: Trainer, interrupted: bool, resumed_at: int | None, quiet: bool) -> None:
    """Print why training ended, and what to do next."""
    path, iteration = shlex.quote(str(trainer.run.path)), trainer.state.iteration
    if trainer.stopped_early:
        log(
            f"ended early after iteration {iteration:,}: "
            f"{trainer.validations_since_best} validations without a new best loss. "
            f"Sample from the best checkpoint with: charrnn-sample {path} --checkpoint best",
            quiet,
        )
    elif interrupted:
        log(
            f"stopped after iteration {iteration:,}; everything is saved. Resume with: charrnn-train --resume {path}",
            quiet,
        )
        if not trainer.finished and _can_calibrate(trainer):
            log(f"To end here, so that the temperature is calibrated, add --max-iterations {iteration}.", quiet)
    else:
        log(f"done after iteration {iteration:,}. Sample from it with: charrnn-sample {path}", quiet)
        best = (trainer.run.best() or {}).get("iteration", iteration)
        if best != iteration:
            log(
                f"the validation loss was lowest at iteration {best:,}. "
                f"Sample from that checkpoint with: charrnn-sample {path} --checkpoint best",
                quiet,
            )
        if iteration == resumed_at:
            log(
                "the limit had already been reached. To continue, give a higher --max-epochs, --max-iterations or "
                "--max-minutes.",
                quiet,
            )


def _can_calibrate(trainer: Trainer) -> bool:
    """Return whether the newest checkpoint would be calibrated if training ended here."""
    from charrnn.training.samples import Calibrator

    return isinstance(trainer.calibrate, Calibrator) and trainer.calibrate.seconds(trainer.state.iteration) > 0


def _network(trainer: Trainer) -> str:
    config = trainer.model.config
    projection = f" projected to {config.proj_size}" if config.proj_size else ""
    normalisation = ", layer normalisation" if config.layer_norm else ""
    return (
        f"{config.cell}, {_count(config.layers, 'layer')} of {config.rnn_size}{projection}{normalisation}, "
        f"{trainer.task.description()}: {trainer.model.number_of_parameters():,} parameters"
    )


def _training(trainer: Trainer, threads: int) -> str:
    settings, size = trainer.settings, trainer.world.size
    per_epoch = trainer.batches.row_length // settings.seq_length
    limits = [] if trainer.iterations is None else [_count(trainer.iterations, "iteration")]
    limits += [f"at most {_count(settings.max_minutes, 'minute')}"] if settings.max_minutes else []
    processes = f" in each of {size} processes" if size > 1 else ""
    return (
        f"{settings.batch_size} rows x {settings.seq_length} steps, {per_epoch:,} iterations per epoch, "
        f"{' or '.join(limits)}; {settings.precision} on {settings.device} with {_count(threads, 'thread')}{processes}"
    )


def _count(number: float, noun: str) -> str:
    text = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{text} {noun}{'s' * (number != 1)}"
