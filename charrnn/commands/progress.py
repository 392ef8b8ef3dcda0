"""Progress of a training on the terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from bytecodec.console import duration, log, progress
from charrnn.data import baselines
from charrnn.training.listener import Listener
from charrnn.training.trainer import Trainer

ESTIMATE_AFTER = 5.0  # seconds of training before the remaining time is estimated
LINE_EVERY = 10.0  # seconds between lines without a terminal
SMOOTHING = 0.98
DIGITS = "#.4g"  # four significant digits, since a mean squared error is a small number


class ProgressDisplay(Listener):
    """Display of a `Trainer`'s progress: a bar on a terminal, otherwise a line every ten seconds or every N iterations.

    Parameters
    ----------
    print_every
        N; 0 for a line every ten seconds.
    """

    def __init__(self, trainer: Trainer, quiet: bool, print_every: int = 0) -> None:
        self._trainer, self._quiet, self._print_every = trainer, quiet, print_every
        self._started = self._last_line = time.monotonic()
        self._first = trainer.state.iteration
        self._estimated = False
        self._loss = 0.0
        brief = baselines.short_summary(trainer.run.config().get("yardsticks", {}))  # missing in runs of older versions
        self._baselines = f"; {brief}" if brief else ""
        minutes = trainer.settings.max_minutes
        self._by_clock = trainer.iterations is None and minutes is not None
        total = 60 * minutes if self._by_clock and minutes else trainer.iterations
        initial = trainer.state.seconds if self._by_clock else trainer.state.iteration
        style: dict[str, Any] = {"smoothing": 0.05}
        if self._by_clock:
            style = {"bar_format": "{percentage:3.0f}%|{bar}| {remaining} left{postfix}", "smoothing": 0}
        self._bar = progress(total, "it", quiet, initial=int(initial), **style)

    def iterated(self, row: Mapping[str, float]) -> None:
        """Update the bar, or print a line if one is due."""
        task, loss, iteration = self._trainer.task, row["train_loss"], int(row["iteration"])
        self._loss = SMOOTHING * self._loss + (1 - SMOOTHING) * loss if self._loss else loss
        speed = f"{row['symbols_per_second']:,.0f} {task.units}/s"
        text = f"loss {self._loss:{DIGITS}} ({task.bits(self._loss):.2f} bits), {speed}"
        if not self._bar.disable:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(row["elapsed_seconds"] - self._bar.n if self._by_clock else 1)
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
        return f"{text}, {duration(seconds * (trainer.iterations - iteration))} to the end."

    def _print(self, text: str) -> None:
        if self._bar.disable:
            log(text, self._quiet)
        else:
            self._bar.write(text, file=self._bar.fp)
