"""The log of the iterations of a run: rows of log.csv, which wait for the device to compute their losses."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bytecodec.errors import InputError
from charrnn.cuda.backends import Backend
from charrnn.storage.csv_log import LOG_COLUMNS, CsvLog
from charrnn.storage.run_dir import Run
from charrnn.training.distributed import World
from charrnn.training.listener import Listener
from charrnn.training.recipe import Settings
from charrnn.training.state import TrainState

if TYPE_CHECKING:
    from charrnn.training.task import TrainingTask

FLUSH_SECONDS = 1.0  # maximum delay of the log behind the training
MAX_PENDING = 50  # iterations that a GPU may be ahead of the log, since reading an outcome interrupts its work


class IterationLog:
    """The rows of log.csv, and the time that training has taken, which is in its state.

    Only the main process of the world has the file and listeners. A GPU runs ahead of the log: its iterations are
    pending until a block of them is written at once.
    """

    def __init__(
        self,
        task: TrainingTask,
        settings: Settings,
        run: Run,
        state: TrainState,
        listeners: Sequence[Listener],
        world: World,
        backend: Backend,
    ) -> None:
        self._task, self._run, self._state = task, run, state
        self._listeners, self._world, self.backend = listeners, world, backend
        self._symbols = settings.batch_size * settings.seq_length  # per iteration
        self.runs_ahead = world.size == 1 and settings.device != "cpu"
        # Iterations that are not in the log yet: their row so far, and (2,) loss and gradient norm on the device.
        self._pending: list[tuple[dict[str, float], Tensor]] = []
        if world.is_main:
            self.file = CsvLog(run.log_file, LOG_COLUMNS, state.iteration)

    def start(self) -> None:
        """Start the clock."""
        self._flushed = time.monotonic()
        self._started = self._flushed - self._state.seconds

    def begin_iteration(self) -> None:
        """Start the clock of a block of iterations, if none is pending."""
        if not self._pending:
            self._block_started = time.monotonic()

    def add(self, row: dict[str, float], outcome: Tensor) -> None:
        """Add an iteration: a row without what is measured, and (2,) loss and gradient norm on the device."""
        self._pending.append((row, outcome))

    def is_due(self) -> bool:
        """Return whether to wait for the device: after each iteration, unless the device runs ahead of the host."""
        return (
            not self.runs_ahead
            or len(self._pending) >= MAX_PENDING
            or time.monotonic() - self._block_started > FLUSH_SECONDS
        )

    def write(self) -> None:
        """Write the pending rows, which share the time since the first of them began.

        A loss that is not finite is an error, and so is a failure of the GPU's kernel.
        """
        if not self._pending:
            return
        rows, outcomes = zip(*self._pending, strict=True)
        numbers = torch.stack(outcomes).tolist()  # waits for the device
        now, count = time.monotonic(), len(rows)
        seconds = (now - self._block_started) / count  # per iteration
        self._state.seconds = self._world.broadcast(now - self._started)
        for left, row, (loss, norm) in zip(range(count - 1, -1, -1), rows, numbers, strict=True):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise InputError(self._failure_message(loss, row["iteration"]))
            row |= {
                "train_loss": loss,
                "train_bits": self._task.bits(loss),
                "grad_norm": norm,
                "symbols_per_second": self._symbols / seconds,
                "elapsed_seconds": self._state.seconds - left * seconds,
            }
            if self._world.is_main:
                self.file.add(row)
                for listener in self._listeners:
                    listener.iterated(row)
        self._pending.clear()
        if self._world.is_main and now - self._flushed > FLUSH_SECONDS:
            self.file.flush()
            self._flushed = now

    def _failure_message(self, loss: float, iteration: float) -> str:
        if self.backend.failed():
            return (
                f"a barrier of the GPU's kernel timed out at iteration {iteration}. "
                "Run nothing else on it, and resume from the last save: "
                f"charrnn-train --resume {shlex.quote(str(self._run.path))}"
            )
        checkpoints = self._run.checkpoints()
        problem = f"the loss or its gradient is not finite ({loss}) at iteration {iteration}."
        if not checkpoints:
            return f"{problem} Start again with a lower --learning-rate."
        return (
            f"{problem} The last good checkpoint is {checkpoints[-1]}; "
            "start again from it with --init-from and a lower --learning-rate."
        )
