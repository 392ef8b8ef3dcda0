"""What charrnn-train says while it trains."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from bytecodec.console import duration, log, progress
from charrnn.data import baselines
from charrnn.storage.run_dir import is_frames
from charrnn.training.listener import Listener
from charrnn.training.trainer import Trainer

ESTIMATE_AFTER = 5.0  # seconds of training after which the time that is left can be told
LINE_EVERY = 10.0  # seconds between lines where there is no terminal for a bar
SMOOTHING = 0.98
DIGITS = "#.4g"  # four that count, as a mean squared error is a small number


class Narrator(Listener):
    """Follows a `Trainer`: a bar on a terminal, elsewhere a line every ten seconds or every N iterations."""

    def __init__(self, quiet: bool, print_every: int = 0) -> None:
        self.quiet, self.print_every = quiet, print_every

    def begin(self, trainer: Trainer) -> None:
        """Get ready to follow."""
        self._trainer = trainer
        self._began = self._last_line = time.monotonic()
        self._first = trainer.place.iteration
        self._estimated = False
        self._loss = 0.0
        config = trainer.run.config()
        self._counted, self._bits = ("samples", "16-bit sample") if is_frames(config) else ("symbols", "symbol")
        beside = baselines.short_summary(config.get("yardsticks", {}))  # a run of before has none
        self._beside = f"; {beside}" if beside else ""
        minutes = trainer.settings.max_minutes
        self._by_clock = trainer.iterations is None and minutes is not None
        total = 60 * minutes if self._by_clock and minutes else trainer.iterations
        initial = trainer.place.seconds if self._by_clock else trainer.place.iteration
        style: dict[str, Any]
        if self._by_clock:
            style = {"bar_format": "{percentage:3.0f}%|{bar}| {remaining} left{postfix}", "smoothing": 0}
        else:
            style = {"smoothing": 0.05}
        self._bar = progress(total, "it", self.quiet, initial=int(initial), **style)

    def iterated(self, row: Mapping[str, float]) -> None:
        """An iteration is done."""
        loss, iteration = row["train_loss"], int(row["iteration"])
        self._loss = SMOOTHING * self._loss + (1 - SMOOTHING) * loss if self._loss else loss
        bits = self._trainer.bits(self._loss)
        text = f"loss {self._loss:{DIGITS}} ({bits:.2f} bits), {row['symbols_per_second']:,.0f} {self._counted}/s"
        if not self._bar.disable:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(row["elapsed_seconds"] - self._bar.n if self._by_clock else 1)
        now = time.monotonic()
        if not self._estimated and now - self._began > ESTIMATE_AFTER:
            self._estimated = True
            self._line(self._estimate((now - self._began) / (iteration - self._first), iteration))
        by_time = self._bar.disable and not self.print_every and now - self._last_line > LINE_EVERY
        if by_time or (self.print_every and iteration % self.print_every == 0):
            self._last_line = now
            of = "" if self._trainer.iterations is None else f" of {self._trainer.iterations:,}"
            self._line(f"iteration {iteration:,}{of}, epoch {row['epoch']:.2f}: {text}")

    def validating(self, done: int, total: int) -> None:
        """Part of a validation is done."""
        if not self._bar.disable:
            self._bar.set_postfix_str(f"validating {100 * done // max(total, 1)} %")

    def checkpointed(self, iteration: int, row: Mapping[str, float] | None) -> None:
        """A checkpoint is written."""
        if row is None:
            self._line(f"iteration {iteration:,}: checkpoint.")
        else:
            bits = f"{row['val_bits']:.3f} bits a {self._bits}{self._beside}"
            self._line(
                f"iteration {iteration:,}, epoch {row['epoch']:.2f}: "
                f"validation loss {row['val_loss']:#.5g} ({bits}), checkpoint."
            )

    def end(self) -> None:
        """No more to follow."""
        self._bar.close()

    def _estimate(self, seconds: float, iteration: int) -> str:
        trainer = self._trainer
        per_epoch = trainer.batches.row_length // trainer.settings.seq_length
        text = f"about {duration(seconds * per_epoch)} an epoch"
        if self._by_clock or trainer.iterations is None:
            return text + "."
        return f"{text}, {duration(seconds * (trainer.iterations - iteration))} to the end."

    def _line(self, text: str) -> None:
        if self._bar.disable:
            log(text, self.quiet)
        else:
            self._bar.write(text, file=self._bar.fp)
